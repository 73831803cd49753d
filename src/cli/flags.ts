/**
 * Reads the flags of a command with node:util, checks them all, and says for every bad one what is allowed.
 * The same check serves values from elsewhere (settings.ts): the environment and the config file.
 */
import { parseArgs } from 'node:util'
import { UsageError } from './io.ts'

/** A number flag has bounds, a word flag a list or none; a list may be given many times; a duration is read as milliseconds. */
export type Flag =
  | {
      readonly type: 'number'
      readonly min: number
      readonly max: number
      readonly whole: boolean
      readonly about: string
    }
  | { readonly type: 'word' | 'list'; readonly allowed?: readonly string[]; readonly about: string }
  | { readonly type: 'duration'; readonly about: string }
  | { readonly type: 'switch'; readonly about: string }

export type Flags = Readonly<Record<string, Flag>>

export type FlagValue = number | string | boolean | readonly string[]

export interface FlagValues {
  /** Of a duration: milliseconds. */
  number(name: string): number | null
  word(name: string): string | null
  list(name: string): readonly string[]
  on(name: string): boolean
}

/** @throws UsageError that names every problem */
export function readFlags(flags: Flags, args: readonly string[]): FlagValues {
  const { values } = parseFlags(flags, args, false)
  const checked = new Map<string, FlagValue>()
  const problems: string[] = []
  for (const [name, given] of values) {
    const value = checkFlag(flags[name]!, given)
    if (value === null) problems.push(flagProblem(`--${name}`, flags[name]!, given))
    else checked.set(name, value)
  }
  if (problems.length > 0) throw new UsageError(problems.join('\n  '))
  return flagValues(checked)
}

export function flagValues(values: ReadonlyMap<string, FlagValue>): FlagValues {
  const get = <T extends FlagValue>(name: string, fits: (value: FlagValue) => value is T): T | null => {
    const value = values.get(name)
    return value !== undefined && fits(value) ? value : null
  }
  return {
    number: (name) => get(name, (value) => typeof value === 'number'),
    word: (name) => get(name, (value) => typeof value === 'string'),
    list: (name) => get(name, (value): value is readonly string[] => Array.isArray(value)) ?? [],
    on: (name) => values.get(name) === true,
  }
}

/** What the command line says, not checked yet; operands are the arguments that belong to no flag. */
export function parseFlags(
  flags: Flags,
  args: readonly string[],
  allowPositionals: boolean,
): { readonly values: ReadonlyMap<string, unknown>; readonly operands: readonly string[] } {
  const options = Object.fromEntries(
    Object.entries(flags).map(([name, { type }]) => [
      name,
      { type: type === 'switch' ? ('boolean' as const) : ('string' as const), multiple: type === 'list' },
    ]),
  )
  try {
    const joined = joinNegatives(flags, args)
    const { values, positionals } = parseArgs({ args: joined, options, strict: true, allowPositionals })
    return { values: new Map(Object.entries(values)), operands: positionals }
  } catch (error) {
    const words = error instanceof Error ? error.message.split('. ')[0]!.split('\n')[0]! : String(error)
    const allowed = Object.keys(flags).map((name) => `--${name}`)
    throw new UsageError(`${words}; allowed: ${allowed.join(' ')}`)
  }
}

/** `--top-k -1` as `--top-k=-1`: parseArgs would take the number for flags of one letter. */
function joinNegatives(flags: Flags, args: readonly string[]): string[] {
  const joined: string[] = []
  for (const arg of args) {
    const before = joined.at(-1) ?? ''
    if (/^-[\d.]/.test(arg) && flags[before.slice(2)]?.type === 'number') joined[joined.length - 1] = `${before}=${arg}`
    else joined.push(arg)
  }
  return joined
}

/** The value as its flag wants it, or null. Numbers and switches may come as text, as the command line and the environment have them. */
export function checkFlag(flag: Flag, given: unknown): FlagValue | null {
  switch (flag.type) {
    case 'number': {
      const number = numberOf(given)
      return number >= flag.min && number <= flag.max && (!flag.whole || Number.isInteger(number)) ? number : null
    }
    case 'duration':
      return durationOf(given)
    case 'word':
      return isWord(given, flag.allowed) ? given : null
    case 'list': {
      const list: unknown[] = Array.isArray(given) ? given : [given]
      return list.length > 0 && list.every((each) => isWord(each, flag.allowed)) ? (list as string[]) : null
    }
    case 'switch':
      return SWITCH.get(given) ?? null
  }
}

/** What is wrong with a value that checkFlag refused. `where` names the flag, the variable or the key. */
export function flagProblem(where: string, flag: Flag, given: unknown): string {
  return `${where}: expected ${describe(flag)}, found ${JSON.stringify(given)}`
}

/** The lines of `--help`. */
export function flagHelp(flags: Flags): string {
  const rows = Object.entries(flags).map(([name, flag]) => {
    const value = { number: ' <n>', duration: ' <t>', word: ' <s>', list: ' <s>', switch: '' }[flag.type]
    return [`  --${name}${value}`, flag.about] as const
  })
  const width = Math.max(...rows.map(([left]) => left.length)) + 3
  return rows.map(([left, about]) => `${left.padEnd(width)}${about}`).join('\n')
}

const SWITCH: ReadonlyMap<unknown, boolean> = new Map<unknown, boolean>([
  [true, true],
  ['true', true],
  ['1', true],
  [false, false],
  ['false', false],
  ['0', false],
])

const UNITS = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 } as const
/** Node's timers keep at most 2^31 - 1 ms: 24 days. */
const LONGEST_MS = 2 ** 31 - 1

function durationOf(given: unknown): number | null {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h)?$/.exec(String(given).trim())
  if (match === null) return null
  const ms = Number(match[1]) * UNITS[(match[2] ?? 's') as keyof typeof UNITS]
  return ms > 0 && ms <= LONGEST_MS ? ms : null
}

function numberOf(given: unknown): number {
  if (typeof given === 'number') return given
  return typeof given === 'string' && given.trim() !== '' ? Number(given) : Number.NaN
}

function isWord(given: unknown, allowed: readonly string[] | undefined): given is string {
  return typeof given === 'string' && given !== '' && (allowed === undefined || allowed.includes(given))
}

function describe(flag: Flag): string {
  switch (flag.type) {
    case 'number':
      return `${flag.whole ? 'a whole number' : 'a number'} from ${flag.min} to ${flag.max}`
    case 'duration':
      return 'a time above 0 such as 500ms, 10s or 2m'
    case 'word':
    case 'list':
      return flag.allowed ? `one of ${flag.allowed.join(', ')}` : 'something that is not empty'
    case 'switch':
      return 'true or false'
  }
}
