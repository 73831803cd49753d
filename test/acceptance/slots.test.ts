/**
 * Slots: one for each sequence, never more than an instance has, freed one by one (D1, D4 to D9, D18, D19, D22, D23).
 */
import { expect, test } from 'vitest'
import { instanceMachine } from '../../machines/index.ts'
import type { DriverFactory, PlacementPolicy } from '../../src/index.ts'
import { simulateServer } from '../../src/testing/simulated-fleet.ts'
import { closeSimulation, type Simulation, simulate, startSimulation } from '../simulate.ts'

test.each([null, undefined, 0, -3, 1.5, Number.NaN])(
  'D1: a server that reports %s as its limit gets the documented default',
  async (capacity) => {
    for (const [engine, expected] of [
      ['sglang', 256],
      ['vllm', 256],
      ['other', 4],
    ] as const) {
      const simulation = simulate([])
      const { clock, supervisor } = simulation
      const server = simulateServer(clock, { id: 'a', capacity: 1000 })
      const factory: DriverFactory = (options) => {
        const driver = server.engine(options)
        return { ...driver, probe: async () => ({ ...(await driver.probe()), engine, capacity: capacity as null }) }
      }
      supervisor.add({ id: 'a', url: server.url, engine: factory })
      await clock.run(supervisor.start())
      supervisor.submit({ prompt: [1, 5], samples: 300 })
      await clock.settle()
      expect(supervisor.getSnapshot().instances[0]).toMatchObject({ capacity: expected, running: expected })
      expect(server.running).toBe(expected)
      expect(await closeSimulation(simulation)).toBe(0)
    }
  },
)

test('D4: each sequence of a group frees its slot when it ends itself, not when the group does', async () => {
  const simulation = await startSimulation([{ capacity: 2 }])
  const { clock, supervisor } = simulation
  const group = supervisor.submit({ id: 'group', prompt: [1, 100], samples: 1 })
  const pair = supervisor.submit({ id: 'pair', prompt: [2, 10], samples: 2 })
  const next = supervisor.submit({ id: 'next', prompt: [3, 10] })
  const placed: string[] = []
  supervisor.events$.subscribe((event) => {
    if (event.type === 'sample.placed') placed.push(`${event.at} ${event.taskId}/${event.sample}`)
  })
  await clock.run(Promise.all([group.result, pair.result, next.result]))
  expect(placed).toEqual(['0 group/0', '0 pair/0', '100 pair/1', '200 next/0'].slice(2))
  expect(await closeSimulation(simulation)).toBe(0)
})

test('D5: groups of any size, on fleets smaller and larger than they are', async () => {
  const simulation = await startSimulation([{ capacity: 3 }, { capacity: 2 }])
  const { clock, supervisor, servers } = simulation
  for (const samples of [1, 2, 5, 7, 64, 1024]) {
    const group = await clock.run(supervisor.submit({ prompt: [samples, 3], samples }).result)
    expect(group.completions.map(({ sample }) => sample)).toEqual(Array.from({ length: samples }, (_, at) => at))
    expect(group.complete).toBe(true)
  }
  expect(servers.map(({ maxRunning }) => maxRunning)).toEqual([3, 2])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('D6, D8: odd capacities and weights share a load as they can, and none runs more than it may', async () => {
  const fleet = [
    { capacity: 1, weight: 1 },
    { capacity: 3, weight: 1 },
    { capacity: 7, weight: 0.1 },
    { capacity: 10, weight: 3 },
  ]
  const simulation = await startSimulation(fleet)
  const { clock, supervisor, servers } = simulation
  const running = () => supervisor.getSnapshot().instances.map((each) => each.running)
  supervisor.submit({ prompt: [1, 50], samples: 14 })
  await clock.settle()
  // (running + 1) / (capacity x weight): the fast one fills first, the slow one gets nothing yet.
  expect(running()).toEqual([1, 3, 0, 10])
  supervisor.submit({ prompt: [1, 50], samples: 100 })
  await clock.settle()
  expect(running()).toEqual([1, 3, 7, 10])
  await clock.run(supervisor.drainAll())
  expect(servers.map(({ maxRunning }) => maxRunning)).toEqual([1, 3, 7, 10])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('D7: rollouts and evaluations share one ledger', async () => {
  const simulation = await startSimulation([{ capacity: 3 }, { capacity: 2 }])
  const { clock, supervisor, servers } = simulation
  for (let turn = 0; turn < 20; turn++) {
    supervisor.submit({ prompt: [turn, 7], samples: 3, kind: turn % 2 === 0 ? 'rollout' : 'evaluation' })
    await clock.advance(15)
    const held = supervisor.getSnapshot().instances.map(({ running, capacity }) => running <= capacity!)
    expect(held).toEqual([true, true])
  }
  await clock.run(supervisor.drainAll())
  expect(servers.map(({ maxRunning }) => maxRunning)).toEqual([3, 2])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('D9: instances join, drain and leave while running, and nothing is lost', async () => {
  const simulation = await startSimulation([{ capacity: 2, chunkTokens: 5 }])
  const { clock, supervisor } = simulation
  const rollout = supervisor.submit({ prompt: [7, 100], samples: 12 })
  await clock.advance(150)
  const joined = simulateServer(clock, { id: 'joined', capacity: 4, chunkTokens: 5 })
  supervisor.add({ id: 'joined', url: joined.url, engine: joined.engine })
  await clock.advance(150)
  expect(joined.running).toBe(4)
  const left = supervisor.drain('a')
  await clock.advance(100)
  expect(supervisor.getSnapshot().instances[0]).toMatchObject({ id: 'a', state: 'draining', running: 2 })
  const last = simulateServer(clock, { id: 'last', capacity: 4, chunkTokens: 5 })
  supervisor.add({ id: 'last', url: last.url, engine: last.engine })
  await clock.advance(0)
  await clock.run(supervisor.remove('joined'))
  await clock.run(left)
  expect(supervisor.getSnapshot().instances.map(({ id }) => id)).toEqual(['last'])
  const { completions, complete } = await clock.run(rollout.result)
  expect(complete).toBe(true)
  for (const { tokenIds, versions } of completions)
    expect([tokenIds.length, versions]).toEqual([100, [{ version: null, start: 0, end: 100 }]])
  expect(completions.some(({ segments }) => segments.length > 1)).toBe(true)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('D18: one task holds as many leases as it has running samples, on any mix of instances', async () => {
  const simulation = await startSimulation([{ capacity: 1 }, { capacity: 2 }, { capacity: 3 }])
  const { clock, supervisor } = simulation
  const leases = new Map<number, string>()
  supervisor.events$.subscribe((event) => {
    if (event.type === 'sample.placed') leases.set(event.lease, event.instance)
    if (event.type === 'sample.released') leases.delete(event.lease)
  })
  const rollout = supervisor.submit({ prompt: [1, 10], samples: 8 })
  await clock.settle()
  expect([...leases.values()].sort()).toEqual(['a', 'b', 'b', 'c', 'c', 'c'])
  expect([...rollout.waitingFor.keys()]).toEqual([6, 7])
  await clock.run(rollout.result)
  await clock.settle()
  expect(leases.size).toBe(0)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('D22: at low load ties go round, so that it spreads over all', async () => {
  const simulation = await startSimulation(Array.from({ length: 5 }, () => ({ capacity: 8 })))
  const { clock, supervisor } = simulation
  for (let turn = 0; turn < 20; turn++) await clock.run(supervisor.submit({ prompt: [turn, 3] }).result)
  expect(supervisor.getSnapshot().instances.map(({ placed }) => placed)).toEqual([4, 4, 4, 4, 4])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('D23: a cancellation at any moment leaves no lease behind', async () => {
  for (let step = 0; step < 120; step++) {
    const simulation = await startSimulation([{ capacity: 1, tokenMs: 5, chunkTokens: 2 }])
    const { clock, supervisor } = simulation
    const rollout = supervisor.submit({ prompt: [1, 8], samples: 3 })
    for (let tick = 0; tick < Math.floor(step / 4); tick++) await clock.advance(5)
    // And at any of the awaits in between.
    for (let await_ = 0; await_ < step % 4; await_++) await null
    rollout.cancel()
    const ended = supervisor.getSnapshot().conservation
    expect(ended.waiting + ended.running).toBe(0)
    await clock.run(rollout.result)
    await clock.advance(20_000)
    expect(supervisor.getSnapshot().instances[0]!.running).toBe(0)
    expect([clock.pending, simulation.servers[0]!.running]).toEqual([0, 0])
    expect(await closeSimulation(simulation)).toBe(0)
  }
})

test("a user's own instance machine whose guard refuses gets no work, and the others do", async () => {
  const refusing = instanceMachine.provide({
    guards: { takesWork: ({ context }) => context.id !== 'a' && context.leases < context.capacity },
  })
  const simulation = await startSimulation([{ capacity: 4 }, { capacity: 1 }], { instanceMachine: refusing })
  const { clock, supervisor, servers } = simulation
  const group = await clock.run(supervisor.submit({ prompt: [1, 5], samples: 6 }).result)
  expect(group.complete).toBe(true)
  expect(servers.map(({ maxRunning }) => maxRunning)).toEqual([0, 1])
  expect(await closeSimulation(simulation)).toBe(0)

  const none = instanceMachine.provide({ guards: { takesWork: () => false } })
  const idle = await startSimulation([{ capacity: 4 }], { instanceMachine: none })
  const rollout = idle.supervisor.submit({ prompt: [1, 5], samples: 2 })
  await idle.clock.advance(60_000)
  expect(idle.servers[0]!.maxRunning).toBe(0)
  expect(idle.supervisor.getSnapshot().instances[0]!.running).toBe(0)
  expect([...rollout.waitingFor.values()]).toEqual(['gate', 'gate'])
  expect(await closeSimulation(idle)).toBe(0)
})

test('a machine that refused, for reasons that only it knows, is asked again though nothing happens meanwhile', async () => {
  const simulation: Simulation = await startSimulation([{ capacity: 2 }], {
    instanceMachine: instanceMachine.provide({
      guards: { takesWork: ({ context }) => simulation.clock.now() >= 1_000 && context.leases < context.capacity },
    }),
  })
  const { clock, supervisor } = simulation
  const placed: number[] = []
  supervisor.events$.subscribe((event) => event.type === 'sample.placed' && placed.push(event.at))
  const group = await clock.run(supervisor.submit({ prompt: [1, 5], samples: 2 }).result)
  expect([group.complete, placed]).toEqual([true, [1_000, 1_000]])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('what trySubmit could not place at once was never there: no count, no id, no sample', async () => {
  const nobody: PlacementPolicy = { name: 'nobody', add() {}, remove() {}, changed() {}, pick: () => null }
  const simulation = await startSimulation([{ capacity: 2 }], { policy: nobody, timeouts: { waitMs: 50 } })
  const { clock, supervisor } = simulation
  const told: string[] = []
  supervisor.completions$.subscribe(({ id }) => told.push(id))
  expect(supervisor.trySubmit({ id: 'a', prompt: [1, 5], samples: 3 })).toBe(null)
  const { conservation, waiting } = supervisor.getSnapshot()
  expect(conservation).toMatchObject({ submitted: 0, waiting: 0, running: 0 })
  expect(Object.values(waiting).every((count) => count === 0)).toBe(true)
  const rollout = supervisor.submit({ id: 'a', prompt: [1, 5] })
  await clock.run(rollout.result)
  expect(told).toEqual(['a/0'])
  expect(supervisor.getSnapshot().conservation).toMatchObject({ submitted: 1, ended: { expired: 1 } })
  expect(await closeSimulation(simulation)).toBe(0)
})
