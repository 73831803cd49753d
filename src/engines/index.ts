/**
 * The engines by name. A new engine is one file that makes an EngineDriver, and one line here.
 */
import { RolloutError } from '../errors.ts'
import { show } from '../problems.ts'
import type { DriverFactory } from './driver.ts'
import { createLlamaServerDriver } from './llama-server.ts'
import { createOpenaiDriver } from './openai.ts'
import { createSglangDriver } from './sglang.ts'
import { createVllmDriver } from './vllm.ts'

const ENGINES = {
  sglang: createSglangDriver,
  vllm: createVllmDriver,
  'llama-server': createLlamaServerDriver,
  openai: createOpenaiDriver,
} as const satisfies Record<string, DriverFactory>

/** Name of an engine that the package has a driver for. */
export type EngineName = keyof typeof ENGINES

/** The engines that the package has drivers for. */
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
