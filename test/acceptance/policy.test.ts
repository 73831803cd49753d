/**
 * The policy, as first asked for (A1 to A8), on the simulated fleet.
 */
import { expect, test } from 'vitest'
import {
  createSupervisor,
  createTimeline,
  type IdleReason,
  type SampleEvent,
  type Supervisor,
} from '../../src/index.ts'
import { closeSimulation, simulate, startSimulation } from '../simulate.ts'

function placements(supervisor: Supervisor): (SampleEvent & { type: 'sample.placed' })[] {
  const placed: (SampleEvent & { type: 'sample.placed' })[] = []
  supervisor.events$.subscribe((event) => event.type === 'sample.placed' && placed.push(event))
  return placed
}
const runningOf = (supervisor: Supervisor): number[] => supervisor.getSnapshot().instances.map(({ running }) => running)

test('A1: least-request starts at 0 and takes capacity from the options, else from the server', async () => {
  const simulation = simulate([{ capacity: 3 }])
  const { clock, supervisor } = simulation
  const { url, engine } = simulate([{ capacity: 5, id: 'told' }]).servers[0]!
  supervisor.add({ id: 'told', url, engine, capacity: 2 })
  await clock.run(supervisor.start())
  expect(supervisor.getSnapshot().instances.map(({ running, capacity }) => [running, capacity])).toEqual([
    [0, 3],
    [0, 2],
  ])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('A2: with three instances of capacity 1 taken, a fourth sample waits and gets the one that is released', async () => {
  const simulation = await startSimulation([{ capacity: 1 }, { capacity: 1 }, { capacity: 1 }])
  const { clock, supervisor } = simulation
  const placed = placements(supervisor)
  const lengths = [50, 20, 50]
  const rollouts = lengths.map((length) => supervisor.submit({ prompt: [1, length] }))
  const fourth = supervisor.submit({ prompt: [4, 10] })
  await clock.settle()
  expect(runningOf(supervisor)).toEqual([1, 1, 1])
  expect([...fourth.waitingFor]).toEqual([[0, 'capacity']])
  await clock.run(rollouts[1]!.result)
  expect(placed.at(-1)).toMatchObject({ taskId: fourth.id, instance: placed[1]!.instance, at: 200 })
  await clock.run(supervisor.drainAll())
  expect(await closeSimulation(simulation)).toBe(0)
})

test('A4: round-robin visits in order and wraps, and skips what is full, draining or unhealthy', async () => {
  const simulation = await startSimulation([{ capacity: 2 }, { capacity: 2 }, { capacity: 2 }, { capacity: 2 }], {
    policy: 'round-robin',
    breaker: { failures: 1, resetMs: 100_000, maxResetMs: 100_000 },
  })
  const { clock, supervisor } = simulation
  const placed = placements(supervisor)
  const order = (): string => placed.map(({ instance }) => instance).join('')
  for (let count = 0; count < 5; count++) {
    supervisor.submit({ prompt: [1, 5] })
    await clock.advance(50)
  }
  expect(order()).toBe('abcda')
  placed.length = 0
  // b is taken whole, c is draining, d is unhealthy: a takes all until it is full as well.
  simulation.server('d').die()
  supervisor.submit({ prompt: [1, 1000], samples: 2 })
  supervisor.submit({ prompt: [1, 5], samples: 2 })
  await clock.advance(0)
  const drained = supervisor.drain('c')
  await clock.advance(1_000)
  placed.length = 0
  for (let count = 0; count < 3; count++) {
    supervisor.submit({ prompt: [1, 5] })
    await clock.advance(50)
  }
  const { instances } = supervisor.getSnapshot()
  expect(instances.find(({ id }) => id === 'd')!.state).toMatch('unhealthy')
  expect(new Set(placed.map(({ instance }) => instance))).not.toContain('d')
  expect(new Set(placed.map(({ instance }) => instance))).not.toContain('c')
  expect(placed.length).toBe(3)
  const closed = closeSimulation(simulation)
  await clock.run(drained)
  expect(await closed).toBe(0)
})

test('A5: twenty users at once over capacity 4 x 3: all complete, and the books are empty', async () => {
  const simulation = await startSimulation([{ capacity: 4 }, { capacity: 4 }, { capacity: 4 }])
  const { clock, supervisor, servers } = simulation
  const user = async (key: number): Promise<number> => {
    let done = 0
    for (let turn = 0; turn < 5; turn++) {
      const group = await supervisor.submit({ prompt: [key, 5 + ((key * 7 + turn) % 20)] }).result
      if (group.complete) done++
    }
    return done
  }
  const done = await clock.run(Promise.all(Array.from({ length: 20 }, (_, key) => user(key))))
  expect(done).toEqual(new Array(20).fill(5))
  await clock.settle()
  expect(runningOf(supervisor)).toEqual([0, 0, 0])
  expect(servers.map(({ maxRunning }) => maxRunning)).toEqual([4, 4, 4])
  expect(clock.pending).toBe(0)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('A6: of six generations an instance that is ten times slower gets one, the others share the rest', async () => {
  const simulation = await startSimulation([{ capacity: 1, tokenMs: 100 }, { capacity: 1 }, { capacity: 1 }])
  const { clock, supervisor } = simulation
  const { completions } = await clock.run(supervisor.submit({ prompt: [1, 20], samples: 6 }).result)
  const where = completions.map(({ segments }) => segments[0]!.instance)
  const count = (id: string): number => where.filter((each) => each === id).length
  expect(count('a')).toBe(1)
  expect([count('b'), count('c')].sort()).toEqual([2, 3])
  expect(await closeSimulation(simulation)).toBe(0)
})

/** Slot time by reason, of a batch with a long tail on four instances of which one runs at half speed. */
async function tail(policy: 'least-request' | { name: 'round-robin'; strict: true }) {
  const simulation = simulate(
    [10, 10, 10, 20].map((tokenMs) => ({ capacity: 2, tokenMs })),
    { policy },
  )
  const { clock, supervisor } = simulation
  const timeline = createTimeline({ view: () => supervisor.getSnapshot(), startedAt: 0 })
  supervisor.events$.subscribe((event) => timeline.observe(event))
  await clock.run(supervisor.start())
  for (let key = 0; key < 60; key++) supervisor.submit({ prompt: [key, key % 10 === 0 ? 200 : 10 + (key % 7)] })
  await clock.run(supervisor.drainAll())
  const report = timeline.report(clock.now())
  const idleOf = (reason: IdleReason): number =>
    report.instances.reduce((sum, { idleMs }) => sum + (idleMs[reason] ?? 0), 0)
  expect(await closeSimulation(simulation)).toBe(0)
  return { unplaced: idleOf('unplaced'), turn: idleOf('turn'), gate: idleOf('gate') }
}

test('A7: with least-request no slot is idle while samples wait; the report of the strict order shows what it costs', async () => {
  const best = await tail('least-request')
  const strict = await tail({ name: 'round-robin', strict: true })
  expect(best).toMatchObject({ unplaced: 0, turn: 0, gate: 0 })
  expect(strict).toMatchObject({ unplaced: 0, gate: 0 })
  expect(strict.turn).toBeGreaterThan(1_000)
})

test('A8: an unknown policy is refused when the supervisor is made, with the known ones', () => {
  expect(() => createSupervisor({ policy: 'best' as never })).toThrow(/'least-request', 'round-robin'/)
})
