/**
 * `states$`: the fleet now, then its changes, at most ten a second, with what has not changed the same objects (decision 15).
 */
import { expect, test } from 'vitest'
import type { FleetView } from '../../src/index.ts'
import { closeSimulation, startSimulation } from '../simulate.ts'

test('gives the current view first, then changes at most ten times a second, and nothing while nothing changes', async () => {
  const simulation = await startSimulation([{ capacity: 2 }, { capacity: 2 }])
  const { clock, supervisor } = simulation
  const seen: { at: number; view: FleetView }[] = []
  supervisor.states$.subscribe((view) => seen.push({ at: clock.now(), view }))
  expect(seen.map(({ at }) => at)).toEqual([0])
  expect(seen[0]!.view).toEqual(supervisor.getSnapshot())
  await clock.advance(10_000)
  expect(seen.length).toBe(1)
  // Each sample takes 20 ms: many changes in a tenth of a second.
  for (let key = 0; key < 100; key++) supervisor.submit({ prompt: [key, 2] })
  await clock.advance(10_000)
  const times = seen.map(({ at }) => at).slice(1)
  expect(times).toEqual([10_100, 10_200, 10_300, 10_400, 10_500, 10_600])
  expect(seen.at(-1)!.view.conservation).toMatchObject({ submitted: 100, waiting: 0, running: 0 })
  expect(await closeSimulation(simulation)).toBe(0)
})

test('a late subscriber begins with what is now, and one that has left leaves no timer', async () => {
  const simulation = await startSimulation([{ capacity: 1 }])
  const { clock, supervisor } = simulation
  const first = supervisor.states$.subscribe()
  supervisor.submit({ prompt: [1, 50], samples: 2 })
  const timers = clock.pending
  const views: FleetView[] = []
  const late = supervisor.states$.subscribe((view) => views.push(view))
  expect(views.map(({ conservation }) => [conservation.waiting, conservation.running])).toEqual([[1, 1]])
  first.unsubscribe()
  late.unsubscribe()
  expect(clock.pending).toBe(timers - 1)
  await clock.run(supervisor.drainAll())
  expect(views.length).toBe(1)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('an instance that has not changed is the same object', async () => {
  const simulation = await startSimulation([{ capacity: 1 }, { capacity: 1 }])
  const { clock, supervisor } = simulation
  const before = supervisor.getSnapshot().instances
  supervisor.submit({ prompt: [1, 5] })
  const after = supervisor.getSnapshot().instances
  const [busy, idle] = after[0]!.running === 1 ? [0, 1] : [1, 0]
  expect(after[idle!]).toBe(before[idle!])
  expect(after[busy!]).not.toBe(before[busy!])
  await clock.run(supervisor.drainAll())
  expect(await closeSimulation(simulation)).toBe(0)
})

test('ends at close with how it ended, and begins after it with nothing else', async () => {
  const simulation = await startSimulation([{ capacity: 1 }])
  const { supervisor } = simulation
  supervisor.submit({ prompt: [1, 500], samples: 2 })
  const told: unknown[] = []
  const listen = () =>
    supervisor.states$.subscribe({
      next: ({ conservation }) => told.push(conservation.ended.cancelled),
      complete: () => told.push('complete'),
    })
  listen()
  expect(await closeSimulation(simulation)).toBe(0)
  expect(told).toEqual([0, 2, 'complete'])
  told.length = 0
  listen()
  expect(told).toEqual([2, 'complete'])
})
