/**
 * Code of the user that is asked in the middle of a placement step (policy, guard, inspector, logger), and acts on the supervisor from
 * there: the books stay right, and what it asked for happens.
 */
import { describe, expect, test } from 'vitest'
import { assign } from 'xstate'
import { type InstanceContext, instanceMachine } from '../../machines/index.ts'
import type { PlacementPolicy, Rollout, Supervisor, SupervisorOptions } from '../../src/index.ts'
import { leastRequest } from '../../src/scheduling/least-request.ts'
import { simulateServer } from '../../src/testing/simulated-fleet.ts'
import { closeSimulation, type Simulated, type Simulation, startSimulation } from '../simulate.ts'

/** Where the user's code is called from, and how `act` gets there. */
const places: Record<string, (act: () => void) => SupervisorOptions> = {
  'the policy': (act) => {
    const inner = leastRequest()
    const policy: PlacementPolicy = {
      ...inner,
      name: 'meddling',
      pick(sample) {
        const id = inner.pick(sample)
        act()
        return id
      },
    }
    return { policy }
  },
  'the guard of the machine': (act) => ({
    instanceMachine: instanceMachine.provide({
      guards: {
        takesWork: ({ context }) => {
          act()
          return context.leases < context.capacity
        },
      },
    }),
  }),
  'the inspector': (act) => ({
    inspect(event) {
      if (event.type === '@xstate.event' && event.event.type.startsWith('lease.')) act()
    },
  }),
  'the logger, of a policy that fails': (act) => {
    const policy = { ...leastRequest(), name: 'failing', pick: () => 'nobody' }
    return { policy, logger: { debug() {}, info() {}, warn() {}, error: act } }
  },
}

type InstanceGuard = (args: { readonly context: InstanceContext }) => boolean

const fleet: readonly Simulated[] = [{ capacity: 1 }, { capacity: 2 }]

const ids = ['t0', 't1', 't2', 't3', 't4', 't5']

/** A paused run with six tasks, of which the user's code does `act` once, the third time it is asked after `resume`. */
async function meddle(place: string, act: (run: Supervisor, rollouts: readonly Rollout[]) => void) {
  let asked = Number.NEGATIVE_INFINITY
  const simulation: Simulation = await startSimulation(
    fleet,
    places[place]!(() => {
      if (++asked === 3) act(supervisor, rollouts)
    }),
  )
  const { clock, supervisor } = simulation
  await clock.run(supervisor.pause())
  const rollouts = ids.map((id) => supervisor.submit({ id, prompt: [1, 20] }))
  const ended: string[] = []
  supervisor.completions$.subscribe(({ id }) => ended.push(id))
  asked = 0
  await clock.run(supervisor.resume())
  return { simulation, clock, supervisor, rollouts, ended, hasMeddled: () => asked >= 3 }
}

describe.each(Object.keys(places))('from %s', (place) => {
  test('samples that are cancelled while one of them is being placed end once, and leave no lease (I2, D23, F17)', async () => {
    const { simulation, clock, supervisor, rollouts, ended, hasMeddled } = await meddle(place, (_, all) => {
      for (const rollout of all) rollout.cancel('enough')
    })
    await clock.run(Promise.all(rollouts.map(({ result }) => result)))
    await clock.settle()
    expect(hasMeddled()).toBe(true)
    expect(ended.sort()).toEqual(ids.map((id) => `${id}/0`))
    const { conservation, instances } = supervisor.getSnapshot()
    expect(conservation).toEqual({
      submitted: 6,
      waiting: 0,
      running: 0,
      ended: { completed: 0, failed: 0, cancelled: 6, expired: 0 },
    })
    expect(instances.map(({ running }) => running)).toEqual([0, 0])
    // All slots are there again, for the machines as well.
    const group = await clock.run(supervisor.submit({ prompt: [1, 20], samples: 9 }).result)
    expect(group.complete).toBe(true)
    expect(simulation.servers.map(({ maxRunning }) => maxRunning)).toEqual([1, 2])
    expect(await closeSimulation(simulation)).toBe(0)
  })

  test('instances that are removed while one is picked leave their samples to wait (D9, F17)', async () => {
    const { simulation, clock, supervisor, rollouts, hasMeddled } = await meddle(place, (run) => {
      void run.remove('a')
      void run.remove('b')
    })
    await clock.advance(10_000)
    expect(hasMeddled()).toBe(true)
    const { instances, conservation } = supervisor.getSnapshot()
    expect([instances, conservation]).toMatchObject([[], { submitted: 6, waiting: 6, running: 0 }])
    for (const rollout of rollouts) rollout.cancel()
    expect(supervisor.getSnapshot().conservation).toMatchObject({ waiting: 0, ended: { cancelled: 6 } })
    expect(await closeSimulation(simulation)).toBe(0)
  })

  test('a run that is closed while it places ends every sample once, and nothing is left (I2, I12, F17)', async () => {
    let closed: Promise<void> | null = null
    const { simulation, clock, supervisor, ended } = await meddle(place, (run) => {
      closed = run.close()
    })
    expect(closed).not.toBe(null)
    await clock.run(closed!)
    expect(ended.sort()).toEqual(ids.map((id) => `${id}/0`))
    expect(supervisor.getSnapshot().conservation).toEqual({
      submitted: 6,
      waiting: 0,
      running: 0,
      ended: { completed: 0, failed: 0, cancelled: 6, expired: 0 },
    })
    expect([clock.pending, ...simulation.servers.map(({ running }) => running)]).toEqual([0, 0, 0])
  })

  test('what is submitted, paused and resumed from there is done (F17)', async () => {
    const { simulation, clock, supervisor, ended, hasMeddled } = await meddle(place, (run) => {
      run.submit({ id: 'inside', prompt: [1, 5], samples: 3 })
      run.trySubmit({ id: 'tried', prompt: [1, 5] })
      void run.pause()
      void run.resume()
    })
    await clock.run(supervisor.drainAll())
    expect(hasMeddled()).toBe(true)
    expect(ended.filter((id) => id !== 'tried/0').sort()).toEqual(
      ['inside/0', 'inside/1', 'inside/2', ...ids.map((id) => `${id}/0`)].sort(),
    )
    expect(supervisor.getSnapshot().conservation).toMatchObject({ waiting: 0, running: 0 })
    expect(await closeSimulation(simulation)).toBe(0)
  })
})

test('a guard of the machine that throws refuses, is reported, and ends nothing (F17)', async () => {
  const faults: string[] = []
  let asked = 0
  const takesWork: InstanceGuard = ({ context }) => {
    if (context.id === 'a' || asked++ % 2 === 0) throw new Error('a bug of the user')
    return context.leases < context.capacity
  }
  const own = instanceMachine.provide({ guards: { takesWork } })
  const simulation = await startSimulation(fleet, { instanceMachine: own })
  const { clock, supervisor, servers } = simulation
  supervisor.events$.subscribe((event) => event.type === 'run.fault' && faults.push(event.error.code))
  const group = await clock.run(supervisor.submit({ prompt: [1, 20], samples: 8 }).result)
  expect(group.complete).toBe(true)
  expect(servers.map(({ maxRunning }) => maxRunning > 0)).toEqual([false, true])
  expect(supervisor.getSnapshot().instances.map(({ running }) => running)).toEqual([0, 0])
  expect(new Set(faults)).toEqual(new Set(['MACHINE_FAILED']))
  expect(await closeSimulation(simulation)).toBe(0)
})

test('an action of the machine that throws takes its instance out, named, and its samples go on elsewhere (F17)', async () => {
  const faults: unknown[] = []
  const own = instanceMachine.provide({
    actions: {
      take: assign({
        leases: ({ context }) => {
          if (context.id === 'b' && context.leases === 1) throw new Error('a bug of the user')
          return context.leases + 1
        },
      }),
    },
  })
  const simulation = await startSimulation([{ capacity: 2 }, { capacity: 3 }], { instanceMachine: own })
  const { clock, supervisor } = simulation
  supervisor.events$.subscribe((event) => {
    if (event.type === 'instance.fault') faults.push([event.instance, event.error.code])
    if (event.type === 'instance.left') faults.push([event.instance, 'left'])
  })
  const group = await clock.run(supervisor.submit({ prompt: [1, 20], samples: 8 }).result)
  expect(group.complete).toBe(true)
  expect(faults).toEqual([
    ['b', 'MACHINE_FAILED'],
    ['b', 'left'],
  ])
  const { instances, conservation } = supervisor.getSnapshot()
  expect(instances.map(({ id, running }) => [id, running])).toEqual([['a', 0]])
  expect(conservation).toMatchObject({ submitted: 8, waiting: 0, running: 0 })
  expect(await closeSimulation(simulation)).toBe(0)
})

test('a factory of drivers that throws lets nothing join, and its id is free', async () => {
  const simulation = await startSimulation([{ capacity: 1 }])
  const { clock, supervisor } = simulation
  const engine = (): never => {
    throw new Error('no such engine here')
  }
  expect(() => supervisor.add({ id: 'b', url: 'sim://b', engine })).toThrow('no such engine here')
  expect(supervisor.getSnapshot().instances.map(({ id }) => id)).toEqual(['a'])
  expect(Object.keys(supervisor.actor.getSnapshot().children)).toEqual(['a'])
  const server = simulateServer(clock, { id: 'b', capacity: 1 })
  supervisor.add({ id: 'b', url: 'sim://b', engine: server.engine })
  expect((await clock.run(supervisor.submit({ prompt: [1, 5], samples: 4 }).result)).complete).toBe(true)
  expect(server.maxRunning).toBe(1)
  expect(await closeSimulation(simulation)).toBe(0)
})
