/**
 * The settings of a command in layers: flags over environment variables (ROLLOUT_SUPERVISOR_MAX_TOKENS is --max-tokens) over the
 * file that --config names (JSON, `maxTokens`). Everything wrong in any layer is found before the command does anything.
 */
import { readFileSync } from 'node:fs'
import {
  checkFlag,
  type Flag,
  type Flags,
  type FlagValue,
  type FlagValues,
  flagProblem,
  flagValues,
  parseFlags,
} from './flags.ts'
import { type Io, UsageError } from './io.ts'

export interface Settings extends FlagValues {
  /** Arguments that belong to no flag. */
  readonly operands: readonly string[]
  /** The part of the config file that is no flag, as it is written there. */
  readonly config: Readonly<Record<string, unknown>>
  /** Whether the command line or the environment, and not only the config file, say something of this flag. */
  overrides(name: string): boolean
}

export interface SettingsRules {
  /** Keys of the config file that are no flags; their values are checked by whoever uses them. */
  readonly otherKeys: readonly string[]
  /** Flags of other commands, which the same file may have settings for. */
  readonly otherFlags?: Flags
  /** What is wrong with settings that are each right by themselves; said together with all else. Not asked beside --help. */
  readonly problems: (settings: Settings) => readonly string[]
}

/** On the command line only: they are about this one call. */
const NOT_LAYERED: ReadonlySet<string> = new Set(['help', 'config'])

/** @throws UsageError that names every problem of every layer */
export function readSettings(
  flags: Flags,
  args: readonly string[],
  env: Io['env'],
  { otherKeys, otherFlags = {}, problems: further }: SettingsRules,
): Settings {
  const { values: given, operands } = parseFlags(flags, args, true)
  const problems: string[] = []
  const values = new Map<string, FlagValue>()
  const overridden = new Set<string>()
  const take = (name: string, flag: Flag, raw: unknown, where: string): void => {
    const value = checkFlag(flag, raw)
    if (value === null) problems.push(flagProblem(where, flag, raw))
    else values.set(name, value)
  }
  const path = given.get('config') ?? textOf(env.ROLLOUT_SUPERVISOR_CONFIG)
  const config = typeof path === 'string' && given.get('help') !== true ? readConfig(path, problems) : {}
  for (const [name, flag] of Object.entries(flags)) {
    if (NOT_LAYERED.has(name)) continue
    const key = camelCase(name)
    if (Object.hasOwn(config, key)) take(name, flag, config[key], `${String(path)}: ${key}`)
    const variable = `ROLLOUT_SUPERVISOR_${name.toUpperCase().replaceAll('-', '_')}`
    const text = textOf(env[variable])
    if (text !== undefined) take(name, flag, flag.type === 'list' ? listOf(text) : text, variable)
    if (text !== undefined || given.has(name)) overridden.add(name)
  }
  for (const [name, raw] of given) take(name, flags[name]!, raw, `--${name}`)
  const layered = Object.keys({ ...flags, ...otherFlags }).filter((name) => !NOT_LAYERED.has(name))
  const known = [...layered.map(camelCase), ...otherKeys]
  for (const key of Object.keys(config)) {
    if (!known.includes(key)) problems.push(`${String(path)}: ${key}: expected one of ${known.join(', ')}`)
  }
  const settings: Settings = {
    ...flagValues(values),
    operands,
    config: Object.fromEntries(Object.entries(config).filter(([key]) => otherKeys.includes(key))),
    overrides: (name) => overridden.has(name),
  }
  if (!settings.on('help')) problems.push(...further(settings))
  if (problems.length > 0) throw new UsageError(problems.join('\n  '))
  return settings
}

/** A variable that is set to nothing is not set. */
function textOf(value: string | undefined): string | undefined {
  return value === undefined || value.trim() === '' ? undefined : value.trim()
}

/** A JSON array, or words between commas or spaces. */
function listOf(text: string): unknown {
  try {
    return text.startsWith('[') ? JSON.parse(text) : text.split(/[\s,]+/)
  } catch {
    return text
  }
}

function readConfig(path: string, problems: string[]): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(readFileSync(path, 'utf8').replace(/^\ufeff/, ''))
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>
    problems.push(
      `--config ${path}: expected a JSON object, found ${Array.isArray(value) ? 'an array' : String(value)}`,
    )
  } catch (error) {
    const found = error instanceof Error ? error.message : String(error)
    problems.push(`--config ${path}: expected a file with a JSON object, found: ${found}`)
  }
  return {}
}

function camelCase(name: string): string {
  return name.replace(/-(\w)/g, (_, letter: string) => letter.toUpperCase())
}
