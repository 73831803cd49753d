/**
 * Small checks of single values that report instead of throwing. Each returns the value, or the fallback where nothing was given
 * or the value cannot be used (the report then makes the whole input fail). checkCall gathers the reports of one call.
 */
import { RolloutError } from './errors.ts'
import { isRecord, type Problem, problemList, type Report, rejectUnknownKeys, show } from './problems.ts'

export interface Range {
  readonly min?: number
  readonly max?: number
  /** The minimum itself is not allowed. */
  readonly exclusive?: boolean
}

function describe(kind: string, { min, max, exclusive }: Range): string {
  if (min !== undefined && max !== undefined)
    return `${kind} ${exclusive === true ? 'above' : 'from'} ${min}${exclusive === true ? ' and at most' : ' to'} ${max}`
  if (min !== undefined) return `${kind} ${exclusive === true ? 'above' : 'of at least'} ${min}`
  if (max !== undefined) return `${kind} of at most ${max}`
  return kind
}

function inRange(value: number, { min, max, exclusive }: Range): boolean {
  if (min !== undefined && (exclusive === true ? value <= min : value < min)) return false
  return max === undefined || value <= max
}

export function checkInteger<T>(report: Report, path: string, value: unknown, range: Range, fallback: T): number | T {
  if (value === undefined) return fallback
  if (typeof value === 'number' && Number.isSafeInteger(value) && inRange(value, range)) return value
  report(path, describe('an integer', range), show(value))
  return fallback
}

export function checkNumber<T>(report: Report, path: string, value: unknown, range: Range, fallback: T): number | T {
  if (value === undefined) return fallback
  if (typeof value === 'number' && Number.isFinite(value) && inRange(value, range)) return value
  report(path, describe('a number', range), show(value))
  return fallback
}

export function checkBoolean(report: Report, path: string, value: unknown, fallback: boolean): boolean {
  if (value === undefined) return fallback
  if (typeof value === 'boolean') return value
  report(path, 'true or false', show(value))
  return fallback
}

export function checkOneOf<T extends string>(
  report: Report,
  path: string,
  value: unknown,
  known: readonly T[],
  fallback: T,
): T {
  if (value === undefined) return fallback
  if (known.includes(value as T)) return value as T
  report(path, `one of ${known.map((name) => `'${name}'`).join(', ')}`, show(value))
  return fallback
}

export function checkString<T>(report: Report, path: string, value: unknown, fallback: T): string | T {
  if (value === undefined) return fallback
  if (typeof value === 'string' && value !== '') return value
  report(path, 'a string that is not empty', show(value))
  return fallback
}

export function checkFunction<T>(report: Report, path: string, value: T | undefined): T | undefined {
  if (value === undefined || typeof value === 'function') return value
  report(path, 'a function', show(value))
  return undefined
}

export function checkSignal(report: Report, signal: unknown): AbortSignal | undefined {
  if (signal === undefined || signal instanceof AbortSignal) return signal
  report('signal', 'an AbortSignal', show(signal))
  return undefined
}

/**
 * Reads the options of one call, whole.
 * @throws RolloutError INVALID_OPTIONS that lists every problem
 */
export function checkCall<T>(
  method: string,
  keys: readonly string[],
  options: unknown,
  read: (report: Report) => T,
): T {
  const problems: Problem[] = []
  const report: Report = (path, expected, found) => problems.push({ path, expected, found: String(found) })
  let value: T | undefined
  if (isRecord(options)) {
    rejectUnknownKeys(options, keys, '', report)
    value = read(report)
  } else {
    report('options', 'an object', show(options))
  }
  if (problems.length > 0)
    throw new RolloutError('INVALID_OPTIONS', `${method} cannot use these options:\n${problemList(problems)}`, {
      problems,
    })
  return value as T
}
