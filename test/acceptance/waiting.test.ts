/**
 * Waiting: in line, with a reason, and woken one by one (D11, D13 to D15, D19, D20, D26).
 */
import { getEventListeners } from 'node:events'
import { describe, expect, test } from 'vitest'
import { type DriverFactory, type PlacementPolicy, RolloutError, type WaitReason } from '../../src/index.ts'
import { leastRequest } from '../../src/scheduling/least-request.ts'
import { simulateServer } from '../../src/testing/simulated-fleet.ts'
import { closeSimulation, simulate, startSimulation } from '../simulate.ts'

describe('D11: every waiting sample can say what it waits for', () => {
  const reasons = (map: ReadonlyMap<number, WaitReason>): WaitReason[] => [...map.values()]

  test('phase, version, turn and gate', async () => {
    const simulation = simulate([{ capacity: 1 }, { capacity: 2, tokenMs: 100 }], {
      policy: { name: 'round-robin', strict: true },
    })
    const { clock, supervisor } = simulation
    const early = supervisor.submit({ prompt: [1, 10] })
    expect(reasons(early.waitingFor)).toEqual(['phase'])
    await clock.run(supervisor.start())
    const rollouts = [1, 2, 3, 4].map(() => supervisor.submit({ prompt: [1, 10], samples: 1 }))
    const versioned = supervisor.submit({ prompt: [1, 10], minVersion: 1 })
    expect(reasons(versioned.waitingFor)).toEqual(['version'])
    // a, b and then a again, which is full: the turn is a's, although b has a slot.
    expect(reasons(rollouts[1]!.waitingFor)).toEqual(['turn'])
    expect(supervisor.getSnapshot().waiting).toMatchObject({ turn: 3, version: 1 })
    versioned.cancel()
    await clock.run(supervisor.pause())
    expect(reasons(rollouts[3]!.waitingFor)).toEqual(['phase'])
    await supervisor.resume()
    await clock.run(supervisor.drainAll())
    for (const server of simulation.servers) server.die()
    const stuck = supervisor.submit({ prompt: [1, 10], samples: 6 })
    await clock.advance(50)
    expect(new Set(reasons(stuck.waitingFor))).toEqual(new Set(['gate']))
    stuck.cancel()
    expect(await closeSimulation(simulation)).toBe(0)
  })

  test('a busy engine: backoff, for as long as it asked', async () => {
    const simulation = simulate([])
    const { clock, supervisor } = simulation
    const server = simulateServer(clock, { id: 'a' })
    const tries: number[] = []
    const engine: DriverFactory = (options) => {
      const driver = server.engine(options)
      const generate: typeof driver.generate = (request, signal) => {
        tries.push(clock.now())
        if (tries.length < 3) throw new RolloutError('BUSY', 'no room', { retryAfterMs: 700 })
        return driver.generate(request, signal)
      }
      return { ...driver, generate }
    }
    supervisor.add({ id: 'a', url: server.url, engine })
    await clock.run(supervisor.start())
    const rollout = supervisor.submit({ prompt: [1, 10] })
    expect(reasons(rollout.waitingFor)).toEqual(['backoff'])
    expect(supervisor.getSnapshot().waiting.backoff).toBe(1)
    expect((await clock.run(rollout.result)).complete).toBe(true)
    expect(tries).toEqual([0, 700, 1_400])
    expect(supervisor.getSnapshot().instances[0]).toMatchObject({ state: 'serving.idle', failed: 0 })
    expect(await closeSimulation(simulation)).toBe(0)
  })

  test('reasons sum to the number that waits', async () => {
    const simulation = await startSimulation([{ capacity: 1 }])
    const { clock, supervisor } = simulation
    supervisor.submit({ prompt: [1, 10], samples: 4 })
    supervisor.submit({ prompt: [1, 10], samples: 2, minVersion: 3 })
    const { waiting, conservation } = supervisor.getSnapshot()
    expect(waiting).toMatchObject({ capacity: 3, version: 2 })
    expect(conservation.waiting).toBe(5)
    expect(await closeSimulation(simulation)).toBe(0)
    expect(clock.pending).toBe(0)
  })

  test('waitMs ends a sample that got no slot as expired, and no other', async () => {
    const simulation = await startSimulation([{ capacity: 1 }], { timeouts: { waitMs: 150 } })
    const { clock, supervisor } = simulation
    const group = await clock.run(supervisor.submit({ prompt: [1, 10], samples: 3 }).result)
    expect(group.completions.map(({ outcome, error }) => [outcome, error?.code ?? null])).toEqual([
      ['completed', null],
      ['completed', null],
      ['expired', 'WAIT_TIMEOUT'],
    ])
    expect(group.completions[2]!.timings).toEqual({ waitedMs: 150, firstTokenMs: null, totalMs: 150 })
    expect(await closeSimulation(simulation)).toBe(0)
  })

  test('waitMs is over with the first slot: a sample that waits again is not expired', async () => {
    const simulation = await startSimulation([{ capacity: 1 }, { capacity: 1 }], { timeouts: { waitMs: 50 } })
    const { clock, supervisor } = simulation
    supervisor.submit({ prompt: [1, 30] })
    const moved = supervisor.submit({ prompt: [1, 30] })
    await clock.advance(40)
    await clock.run(supervisor.remove('b'))
    const { completions } = await clock.run(moved.result)
    expect(completions[0]).toMatchObject({ outcome: 'completed', segments: [{ instance: 'b' }, { instance: 'a' }] })
    expect(completions[0]!.timings.waitedMs).toBeGreaterThan(50)
    expect(await closeSimulation(simulation)).toBe(0)
  })
})

test('D13: a pause stops placement at once, also of those just woken', async () => {
  const simulation = await startSimulation([{ capacity: 2 }])
  const { clock, supervisor } = simulation
  let paused: Promise<unknown> | null = null
  const placed: number[] = []
  supervisor.events$.subscribe((event) => {
    if (event.type === 'sample.placed') placed.push(event.at)
    // As a slot is freed, and before the one that waits for it is placed.
    if (event.type === 'sample.released') paused ??= supervisor.pause()
  })
  const rollout = supervisor.submit({ prompt: [1, 10], samples: 6 })
  await clock.advance(10_000)
  expect(placed).toEqual([0, 0])
  await paused
  expect(supervisor.getSnapshot()).toMatchObject({ phase: 'paused', waiting: { phase: 4 } })
  const later = supervisor.submit({ prompt: [1, 10] })
  expect(supervisor.trySubmit({ prompt: [1, 10] })).toBe(null)
  await clock.advance(10_000)
  expect(placed.length).toBe(2)
  await supervisor.resume()
  await clock.run(Promise.all([rollout.result, later.result]))
  expect(placed.length).toBe(7)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('D13: a pause that has to wait for a rolling update stops placement from the moment it is called', async () => {
  const simulation = await startSimulation([
    { capacity: 1, loadMs: 100 },
    { capacity: 1, loadMs: 100 },
  ])
  const { clock, supervisor } = simulation
  const placed: number[] = []
  supervisor.events$.subscribe((event) => event.type === 'sample.placed' && placed.push(event.at))
  const update = supervisor.updateWeights({ version: 1, path: '/w', rolling: 1 })
  supervisor.submit({ prompt: [1, 3], samples: 2 })
  await clock.advance(50)
  // One loads, the other serves on.
  const before = [...placed]
  expect([before.includes(0), supervisor.getSnapshot().phase]).toEqual([true, 'weightUpdate'])
  const paused = supervisor.pause()
  const late = supervisor.submit({ prompt: [1, 3], samples: 2 })
  await clock.advance(20)
  expect([...late.waitingFor.values()]).toEqual(['phase', 'phase'])
  await clock.run(Promise.all([update, paused]))
  await clock.advance(1_000)
  expect(placed).toEqual(before)
  await clock.run(supervisor.resume())
  expect((await clock.run(late.result)).complete).toBe(true)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('D14: 200 waiters over 2 slots cost at most 2 placement steps a task', async () => {
  const simulation = await startSimulation([{ capacity: 1 }, { capacity: 1 }])
  const { clock, supervisor } = simulation
  const before = supervisor.getSnapshot().placementSteps
  for (let key = 0; key < 200; key++) supervisor.submit({ prompt: [key, 1 + (key % 5)] })
  await clock.run(supervisor.drainAll())
  expect(supervisor.getSnapshot().placementSteps - before).toBeLessThanOrEqual(400)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('D15: first come, first served within a class and a priority, and classes in their order', async () => {
  const simulation = await startSimulation([{ capacity: 1 }, { capacity: 1 }])
  const { clock, supervisor } = simulation
  const order: string[] = []
  supervisor.events$.subscribe((event) => {
    if (event.type === 'sample.placed') order.push(event.taskId)
  })
  supervisor.submit({ id: 'running', prompt: [1, 10] })
  supervisor.submit({ id: 'interrupted', prompt: [2, 40] })
  await clock.advance(5)
  supervisor.submit({ id: 'first', prompt: [1, 10] })
  supervisor.submit({ id: 'second', prompt: [1, 10] })
  supervisor.submit({ id: 'urgent', prompt: [1, 10], priority: 5 })
  supervisor.submit({ id: 'evaluation', prompt: [1, 10], kind: 'evaluation' })
  supervisor.submit({ id: 'lazy', prompt: [1, 10], priority: -1 })
  const removed = supervisor.remove('b')
  await clock.advance(50)
  supervisor.submit({ id: 'newcomer', prompt: [1, 10] })
  await clock.run(supervisor.drainAll())
  await clock.run(removed)
  const waited = order.slice(2)
  expect(waited).toEqual(['evaluation', 'interrupted', 'urgent', 'first', 'second', 'newcomer', 'lazy'])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('D19: nothing grows with the number of tasks ever run', async () => {
  const simulation = await startSimulation([{ capacity: 4 }, { capacity: 4 }])
  const { clock, supervisor } = simulation
  const sizes: number[] = []
  for (let turn = 0; turn < 3; turn++) {
    for (let key = 0; key < 100; key++) supervisor.submit({ id: `same-${key}`, prompt: [key, 2], samples: 2 })
    await clock.run(supervisor.drainAll())
    await clock.settle()
    expect(clock.pending).toBe(0)
    // What the supervisor holds, as far as it can be reached; its maps are looked at in the property tests (I5).
    sizes.push(JSON.stringify(supervisor.actor.getPersistedSnapshot()).length)
  }
  expect(sizes[2]).toBe(sizes[0])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('D20: a placement looks at no more instances in a large fleet than in a small one', async () => {
  const looksOf = async (instances: number): Promise<number> => {
    let looks = 0
    const inner = leastRequest()
    /** least-request that counts how often it reads the load of an instance. */
    const counting: PlacementPolicy = {
      name: 'counting',
      add: (instance) =>
        inner.add({
          get id() {
            return instance.id
          },
          get limit() {
            looks++
            return instance.limit
          },
          get running() {
            return instance.running
          },
          get weight() {
            return instance.weight
          },
          get lastGranted() {
            return instance.lastGranted
          },
          get failures() {
            return instance.failures
          },
        }),
      remove: (id) => inner.remove(id),
      changed: (instance) => {
        looks++
        inner.changed(instance)
      },
      pick: (sample) => inner.pick(sample),
    }
    const fleet = Array.from({ length: instances }, (_, at) => ({ id: `i${at}`, capacity: 2 }))
    const simulation = await startSimulation(fleet, { policy: counting })
    looks = 0
    simulation.supervisor.submit({ prompt: [1, 5], samples: 100 })
    await simulation.clock.run(simulation.supervisor.drainAll())
    const counted = looks
    expect(await closeSimulation(simulation)).toBe(0)
    return counted
  }
  const [small, large] = [await looksOf(50), await looksOf(500)]
  expect(large).toBeLessThanOrEqual(small)
})

test('D26: whatever a batch waits for ends with that one thing: no second gate holds it', async () => {
  const simulation = await startSimulation([{ capacity: 2 }])
  const { clock, supervisor } = simulation
  await clock.run(supervisor.pause())
  const reader = supervisor.completions({ highWaterMark: 1 })
  const first = reader.next()
  const batch = [1, 2, 3].map((key) => supervisor.submit({ prompt: [key, 5], samples: 2, minVersion: 1 }))
  expect(supervisor.getSnapshot().waiting).toMatchObject({ version: 6 })
  await clock.run(supervisor.updateWeights({ version: 1, path: '/w' }))
  expect(supervisor.getSnapshot().waiting).toMatchObject({ version: 0, phase: 6 })
  await supervisor.resume()
  await clock.run(batch[0]!.result)
  await clock.advance(1_000)
  // Only the reader holds it back now, and only it says so.
  const { waiting } = supervisor.getSnapshot()
  expect(waiting.backPressure).toBeGreaterThan(0)
  expect(Object.values(waiting).reduce((sum, each) => sum + each, 0)).toBe(waiting.backPressure)
  await first
  await reader.return!()
  const groups = await clock.run(Promise.all(batch.map(({ result }) => result)))
  expect(groups.every(({ complete }) => complete)).toBe(true)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('D19: the deadline of a sample that got its slot leaves no timer', async () => {
  const simulation = await startSimulation([{ capacity: 1 }], { timeouts: { waitMs: 60_000 } })
  const { clock, supervisor } = simulation
  const first = supervisor.submit({ prompt: [1, 5] })
  const second = supervisor.submit({ prompt: [1, 5] })
  await clock.run(first.result)
  await clock.run(second.result)
  expect([clock.pending, clock.now()]).toEqual([0, 100])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('D19: a signal that outlives its tasks keeps nothing of them', async () => {
  const simulation = await startSimulation([{ capacity: 2 }])
  const { clock, supervisor } = simulation
  const { signal } = new AbortController()
  const listeners = () => getEventListeners(signal, 'abort').length
  const rollouts = [1, 2, 3].map((key) => supervisor.submit({ prompt: [key, 5], samples: 2, signal }))
  expect(listeners()).toBe(3)
  expect(supervisor.trySubmit({ prompt: [1, 5], signal })).toBe(null)
  rollouts[0]!.cancel()
  expect(listeners()).toBe(2)
  await clock.run(supervisor.drainAll())
  expect(listeners()).toBe(0)
  supervisor.submit({ prompt: [1, 500], signal })
  expect(await closeSimulation(simulation)).toBe(0)
  expect(listeners()).toBe(0)
})
