/**
 * Deadlines of a sample under its lease: it moves, or ends, and its slot is given back by the engine (decision 18).
 */
import { describe, expect, test } from 'vitest'
import { closeSimulation, startSimulation } from '../simulate.ts'

describe('deadlines under a lease (decision 18)', () => {
  test('firstTokenMs moves a sample elsewhere, and exhausts its attempts where nobody answers', async () => {
    const simulation = await startSimulation([{ capacity: 4 }, { capacity: 4 }], {
      timeouts: { firstTokenMs: 200 },
      retry: { attempts: 3 },
      breaker: { failures: 1, resetMs: 10_000, maxResetMs: 10_000 },
    })
    const { clock, supervisor } = simulation
    simulation.server('a').freeze()
    const group = await clock.run(supervisor.submit({ prompt: [1, 5], samples: 2 }).result)
    expect(group.complete).toBe(true)
    expect(
      group.completions.map(({ segments }) => segments.map(({ instance, reason }) => `${instance} ${reason}`)),
    ).toEqual([['a timedOut', 'b finished'], ['b finished']])
    simulation.server('b').freeze()
    const stuck = supervisor.submit({ prompt: [1, 5] })
    const { completions } = await clock.run(stuck.result)
    expect(completions[0]).toMatchObject({
      outcome: 'failed',
      error: {
        code: 'ATTEMPTS_EXHAUSTED',
        message: expect.stringMatching(
          /^3 attempts in a row of .* yielded no new token; the last: .* firstTokenMs, 200 ms$/,
        ),
        cause: { code: 'FIRST_TOKEN_TIMEOUT' },
      },
    })
    expect(completions[0]!.segments.length).toBe(3)
    expect(await closeSimulation(simulation)).toBe(0)
  })

  test('progressMs moves a sample that stands still, from the tokens it has', async () => {
    const simulation = await startSimulation(
      [
        { capacity: 1, chunkTokens: 1 },
        { capacity: 1, chunkTokens: 1 },
      ],
      {
        timeouts: { progressMs: 50 },
      },
    )
    const { clock, supervisor } = simulation
    const rollout = supervisor.submit({ prompt: [7, 10] })
    await clock.advance(45)
    const at = supervisor.getSnapshot().instances.find(({ running }) => running === 1)!.id
    const faults: string[] = []
    supervisor.events$.subscribe((event) => event.type === 'instance.fault' && faults.push(event.error.code))
    simulation.server(at).freeze()
    const { completions } = await clock.run(rollout.result)
    expect(faults).toEqual(['PROGRESS_TIMEOUT'])
    expect(completions[0]!.tokenIds.length).toBe(10)
    expect(completions[0]!.segments.map(({ start, end, reason }) => [start, end, reason])).toEqual([
      [0, 4, 'timedOut'],
      [4, 10, 'finished'],
    ])
    expect(await closeSimulation(simulation)).toBe(0)
  })

  test('totalMs sums the time under leases, keeps the tokens, and frees the slot when the engine has ended it', async () => {
    const simulation = await startSimulation([{ capacity: 1, chunkTokens: 1 }], { timeouts: { totalMs: 100 } })
    const { clock, supervisor, servers } = simulation
    const other = supervisor.submit({ prompt: [1, 9] })
    const rollout = supervisor.submit({ prompt: [7, 50] })
    const { completions } = await clock.run(rollout.result)
    expect(completions[0]).toMatchObject({ outcome: 'expired', error: { code: 'TOTAL_TIMEOUT' } })
    expect([completions[0]!.tokenIds.length, clock.now()]).toEqual([9, 190])
    expect((await other.result).complete).toBe(true)
    await clock.settle()
    expect([servers[0]!.running, supervisor.getSnapshot().instances[0]!.running]).toEqual([0, 0])
    expect(await closeSimulation(simulation)).toBe(0)
  })
})

test.each([
  ['firstTokenMs', { firstTokenMs: 200 }, 5],
  ['progressMs', { progressMs: 200 }, 105],
  ['totalMs', { totalMs: 700 }, 105],
])(
  '%s stands still for what an update that rolls over its server has frozen (decision 18)',
  async (_, timeouts, atMs) => {
    const loads = [{ loadMs: 2_000 }, { loadMs: 2_000 }]
    const fleet = loads.map((each) => ({ capacity: 2, chunkTokens: 1, ...each }))
    const simulation = await startSimulation(fleet, { timeouts })
    const { clock, supervisor } = simulation
    const rollout = supervisor.submit({ prompt: [1, 60], samples: 4 })
    await clock.advance(atMs)
    const update = supervisor.updateWeights({ version: 1, path: '/w/1', mode: 'keep', rolling: 1 })
    const { completions } = await clock.run(rollout.result)
    for (const { outcome, segments } of completions)
      expect([outcome, segments.map(({ reason }) => reason)]).toEqual(['completed', ['finished']])
    await clock.run(update)
    expect(clock.now()).toBeGreaterThan(4_000)
    expect(await closeSimulation(simulation)).toBe(0)
  },
)

test('progressMs still finds what does not move on after a rolling update with keep', async () => {
  const simulation = await startSimulation([{ chunkTokens: 1 }, { chunkTokens: 1 }], {
    timeouts: { progressMs: 200 },
  })
  const { clock, supervisor, server } = simulation
  const rollout = supervisor.submit({ prompt: [1, 60] })
  await clock.advance(105)
  await clock.run(supervisor.updateWeights({ version: 1, path: '/w/1', mode: 'keep', rolling: 1 }))
  server('a').freeze()
  const { completions } = await clock.run(rollout.result)
  expect(completions[0]!.segments.map(({ instance, reason }) => [instance, reason])).toEqual([
    ['a', 'timedOut'],
    ['b', 'finished'],
  ])
  expect(completions[0]!.segments[0]!.endedAt).toBeLessThan(600)
  expect(await closeSimulation(simulation)).toBe(0)
})
