/**
 * The engines by name. A new engine is one file that makes an EngineDriver, and one line here.
 */
import { RolloutError } from '../errors.ts'
import { show } from '../problems.ts'
import type { DriverFactory } from './driver.ts'
import { createSglangDriver } from './sglang.ts'

const ENGINES = {
  sglang: createSglangDriver,
} as const satisfies Record<string, DriverFactory>

export type EngineName = keyof typeof ENGINES

export const engineNames = Object.keys(ENGINES) as readonly EngineName[]

/** Throws INVALID_OPTIONS for a name that is not one of `engineNames`. */
export function engineFactory(name: string): DriverFactory {
  const known = engineNames.find((engine) => engine === name)
  if (known !== undefined) return ENGINES[known]
  const expected = `one of ${engineNames.join(', ')}`
  throw new RolloutError('INVALID_OPTIONS', `engine: expected ${expected}, found ${show(name)}`, {
    problems: [{ path: 'engine', expected, found: show(name) }],
  })
}
