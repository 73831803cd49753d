/**
 * Evaluations, weight updates and pauses as promised (F2, F8-F10, R3, R5, R10, D7, D13), on simulated servers whose every token shows by its
 * log-probability which weights it was computed under.
 */
import { expect, test } from 'vitest'
import type { Completion } from '../../src/index.ts'
import { logprobOf } from '../../src/testing/simulated-fleet.ts'
import { closeSimulation, type Simulation, startSimulation } from '../simulate.ts'

/** Every token was sampled from the version that it is stamped with. */
function expectTrue({ logprobs, versions, tokenIds }: Completion): void {
  expect(versions.at(-1)?.end).toBe(tokenIds.length)
  for (const { version, start, end } of versions)
    for (let at = start; at < end; at++) expect(logprobs[at]).toBe(logprobOf(version, at))
}

const phasesOf = ({ supervisor }: Simulation): string[] => {
  const phases: string[] = []
  supervisor.events$.subscribe((event) => event.type === 'run.phase' && phases.push(event.phase))
  return phases
}

test('F2, R5: the gate closes, then requests are aborted, the server counts none, is paused, loaded, read back and opened', async () => {
  const simulation = await startSimulation([{ capacity: 2 }])
  const { clock, supervisor, server } = simulation
  const rollout = supervisor.submit({ prompt: [1, 60], samples: 3 })
  await clock.advance(105)
  const report = await clock.run(supervisor.updateWeights({ version: 1, path: '/w/1' }))
  expect(server('a').calls).toEqual(['pause abort', 'updateWeights 1', 'resume'])
  expect(report).toMatchObject({ version: 1, interrupted: 2, resumedTokens: 20, wastedTokens: 0 })
  expect(report.instances).toMatchObject([{ id: 'a', ok: true, step: null, error: null, mode: 'abort' }])
  const { completions } = await clock.run(rollout.result)
  for (const completion of completions) expectTrue(completion)
  expect(completions.map(({ versions }) => versions.map(({ version, end }) => [version, end]))).toEqual([
    [
      [null, 10],
      [1, 60],
    ],
    [
      [null, 10],
      [1, 60],
    ],
    [[1, 60]],
  ])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('R3, F8, F9: keep freezes requests and computes them anew; nothing is aborted, and tokens are stamped by when they were sampled', async () => {
  const simulation = await startSimulation([
    { capacity: 2, chunkTokens: 7 },
    { capacity: 2, capabilities: { versions: 'label' } },
  ])
  const { clock, supervisor, server } = simulation
  const rollout = supervisor.submit({ prompt: [1, 60], samples: 4 })
  await clock.advance(105)
  const report = await clock.run(supervisor.updateWeights({ version: 1, mode: 'keep', path: '/w/1' }))
  expect(report.instances.map(({ id, ok, mode }) => [id, ok, mode])).toEqual([
    ['a', true, 'keep'],
    // It does not say which token is of which version: aborted, and exact all the same.
    ['b', true, 'abort'],
  ])
  expect(server('a').calls).toEqual(['pause keep', 'updateWeights 1', 'resume'])
  const { completions } = await clock.run(rollout.result)
  for (const completion of completions) expectTrue(completion)
  const kept = completions.filter(({ segments }) => segments.length === 1)
  expect(kept.map(({ versions }) => versions.map(({ version, end }) => [version, end]))).toEqual(
    kept.map(() => [
      [null, 10],
      [1, 60],
    ]),
  )
  expect(kept.map(({ segments }) => segments[0]!.instance)).toEqual(['a', 'a'])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('F8: a stream that breaks after a kept update, before it could say, is split by arrival and marked as mixed', async () => {
  const simulation = await startSimulation([{ capacity: 1, chunkTokens: 1 }, { capacity: 1 }])
  const { clock, supervisor, server } = simulation
  const rollout = supervisor.submit({ prompt: [1, 60] })
  await clock.advance(105)
  await clock.run(supervisor.updateWeights({ version: 1, mode: 'keep', path: '/w/1' }))
  await clock.advance(105)
  server('a').die()
  const [completion] = (await clock.run(rollout.result)).completions
  expect(completion!.versions).toEqual([
    { version: null, start: 0, end: 10 },
    { version: 1, start: 10, end: 20, mixed: true },
    { version: 1, start: 20, end: 60 },
  ])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('R10: a failed update that changed the weights leaves its instance stale, whatever it says of them', async () => {
  const simulation = await startSimulation([{ capacity: 1 }, { capacity: 1 }])
  const { clock, supervisor, server } = simulation
  server('b').fail('updateWeights', 'failAfter')
  const report = await clock.run(supervisor.updateWeights({ version: 1, path: '/w/1' }))
  expect(report.instances[1]).toMatchObject({ id: 'b', ok: false, step: 'apply' })
  expect([server('b').weightVersion, server('b').paused]).toEqual(['default', null])
  expect(supervisor.getSnapshot().instances[1]!.state).toBe('stale')
  const { completions } = await clock.run(supervisor.submit({ prompt: [1, 5], samples: 4 }).result)
  for (const completion of completions) expectTrue(completion)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('R10: also where no instance has the new weights, and all still say the version that the fleet keeps', async () => {
  const simulation = await startSimulation([{ capacity: 2, chunkTokens: 1 }])
  const { clock, supervisor, server } = simulation
  await clock.run(supervisor.updateWeights({ version: 1, path: '/w/1' }))
  const rollout = supervisor.submit({ prompt: [1, 50], samples: 2 })
  await clock.advance(105)
  server('a').fail('updateWeights', 'failAfter')
  const update = supervisor.updateWeights({ version: 2, path: '/w/2' })
  await expect(clock.run(update)).rejects.toMatchObject({ code: 'UPDATE_FAILED' })
  expect([supervisor.version, server('a').weightVersion, server('a').paused]).toEqual([1, '1', null])
  expect(supervisor.getSnapshot().instances[0]!.state).toBe('stale')
  for (const completion of (await clock.run(rollout.result)).completions) {
    expect(completion.versions).toEqual([{ version: 1, start: 0, end: 50 }])
    expectTrue(completion)
  }
  expect(
    server('a')
      .calls.filter((call) => call.startsWith('update'))
      .at(-1),
  ).toBe('updateWeights 1')
  expect(await closeSimulation(simulation)).toBe(0)
})

test('rolling: the others serve on with the version that they have, and every token says which', async () => {
  const simulation = await startSimulation(Array.from({ length: 3 }, () => ({ capacity: 2, loadMs: 200 })))
  const { clock, supervisor, servers } = simulation
  const rollout = supervisor.submit({ prompt: [1, 40], samples: 24 })
  await clock.advance(105)
  const update = supervisor.updateWeights({ version: 1, path: '/w/1', rolling: 1 })
  await clock.advance(100)
  expect(servers.filter(({ paused }) => paused !== null)).toHaveLength(1)
  expect(servers.filter(({ running }) => running === 2)).toHaveLength(2)
  expect(supervisor.getSnapshot().phase).toBe('weightUpdate')
  expect((await clock.run(update)).instances.map(({ ok }) => ok)).toEqual([true, true, true])
  for (const completion of (await clock.run(rollout.result)).completions) expectTrue(completion)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('D7, decision 10: an evaluation takes free slots first, then those of the cheapest rollouts, just as many as it needs', async () => {
  const simulation = await startSimulation([
    { capacity: 4, chunkTokens: 1 },
    { capacity: 4, chunkTokens: 1 },
  ])
  const { clock, supervisor, servers } = simulation
  const phases = phasesOf(simulation)
  const long = supervisor.submit({ prompt: [1, 200], samples: 4 })
  await clock.advance(300)
  const short = supervisor.submit({ prompt: [2, 100], samples: 3 })
  await clock.advance(100)
  const evaluation = supervisor.evaluate([{ id: 'e', prompt: [3, 20], samples: 3 }])
  await clock.advance(5)
  expect(supervisor.getSnapshot().conservation).toMatchObject({ running: 8, waiting: 2 })
  const [group] = await clock.run(evaluation)
  expect(group).toMatchObject({ taskId: 'e', kind: 'evaluation', complete: true })
  const reasons = async (rollout: typeof long): Promise<number> =>
    (await clock.run(rollout.result)).completions.filter(({ segments }) => segments.length > 1).length
  expect([await reasons(long), await reasons(short)]).toEqual([0, 2])
  expect(Math.max(...servers.map(({ maxRunning }) => maxRunning))).toBe(4)
  expect(phases).toEqual(['evaluation', 'rollout'])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('of rollouts that cost alike, each server gives up as many', async () => {
  const simulation = await startSimulation([1, 2, 3, 4].map(() => ({ capacity: 4, chunkTokens: 1 })))
  const { clock, supervisor } = simulation
  const rollout = supervisor.submit({ prompt: [1, 60], samples: 16 })
  await clock.advance(105)
  await clock.run(supervisor.evaluate([{ prompt: [2, 5], samples: 8 }]))
  const { completions } = await clock.run(rollout.result)
  const gave = completions.flatMap(({ segments }) => segments.filter(({ reason }) => reason === 'interrupted'))
  const counts = ['a', 'b', 'c', 'd'].map((id) => gave.filter(({ instance }) => instance === id).length)
  expect(counts).toEqual([2, 2, 2, 2])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('restart: what gave its slot to an evaluation begins again, and says what that cost', async () => {
  const simulation = await startSimulation([{ capacity: 1 }])
  const { clock, supervisor } = simulation
  const rollout = supervisor.submit({ prompt: [1, 30] })
  await clock.advance(105)
  await clock.run(supervisor.evaluate([{ prompt: [2, 5] }], { interrupt: 'restart' }))
  const [completion] = (await clock.run(rollout.result)).completions
  expect(completion!.segments.map(({ start, end, dropped }) => [start, end, dropped ?? 0])).toEqual([
    [0, 0, 10],
    [0, 30, 0],
  ])
  expect(await closeSimulation(simulation)).toBe(0)
})

test.each(['drain', 'share'] as const)('%s interrupts nobody', async (interrupt) => {
  const simulation = await startSimulation([{ capacity: 2 }])
  const { clock, supervisor } = simulation
  const rollout = supervisor.submit({ prompt: [1, 30], samples: 5 })
  await clock.advance(105)
  const evaluation = supervisor.evaluate([{ prompt: [2, 50] }], { interrupt })
  await clock.advance(250)
  // One slot is the evaluation's; the other goes on with rollouts, unless they wait for its end.
  expect(supervisor.getSnapshot()).toMatchObject(
    interrupt === 'drain' ? { conservation: { running: 1 }, waiting: { phase: 3 } } : { conservation: { running: 2 } },
  )
  await clock.run(evaluation)
  const { completions } = await clock.run(rollout.result)
  expect(completions.map(({ segments }) => segments.length)).toEqual([1, 1, 1, 1, 1])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('F10: an evaluation keeps the version that it began with; an update waits for it, and the next evaluation for the update', async () => {
  const simulation = await startSimulation([{ capacity: 1 }])
  const { clock, supervisor } = simulation
  const phases = phasesOf(simulation)
  const first = supervisor.evaluate([{ prompt: [1, 30], samples: 2 }])
  const update = supervisor.updateWeights({ version: 1, path: '/w/1' })
  const second = supervisor.evaluate([{ prompt: [2, 5] }])
  const versionsOf = async (work: typeof first) =>
    (await clock.run(work)).flatMap(({ completions }) => completions.map(({ versions }) => versions[0]!.version))
  expect(await versionsOf(first)).toEqual([null, null])
  await clock.run(update)
  expect(await versionsOf(second)).toEqual([1])
  expect(phases.filter((phase, index) => phase !== phases[index - 1])).toEqual([
    'evaluation',
    'rollout',
    'weightUpdate',
    'rollout',
    'evaluation',
    'rollout',
  ])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('F10: what has not ended at the timeout, by the signal or at close is in the groups', async () => {
  const simulation = await startSimulation([{ capacity: 1 }])
  const { clock, supervisor } = simulation
  const outcomes = async (work: ReturnType<typeof supervisor.evaluate>) =>
    (await clock.run(work)).map(({ missing }) => missing.map(({ outcome, error }) => [outcome, error!.code]))
  const late = supervisor.evaluate([{ prompt: [1, 50] }, { prompt: [2, 900] }], { timeoutMs: 1_000 })
  expect(await outcomes(late)).toEqual([[], [['expired', 'EVALUATION_TIMEOUT']]])
  expect(clock.now()).toBe(1_000)
  const controller = new AbortController()
  const stopped = supervisor.evaluate([{ prompt: [3, 900] }], { signal: controller.signal })
  await clock.advance(50)
  controller.abort()
  expect(await outcomes(stopped)).toEqual([[['cancelled', 'CANCELLED']]])
  await clock.run(supervisor.pause())
  const waiting = supervisor.evaluate([{ prompt: [4, 5] }])
  await clock.advance(50)
  expect(supervisor.getSnapshot().waiting.phase).toBe(1)
  const closed = closeSimulation(simulation)
  expect(await outcomes(waiting)).toEqual([[['cancelled', 'CLOSED']]])
  expect(await closed).toBe(0)
})

test('D13: a pause that waits for an evaluation lets it end and places nothing else from the moment it was asked for', async () => {
  const simulation = await startSimulation([{ capacity: 2 }])
  const { clock, supervisor } = simulation
  const placed: string[] = []
  const rollout = supervisor.submit({ id: 'r', prompt: [1, 30], samples: 4 })
  await clock.advance(105)
  const evaluation = supervisor.evaluate([{ id: 'e', prompt: [2, 20], samples: 3 }])
  await clock.advance(50)
  supervisor.events$.subscribe((event) => event.type === 'sample.placed' && placed.push(event.taskId))
  const paused = supervisor.pause({ mode: 'abort' })
  const other = supervisor.submit({ id: 'o', prompt: [3, 5], kind: 'evaluation' })
  await clock.run(paused)
  expect((await evaluation)[0]!.complete).toBe(true)
  expect(placed).toEqual(['e'])
  await clock.advance(1_000)
  expect(placed).toEqual(['e'])
  await supervisor.resume()
  expect((await clock.run(Promise.all([rollout.result, other.result]))).map(({ complete }) => complete)).toEqual([
    true,
    true,
  ])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('decision 8: release gives memory away until resume; discarded weights leave the instance without work until an update', async () => {
  const simulation = await startSimulation([{ capacity: 1 }, { capacity: 1, keepsWeights: false }])
  const { clock, supervisor, servers } = simulation
  const rollout = supervisor.submit({ prompt: [1, 40], samples: 2 })
  await clock.advance(105)
  const report = await clock.run(supervisor.pause({ mode: 'abort', release: true }))
  expect(report).toMatchObject({ interrupted: 2, resumedTokens: 20, wastedTokens: 0 })
  expect(servers.map(({ released }) => released)).toEqual([true, true])
  await clock.run(supervisor.resume())
  expect(servers.map(({ released }) => released)).toEqual([false, false])
  expect(supervisor.getSnapshot().instances.map(({ state }) => state)).toEqual(['serving.saturated', 'stale'])
  await clock.run(supervisor.updateWeights({ version: 1, path: '/w/1' }))
  expect(supervisor.getSnapshot().instances[1]!.state).toMatch(/^serving/)
  for (const completion of (await clock.run(rollout.result)).completions) expectTrue(completion)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('a pause that keeps holds requests where they are, cancels reach them, and close opens the servers', async () => {
  const simulation = await startSimulation([{ capacity: 2 }])
  const { clock, supervisor, server } = simulation
  const rollout = supervisor.submit({ prompt: [1, 40], samples: 2 })
  await clock.advance(105)
  await clock.run(supervisor.pause({ mode: 'keep' }))
  await clock.advance(5_000)
  expect([server('a').paused, supervisor.getSnapshot().conservation.running]).toEqual(['keep', 2])
  await clock.run(supervisor.resume())
  const { completions } = await clock.run(rollout.result)
  expect(completions.map(({ segments }) => segments.length)).toEqual([1, 1])
  supervisor.submit({ prompt: [2, 400] })
  await clock.advance(105)
  await clock.run(supervisor.pause({ mode: 'keep' }))
  expect(await closeSimulation(simulation)).toBe(0)
  expect(server('a').paused).toBe(null)
})
