/**
 * A simulated server and a client of its driver, for the tests of this folder.
 */
import type { Chunk, GenerateRequest } from '../../src/index.ts'
import { checkTask } from '../../src/rollout/check-task.ts'
import { logprobOf, type SimulatedServerOptions, simulateServer, tokenOf } from '../../src/testing/simulated-fleet.ts'
import { createVirtualClock } from '../../src/testing/virtual-clock.ts'

export function setup(options: Omit<SimulatedServerOptions, 'id'> = {}) {
  const clock = createVirtualClock()
  const server = simulateServer(clock, { id: 'a', ...options })
  const driver = server.engine({ id: 'a', url: server.url, apiKey: undefined, clock })
  let last = 0
  function generate(prompt: readonly number[], maxTokens = 1_000) {
    const { sampling } = checkTask({ prompt, sampling: { maxTokens } }, null)
    const request: GenerateRequest = { requestId: `r${++last}`, prompt, sampling }
    const controller = new AbortController()
    const chunks: (Chunk & { at: number })[] = []
    const ended = (async () => {
      for await (const chunk of driver.generate(request, controller.signal)) chunks.push({ ...chunk, at: clock.now() })
    })().catch((error: Error) => error.message)
    return {
      id: request.requestId,
      chunks,
      ended,
      controller,
      tokens: () => chunks.flatMap(({ tokenIds }) => tokenIds),
      logprobs: () => chunks.flatMap(({ logprobs }) => logprobs),
    }
  }
  return { clock, server, driver, generate }
}
/** The tokens of a key. */
export const expected = (key: number, from: number, until: number): number[] =>
  Array.from({ length: until - from }, (_, index) => tokenOf(key, from + index))

/** What tokens sampled under a version alone have. */
export const under = (version: number | null, from: number, until: number): number[] =>
  Array.from({ length: until - from }, (_, index) => logprobOf(version, from + index))
