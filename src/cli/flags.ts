/**
 * Reads the flags of a command with node:util, checks them all, and says for every bad one what is allowed.
 */
import { parseArgs } from 'node:util'
import { UsageError } from './io.ts'

/** A number flag has bounds, a word flag a list or none, a switch neither. */
export type Flag =
  | {
      readonly type: 'number'
      readonly min: number
      readonly max: number
      readonly whole: boolean
      readonly about: string
    }
  | { readonly type: 'word'; readonly allowed?: readonly string[]; readonly about: string }
  | { readonly type: 'switch'; readonly about: string }

export type Flags = Readonly<Record<string, Flag>>

export interface FlagValues {
  number(name: string): number | null
  word(name: string): string | null
  on(name: string): boolean
}

/** @throws UsageError that names every problem */
export function readFlags(flags: Flags, args: readonly string[]): FlagValues {
  const values = parse(flags, args)
  const numbers = new Map<string, number>()
  const problems: string[] = []
  for (const [name, flag] of Object.entries(flags)) {
    const given = values[name]
    if (typeof given !== 'string') continue
    if (flag.type === 'number') {
      const number = given.trim() === '' ? Number.NaN : Number(given)
      const fits = number >= flag.min && number <= flag.max && (!flag.whole || Number.isInteger(number))
      if (fits) numbers.set(name, number)
      else problems.push(`--${name}: expected ${describe(flag)}, found ${JSON.stringify(given)}`)
    } else if (flag.type === 'word' && (given === '' || (flag.allowed && !flag.allowed.includes(given)))) {
      problems.push(`--${name}: expected ${describe(flag)}, found ${JSON.stringify(given)}`)
    }
  }
  if (problems.length > 0) throw new UsageError(problems.join('\n  '))
  return {
    number: (name) => numbers.get(name) ?? null,
    word: (name) => (typeof values[name] === 'string' ? values[name] : null),
    on: (name) => values[name] === true,
  }
}

/** The lines of `--help`. */
export function flagHelp(flags: Flags): string {
  const rows = Object.entries(flags).map(([name, flag]) => {
    const value = flag.type === 'switch' ? '' : flag.type === 'number' ? ' <n>' : ' <s>'
    return [`  --${name}${value}`, flag.about] as const
  })
  const width = Math.max(...rows.map(([left]) => left.length)) + 3
  return rows.map(([left, about]) => `${left.padEnd(width)}${about}`).join('\n')
}

function parse(flags: Flags, args: readonly string[]): Record<string, string | boolean | undefined> {
  const options = Object.fromEntries(
    Object.entries(flags).map(([name, flag]) => [
      name,
      { type: flag.type === 'switch' ? ('boolean' as const) : ('string' as const) },
    ]),
  )
  try {
    return parseArgs({ args: [...args], options, strict: true, allowPositionals: false }).values as Record<
      string,
      string | boolean | undefined
    >
  } catch (error) {
    const words = error instanceof Error ? error.message.split('. ')[0]!.split('\n')[0]! : String(error)
    const allowed = Object.keys(flags).map((name) => `--${name}`)
    throw new UsageError(`${words}; allowed: ${allowed.join(' ')}`)
  }
}

function describe(flag: Flag): string {
  if (flag.type === 'number') return `${flag.whole ? 'a whole number' : 'a number'} from ${flag.min} to ${flag.max}`
  if (flag.type === 'word') return flag.allowed ? `one of ${flag.allowed.join(', ')}` : 'something that is not empty'
  return 'no value'
}
