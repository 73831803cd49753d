/**
 * Deadlines count only time in which something could move (decision 18): none while the gate is closed, and none for rollouts while readers are
 * too far behind.
 */
import { expect, test } from 'vitest'
import { closeSimulation, simulate, startSimulation } from '../simulate.ts'

test('waitMs stands still while the run is paused, and goes on where it was', async () => {
  const simulation = await startSimulation([{ capacity: 1 }], { timeouts: { waitMs: 100 } })
  const { clock, supervisor } = simulation
  const long = supervisor.submit({ prompt: [1, 1_000], sampling: { maxTokens: 1_000 } })
  const waiting = supervisor.submit({ prompt: [2, 5] })
  await clock.advance(60)
  await Promise.allSettled([clock.run(supervisor.pause({ timeoutMs: 5_000 }))])
  expect(supervisor.getSnapshot().waiting.phase).toBe(1)
  await supervisor.resume()
  const resumedAt = clock.now()
  const { completions } = await clock.run(waiting.result)
  expect([completions[0]!.error!.code, clock.now() - resumedAt]).toEqual(['WAIT_TIMEOUT', 40])
  long.cancel()
  expect(await closeSimulation(simulation)).toBe(0)
})

test('waitMs begins with the start of the run', async () => {
  const simulation = simulate([{ capacity: 1 }], { timeouts: { waitMs: 100 } })
  const { clock, supervisor } = simulation
  const rollout = supervisor.submit({ prompt: [1, 5] })
  await clock.advance(1_000)
  await clock.run(supervisor.start())
  expect((await clock.run(rollout.result)).complete).toBe(true)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('back-pressure stops the deadline of new rollouts, not that of evaluations', async () => {
  const simulation = await startSimulation([{ capacity: 1 }], { timeouts: { waitMs: 100 } })
  const { clock, supervisor } = simulation
  const reader = supervisor.completions({ highWaterMark: 1 })
  const first = reader.next()
  // One is read, one fills the reader; the third is held back.
  for (const key of [1, 2]) await clock.run(supervisor.submit({ prompt: [key, 5] }).result)
  await first
  const held = supervisor.submit({ prompt: [3, 5] })
  const [long, evaluation] = [4, 5].map((key) => supervisor.submit({ prompt: [key, 500], kind: 'evaluation' }))
  expect([...held.waitingFor.values()]).toEqual(['backPressure'])
  await clock.advance(1_000)
  expect((await evaluation!.result).completions[0]).toMatchObject({ error: { code: 'WAIT_TIMEOUT' } })
  expect([...held.waitingFor.values()]).toEqual(['backPressure'])
  await clock.run(long!.result)
  await reader.next()
  expect((await clock.run(held.result)).complete).toBe(true)
  await reader.return!()
  expect(await closeSimulation(simulation)).toBe(0)
})

test.each([
  ['firstTokenMs', { firstTokenMs: 100 }, 0],
  ['progressMs', { progressMs: 100 }, 25],
  ['totalMs', { totalMs: 125 }, 25],
] as const)('%s of a running attempt stands still while the gate is closed', async (_, timeouts, movesMs) => {
  const simulation = await startSimulation([{ capacity: 1, chunkTokens: 1 }], { timeouts, retry: { attempts: 1 } })
  const { clock, supervisor, servers } = simulation
  if (movesMs === 0) servers[0]!.freeze()
  const rollout = supervisor.submit({ prompt: [1, 500], sampling: { maxTokens: 500 } })
  await clock.advance(movesMs)
  servers[0]!.freeze()
  await clock.advance(60)
  await Promise.allSettled([clock.run(supervisor.pause({ timeoutMs: 5_000 }))])
  const frozenFor = clock.now()
  expect(supervisor.getSnapshot().conservation.running).toBe(1)
  await supervisor.resume()
  await clock.run(new Promise<void>((resolve) => void clock.setTimeout(resolve, 30)))
  expect(supervisor.getSnapshot().conservation.ended.failed).toBe(0)
  rollout.cancel()
  const { completions } = await clock.run(rollout.result)
  const [only, ...others] = completions[0]!.segments
  expect([only!.reason, only!.endedAt - frozenFor, others]).toEqual(['cancelled', 30, []])
  expect(await closeSimulation(simulation)).toBe(0)
})
