/**
 * The queue against a naive model: classes, priorities, first come first served, and new tasks held back (D15, I6).
 */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { QueueLane, Waiter } from '../../src/rollout/waiter.ts'
import { createQueue } from '../../src/scheduling/queue.ts'

interface Named extends Waiter {
  readonly name: number
}
const lanes: readonly QueueLane[] = ['evaluation', 'interrupted', 'retry', 'started', 'fresh']
const waiter = (name: number, priority: number, order: number = name): Named => ({
  name,
  priority,
  order,
  track: 0,
  lane: null,
  before: null,
  after: null,
})

/** First by class, then by priority, then by the order of joining; started and fresh are one class, started first. */
function firstOf(model: readonly Named[], holdFresh: boolean): Named | null {
  const classOf = ({ lane }: Named): number => Math.min(lanes.indexOf(lane!), 3)
  const eligible = model.filter(({ lane }) => !holdFresh || lane !== 'fresh')
  const sorted = [...eligible].sort(
    (a, b) =>
      classOf(a) - classOf(b) ||
      b.priority - a.priority ||
      lanes.indexOf(a.lane!) - lanes.indexOf(b.lane!) ||
      model.indexOf(a) - model.indexOf(b),
  )
  return sorted[0] ?? null
}

const step = fc.oneof(
  { weight: 4, arbitrary: fc.record({ lane: fc.constantFrom(...lanes), priority: fc.constantFrom(0, 0, 1, -2.5, 7) }) },
  { weight: 2, arbitrary: fc.record({ remove: fc.nat(1_000) }) },
  { weight: 3, arbitrary: fc.record({ take: fc.boolean() }) },
)

test('is a sorted list, in every order of adding, removing and taking', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 150, size: 'max' }), (life) => {
      const queue = createQueue<Named>()
      const model: Named[] = []
      const drop = (each: Named): void => {
        queue.remove(each)
        model.splice(model.indexOf(each), 1)
        expect([each.lane, each.before, each.after]).toEqual([null, null, null])
      }
      for (const [name, each] of life.entries()) {
        if ('lane' in each) {
          const made = waiter(name, each.priority)
          queue.add(made, each.lane)
          model.push(made)
        } else if ('remove' in each) {
          if (model.length > 0) drop(model[each.remove % model.length]!)
        } else {
          const first = queue.peek(each.take)
          expect(first).toBe(firstOf(model, each.take))
          if (first !== null) drop(first)
        }
        expect(queue.size).toBe(model.length)
        for (const lane of lanes) expect(queue.sizeOf(lane)).toBe(model.filter((one) => one.lane === lane).length)
      }
      expect([...queue].map(({ name }) => name).sort((a, b) => a - b)).toEqual(model.map(({ name }) => name))
    }),
    { numRuns: 100 },
  )
})

test('removing what is in no lane does nothing', () => {
  const queue = createQueue<Named>()
  queue.remove(waiter(1, 0))
  expect([queue.size, queue.peek(false)]).toEqual([0, null])
})

test('a waiter is reached without looking at the others (D14)', () => {
  const queue = createQueue<Named>()
  const all = Array.from({ length: 10_000 }, (_, name) => waiter(name, 0))
  for (const each of all) queue.add(each, 'fresh')
  let looks = 0
  for (const each of all.slice(1)) {
    const { after } = each
    const look = (): Waiter | null => {
      looks++
      return after
    }
    Object.defineProperty(each, 'after', { get: look, set: () => {}, configurable: true })
  }
  for (let time = 0; time < 100; time++) queue.peek(false)
  expect(looks).toBe(0)
})

test('waiters that come late stand at their place, whatever their order of coming', () => {
  fc.assert(
    fc.property(
      fc.uniqueArray(fc.nat(500), { maxLength: 60, size: 'max' }),
      fc.array(fc.nat(60), { maxLength: 60, size: 'max' }),
      (orders, removals) => {
        const queue = createQueue<Named>()
        const all = orders.map((order) => waiter(order, 0))
        const left = new Set(all)
        all.forEach((each, index) => {
          queue.add(each, 'fresh')
          const gone = all[removals[index] ?? -1]
          if (gone === undefined || gone.lane === null) return
          queue.remove(gone)
          left.delete(gone)
        })
        const expected = [...left].sort((a, b) => a.order - b.order)
        expect([...queue]).toEqual(expected)
        expect(queue.size).toBe(expected.length)
      },
    ),
    { numRuns: 200 },
  )
})

test('tracks hold up no others: the earliest head of those that are not skipped is next, and merged they are one line', () => {
  const queue = createQueue<Named>()
  const all = [0, 1, 2, 3, 4, 5].map((name) => waiter(name, 0))
  for (const each of all) queue.add(each, 'fresh')
  for (const each of [0, 2]) queue.divert(all[each]!, 1)
  queue.divert(all[1]!, 2)
  const next = (...skipped: number[]): number | undefined => queue.peek(false, new Set(skipped))?.name
  expect([next(), next(1), next(1, 2), next(0, 1, 2)]).toEqual([0, 1, 3, undefined])
  expect([queue.size, queue.sizeOfTrack(1, false), queue.sizeOfTrack(1, true), queue.sizeOf('fresh')]).toEqual([
    6, 2, 0, 6,
  ])
  queue.merge()
  expect([...queue].map(({ name }) => name)).toEqual([0, 1, 2, 3, 4, 5])
  expect(queue.sizeOfTrack(1, false)).toBe(0)
})
