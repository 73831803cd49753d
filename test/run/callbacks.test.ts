/**
 * Callbacks that act on the supervisor from inside its own events: what they ask for happens, once, and the books stay right.
 */
import { expect, test } from 'vitest'
import type { Group, PlacementPolicy } from '../../src/index.ts'
import { simulateServer } from '../../src/testing/simulated-fleet.ts'
import { closeSimulation, startSimulation } from '../simulate.ts'

test('a subscriber that cancels the rest of a task at its first completion gets one group', async () => {
  const simulation = await startSimulation([{ capacity: 2 }])
  const { clock, supervisor } = simulation
  const groups: Group[] = []
  supervisor.groups$.subscribe((group) => groups.push(group))
  const rollout = supervisor.submit({ prompt: [7, 5], samples: 4 })
  supervisor.completions$.subscribe(() => rollout.cancel('one is enough'))
  const group = await clock.run(rollout.result)
  expect(group.completions.map(({ outcome }) => outcome)).toEqual(['completed', 'cancelled', 'cancelled', 'cancelled'])
  expect(groups).toEqual([group])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('a sample that is cancelled as it is placed is never sent, and its slot is free again (I11)', async () => {
  const simulation = await startSimulation([{ capacity: 1 }])
  const { clock, supervisor, servers } = simulation
  const rollout = supervisor.submit({ prompt: [7, 5], minVersion: 1 })
  supervisor.events$.subscribe((event) => {
    if (event.type === 'sample.placed') rollout.cancel()
  })
  await clock.run(supervisor.updateWeights({ version: 1, path: '/w/1' }))
  await clock.settle()
  expect((await rollout.result).completions[0]!.outcome).toBe('cancelled')
  expect(servers[0]!.maxRunning).toBe(0)
  expect(supervisor.getSnapshot().instances[0]!.running).toBe(0)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('an instance that is removed as a sample is placed on it gives the sample back', async () => {
  const simulation = await startSimulation([{ capacity: 1 }, { capacity: 1 }])
  const { clock, supervisor } = simulation
  let removed = ''
  supervisor.events$.subscribe((event) => {
    if (event.type !== 'sample.placed' || removed !== '') return
    removed = event.instance
    void supervisor.remove(event.instance)
  })
  const group = await clock.run(supervisor.submit({ prompt: [7, 5], samples: 3 }).result)
  expect(group.complete).toBe(true)
  expect(supervisor.getSnapshot().instances.map(({ id }) => id)).not.toContain(removed)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('an instance added under the id of one that is just leaving stays (D9)', async () => {
  const simulation = await startSimulation([{ capacity: 1 }, { capacity: 1 }])
  const { clock, supervisor, servers } = simulation
  const { id, url, engine } = servers[1]!
  supervisor.events$.subscribe((event) => {
    if (event.type === 'instance.left') supervisor.add({ id, url, engine })
  })
  await clock.run(supervisor.remove(id))
  const group = await clock.run(supervisor.submit({ prompt: [7, 5], samples: 4 }).result)
  expect(new Set(group.completions.map(({ segments }) => segments[0]!.instance))).toEqual(new Set(['a', 'b']))
  expect(await closeSimulation(simulation)).toBe(0)
})

test('a task submitted when another one expires has a deadline of its own, and no timer is left', async () => {
  const simulation = await startSimulation([{ capacity: 1, tokenMs: 10 }], { timeouts: { waitMs: 50 } })
  const { clock, supervisor } = simulation
  supervisor.submit({ prompt: [1, 100] })
  await clock.settle()
  const timers = clock.pending
  const expired: number[] = []
  let last = supervisor.submit({ prompt: [2, 5] })
  supervisor.completions$.subscribe(({ outcome }) => {
    if (outcome !== 'expired') return
    expired.push(clock.now())
    last = supervisor.submit({ prompt: [2, 5] })
  })
  await clock.advance(120)
  expect(expired).toEqual([50, 100])
  last.cancel()
  expect(clock.pending).toBe(timers)
  await clock.run(supervisor.drainAll())
  expect(await closeSimulation(simulation)).toBe(0)
})

test('a sample that is placed from inside the expiry of another one is not expired', async () => {
  let open = false
  const ids: string[] = []
  const policy: PlacementPolicy = {
    name: 'gatekeeper',
    add: ({ id }) => void ids.push(id),
    remove: () => {},
    changed: () => {},
    pick: () => (open ? ids[0]! : null),
  }
  const simulation = await startSimulation([{ capacity: 4 }], { policy, timeouts: { waitMs: 50 } })
  const { clock, supervisor } = simulation
  const outcomes: string[] = []
  supervisor.completions$.subscribe(({ id, outcome }) => {
    outcomes.push(`${id} ${outcome}`)
    if (open) return
    open = true
    supervisor.submit({ id: 'opener', prompt: [1, 5] })
  })
  for (const id of ['a', 'b']) supervisor.submit({ id, prompt: [1, 5] })
  await clock.run(supervisor.drainAll())
  expect(outcomes).toEqual(['a/0 expired', 'b/0 completed', 'opener/0 completed'])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('a run that is closed as a group is queued ends every sample of the group once (I2)', async () => {
  const simulation = await startSimulation([{ capacity: 1 }])
  const { clock, supervisor } = simulation
  const ended: string[] = []
  let closed: Promise<void> | null = null
  supervisor.completions$.subscribe(({ id }) => ended.push(id))
  supervisor.events$.subscribe((event) => {
    if (event.type === 'sample.queued') closed ??= supervisor.close()
  })
  const rollout = supervisor.submit({ id: 'group', prompt: [1, 5], samples: 3 })
  await clock.run(closed!)
  expect(ended).toEqual(['group/0', 'group/1', 'group/2'])
  expect((await rollout.result).missing.length).toBe(3)
  const { waiting, running } = supervisor.getSnapshot().conservation
  expect([waiting, running, clock.pending]).toEqual([0, 0, 0])
})

test('a group is in line before anybody is told of it: what they submit comes after it (D15)', async () => {
  const simulation = await startSimulation([{ capacity: 1 }])
  const { clock, supervisor } = simulation
  const placed: string[] = []
  let next = true
  supervisor.events$.subscribe((event) => {
    if (event.type === 'sample.placed') placed.push(`${event.taskId}/${event.sample}`)
    if (event.type === 'sample.queued' && next) {
      next = false
      supervisor.submit({ id: 'second', prompt: [1, 5] })
    }
  })
  supervisor.submit({ id: 'first', prompt: [1, 5], samples: 3 })
  await clock.run(supervisor.drainAll())
  expect(placed).toEqual(['first/0', 'first/1', 'first/2', 'second/0'])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('a subscriber that adds an instance in the middle of a placement step gets one that works', async () => {
  const simulation = await startSimulation([{ capacity: 1 }])
  const { clock, supervisor } = simulation
  const { id, url, engine } = simulateServer(clock, { id: 'late', capacity: 1 })
  const refused: unknown[] = []
  const subscription = supervisor.events$.subscribe(({ type }) => {
    if (type !== 'sample.placed') return
    subscription.unsubscribe()
    expect(supervisor.add({ id, url, engine })).toBe('late')
    try {
      supervisor.add({ id, url, engine })
    } catch (error) {
      refused.push((error as { code: string }).code)
    }
  })
  const { completions } = await clock.run(supervisor.submit({ prompt: [1, 20], samples: 2 }).result)
  expect(refused).toEqual(['DUPLICATE_INSTANCE'])
  expect(completions.map(({ segments }) => segments[0]!.instance).sort()).toEqual(['a', 'late'])
  expect(await closeSimulation(simulation)).toBe(0)
})
