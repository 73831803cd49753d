/**
 * A server is frozen with what it has accepted: a request that is still on its way would be held at its door, where nothing ends it.
 */
import { expect, test } from 'vitest'
import type { DriverFactory } from '../../src/index.ts'
import { simulateServer } from '../../src/testing/simulated-fleet.ts'
import { closeSimulation, startSimulation } from '../simulate.ts'

/** Long before the requests are given up, and never. */
test.each([
  [50, 50],
  [1_000_000, 5_000],
])('headers that take %i ms: frozen after %i ms, with no request on its way', async (headersMs, frozenAt) => {
  const simulation = await startSimulation([], { minInstances: 0 })
  const { clock, supervisor } = simulation
  const server = simulateServer(clock, { id: 'a', capacity: 2, chunkTokens: 1 })
  const onTheirWay = new Set<string>()
  let delayMs = 0
  const pauses: object[] = []
  const engine: DriverFactory = (options) => {
    const driver = server.engine(options)
    return {
      ...driver,
      async *generate(request, signal) {
        onTheirWay.add(request.requestId)
        await new Promise<void>((resolve) => {
          const timer = clock.setTimeout(resolve, delayMs)
          const hangUp = (): void => {
            clock.clearTimeout(timer)
            resolve()
          }
          signal.addEventListener('abort', hangUp, { once: true })
        })
        onTheirWay.delete(request.requestId)
        signal.throwIfAborted()
        yield* driver.generate(request, signal)
      },
      async pause(mode, signal) {
        pauses.push({ mode, afterMs: clock.now() - askedAt, onTheirWay: onTheirWay.size })
        await driver.pause!(mode, signal)
      },
    }
  }
  supervisor.add({ id: 'a', url: server.url, engine })
  const first = supervisor.submit({ prompt: [1, 1_000] })
  await clock.advance(100)
  delayMs = headersMs
  const second = supervisor.submit({ prompt: [2, 20] })
  await clock.settle()
  const askedAt = clock.now()
  await clock.run(supervisor.updateWeights({ version: 1, path: '/w/1', mode: 'keep' }))
  expect(pauses).toEqual([{ mode: 'keep', afterMs: frozenAt, onTheirWay: 0 }])
  delayMs = 0
  const groups = await clock.run(Promise.all([first.result, second.result]))
  expect(groups.map(({ complete }) => complete)).toEqual([true, true])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('what stands still never ends: an update that drains aborts it, and it goes on from its tokens (decision 3)', async () => {
  const simulation = await startSimulation([{ capacity: 2 }])
  const { clock, supervisor } = simulation
  const rollout = supervisor.submit({ prompt: [1, 100], samples: 2 })
  await clock.advance(200)
  await clock.run(supervisor.pause({ mode: 'keep' }))
  const report = await clock.run(
    supervisor.updateWeights({ version: 1, path: '/w/1', mode: 'drain', timeoutMs: 10_000 }),
  )
  expect(report).toMatchObject({ interrupted: 2, wastedTokens: 0, instances: [{ ok: true, mode: 'abort' }] })
  expect(report.resumedTokens).toBeGreaterThan(0)
  await clock.run(supervisor.resume())
  const { complete, completions } = await clock.run(rollout.result)
  expect(complete).toBe(true)
  for (const { versions } of completions) expect(versions.map(({ version }) => version)).toEqual([null, 1])
  expect(await closeSimulation(simulation)).toBe(0)
})
