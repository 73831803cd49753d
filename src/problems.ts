/**
 * Collects every problem of an input before anything is built from it, so that one error names them all:
 * where (path), what was expected, what was found.
 */
export interface Problem {
  readonly path: string
  readonly expected: string
  readonly found: string
}

export type Report = (path: string, expected: string, found: unknown) => void

/** Short, safe rendering of a found value: never the whole of a long prompt. */
export function show(value: unknown): string {
  if (value === undefined) return 'nothing'
  if (value === null) return 'null'
  if (typeof value === 'string')
    return value.length > 60 ? `${JSON.stringify(value.slice(0, 57))}… (string)` : `${JSON.stringify(value)} (string)`
  if (typeof value === 'number' || typeof value === 'boolean' || typeof value === 'bigint')
    return `${value} (${typeof value})`
  if (Array.isArray(value)) return `an array of ${value.length}`
  if (typeof value === 'function') return 'a function'
  if (typeof value === 'symbol') return 'a symbol'
  const kind = Object.prototype.toString.call(value).slice('[object '.length, -1)
  return kind === 'Object' ? 'an object' : `an object (${kind})`
}

export function problemList(problems: readonly Problem[]): string {
  return problems.map((p) => `  ${p.path}: expected ${p.expected}, found ${p.found}`).join('\n')
}

/** Names of the keys of `value` that are not in `known`, reported one by one. */
export function rejectUnknownKeys(value: object, known: readonly string[], path: string, report: Report): void {
  for (const key of Object.keys(value)) {
    if (!known.includes(key))
      report(path === '' ? key : `${path}.${key}`, `one of ${known.join(', ')}`, `an unknown key`)
  }
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
