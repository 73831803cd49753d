/**
 * Which instances get a sample: machines of the user's own, and fleets whose instances differ.
 */
import { expect, test } from 'vitest'
import { assign, emit, setup } from 'xstate'
import type {
  InstanceContext,
  InstanceEmitted,
  InstanceInput,
  InstanceMachineEvent,
  instanceMachine,
} from '../../machines/index.ts'
import type { DriverFactory, PlacementPolicy, SupervisorOptions } from '../../src/index.ts'
import { simulateServer } from '../../src/testing/simulated-fleet.ts'
import { closeSimulation, simulate, startSimulation } from '../simulate.ts'

/** Knows probes, leases and new weights, and nothing else: no suspicion, no circuit. */
const plainMachine = setup({
  types: {
    context: {} as InstanceContext,
    input: {} as InstanceInput,
    events: {} as InstanceMachineEvent,
    emitted: {} as InstanceEmitted,
  },
}).createMachine({
  context: ({ input }) => ({ ...instanceMachineContext, ...input }),
  initial: 'connecting',
  on: { 'instance.stop': '.stopped', 'instance.drain': '.stopped' },
  states: {
    connecting: {
      on: {
        'probe.succeeded': { target: 'serving', actions: assign({ capacity: ({ event }) => event.capacity }) },
      },
    },
    serving: {
      entry: emit(({ context }) => ({ type: 'opened', limit: context.capacity }) as const),
      on: {
        'lease.granted': { actions: assign({ leases: ({ context }) => context.leases + 1 }) },
        'lease.released': { actions: assign({ leases: ({ context }) => context.leases - 1 }) },
        'weights.loaded': { actions: assign({ weightVersion: ({ event }) => event.weightVersion }) },
        'gate.closed': 'paused',
      },
    },
    paused: {
      entry: emit({ type: 'closed' } as const),
      on: {
        'gate.opened': 'serving',
        'weights.loaded': { actions: assign({ weightVersion: ({ event }) => event.weightVersion }) },
      },
    },
    stopped: { type: 'final', entry: emit({ type: 'left' } as const) },
  },
})

const instanceMachineContext = {
  leases: 0,
  failures: 0,
  openings: 0,
  weightVersion: null,
  drainMs: null,
  suspected: false,
}

test('a machine that does not know suspicion is asked for, and starves nobody (F1, I7)', async () => {
  const simulation = await startSimulation([{ capacity: 1 }, { capacity: 1 }], {
    instanceMachine: plainMachine as unknown as typeof instanceMachine,
  })
  const { clock, supervisor } = simulation
  await clock.run(supervisor.updateWeights({ version: 1, path: '/w/1' }))
  // Both have been silent for so long that they may have restarted.
  await clock.advance(60_000)
  const startedAt = clock.now()
  const group = await clock.run(supervisor.submit({ prompt: [1, 5], samples: 4 }).result)
  expect(group.complete).toBe(true)
  expect(new Set(group.completions.map(({ segments }) => segments[0]!.instance))).toEqual(new Set(['a', 'b']))
  expect(clock.now() - startedAt).toBe(100)
  expect(await closeSimulation(simulation)).toBe(0)
})

/** Simulated servers of one slot; where one is plain it takes no minTokens. */
async function fleetOf(kinds: readonly ('plain' | 'full')[], options: SupervisorOptions = {}) {
  const simulation = simulate([], { minInstances: 0, ...options })
  const { clock, supervisor } = simulation
  kinds.forEach((kind, index) => {
    const id = `${kind}-${index}`
    const server = simulateServer(clock, { id, capacity: 1 })
    const engine: DriverFactory = (given) => ({
      ...server.engine(given),
      refuses: ({ sampling }) => (kind === 'plain' && sampling.minTokens > 0 ? 'expected minTokens 0' : null),
    })
    supervisor.add({ id, url: server.url, engine })
  })
  await clock.run(supervisor.start())
  return simulation
}
const picky = { prompt: [1, 10], sampling: { minTokens: 1 } }
const easy = { prompt: [2, 10] }

test.each(['least-request', 'round-robin'] as const)(
  'a sample that not every instance can run goes to one that can, and holds up no other: %s (I7)',
  async (policy) => {
    const simulation = await fleetOf(['plain', 'full', 'plain'], { policy })
    const { clock, supervisor } = simulation
    const demanding = Array.from({ length: 3 }, () => supervisor.submit(picky))
    const others = Array.from({ length: 4 }, () => supervisor.submit(easy))
    await clock.settle()
    // One of the three runs where it can; the plain instances are not idle meanwhile.
    expect(supervisor.getSnapshot()).toMatchObject({ conservation: { running: 3 }, waiting: { capacity: 4 } })
    expect([...demanding[2]!.waitingFor.values()]).toEqual(['capacity'])
    for (const rollout of demanding) {
      const { complete, completions } = await clock.run(rollout.result)
      expect([complete, completions[0]!.segments[0]!.instance]).toEqual([true, 'full-1'])
    }
    for (const rollout of others) expect((await clock.run(rollout.result)).complete).toBe(true)
    expect(await closeSimulation(simulation)).toBe(0)
  },
)

test('it fails where no instance can, also when the last that could has left, and says why', async () => {
  const simulation = await fleetOf(['plain', 'full'])
  const { clock, supervisor } = simulation
  const [running, waiting] = [supervisor.submit(picky), supervisor.submit(picky)]
  await clock.settle()
  await clock.run(supervisor.remove('full-1'))
  for (const rollout of [running, waiting]) {
    const [completion] = (await clock.run(rollout.result)).completions
    expect(completion).toMatchObject({ outcome: 'failed', error: { code: 'REQUEST_REJECTED' } })
    expect(completion!.error!.message).toMatch(/plain-0.*expected minTokens 0/)
  }
  expect(await closeSimulation(simulation)).toBe(0)
})

test('an instance that joins and can is used at once', async () => {
  const simulation = await fleetOf(['plain', 'full'])
  const { clock, supervisor } = simulation
  const rollouts = Array.from({ length: 3 }, () => supervisor.submit(picky))
  await clock.settle()
  const server = simulateServer(clock, { id: 'late', capacity: 2 })
  supervisor.add({ id: 'late', url: server.url, engine: server.engine })
  await clock.settle()
  expect(supervisor.getSnapshot().conservation).toMatchObject({ running: 3, waiting: 0 })
  for (const rollout of rollouts) expect((await clock.run(rollout.result)).complete).toBe(true)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('a vocabulary is that of the instance: ids go where they are known, and are refused where none knows them (R8)', async () => {
  const simulation = await startSimulation([{ capacity: 1 }, { capacity: 1 }])
  const { clock, supervisor } = simulation
  const server = simulateServer(clock, { id: 'wide', capacity: 1 })
  supervisor.add({ id: 'wide', url: server.url, engine: server.engine, vocabularySize: 60_000 })
  await clock.settle()
  const groups = await Promise.all(
    [1, 2, 3].map(() => clock.run(supervisor.submit({ prompt: [55_000, 5], samples: 2 }).result)),
  )
  for (const { completions } of groups)
    expect(completions.map(({ segments }) => segments[0]!.instance)).toEqual(['wide', 'wide'])
  expect(() => supervisor.submit({ prompt: [60_000, 5] })).toThrow(/prompt\[0\]: expected a token id below 60000/)
  expect(await closeSimulation(simulation)).toBe(0)
})

test("a user's policy is told which instances fit, and corrected where it does not look", async () => {
  const told: (boolean | null)[] = []
  const ids = ['plain-0', 'full-1']
  const policy: PlacementPolicy = {
    name: 'first',
    add: () => {},
    remove: () => {},
    changed: () => {},
    pick({ fits }) {
      told.push(fits === undefined ? null : fits('plain-0'))
      return ids[0]!
    },
  }
  const simulation = await fleetOf(['plain', 'full'], { policy })
  const { clock, supervisor } = simulation
  const { completions } = await clock.run(supervisor.submit(picky).result)
  expect(completions[0]!.segments[0]!.instance).toBe('full-1')
  expect(told).toEqual([null, false])
  expect(await closeSimulation(simulation)).toBe(0)
})
