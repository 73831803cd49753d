/**
 * The virtual clock against a sorted list of timers, and its promises about order.
 */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { createVirtualClock } from '../../src/testing/virtual-clock.ts'

test('timers fire in order of time, then of making; cleared ones do not; pending counts the rest', async () => {
  const step = fc.oneof(
    { weight: 3, arbitrary: fc.record({ delay: fc.integer({ min: -5, max: 50 }) }) },
    { weight: 1, arbitrary: fc.record({ clear: fc.nat(1_000) }) },
    { weight: 1, arbitrary: fc.record({ advance: fc.integer({ min: 0, max: 30 }) }) },
  )
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 150, size: 'max' }), async (life) => {
      const clock = createVirtualClock(100)
      const fired: string[] = []
      const expected: string[] = []
      let model: { id: number; at: number; handle: unknown }[] = []
      let now = 100
      let made = 0
      for (const each of life) {
        if ('delay' in each) {
          const id = made++
          const handle = clock.setTimeout(() => fired.push(`${id} at ${clock.now()}`), each.delay)
          model.push({ id, at: now + Math.max(0, each.delay), handle })
        } else if ('clear' in each) {
          const [gone] = model.splice(each.clear % Math.max(1, model.length), 1)
          clock.clearTimeout(gone?.handle)
          clock.clearTimeout(gone?.handle)
        } else {
          now += each.advance
          const due = model.filter(({ at }) => at <= now).sort((a, b) => a.at - b.at || a.id - b.id)
          model = model.filter(({ at }) => at > now)
          expected.push(...due.map(({ id, at }) => `${id} at ${at}`))
          await clock.advance(each.advance)
          expect(clock.now()).toBe(now)
        }
        expect(clock.pending).toBe(model.length)
      }
      expect(fired).toEqual(expected)
    }),
    { numRuns: 60 },
  )
})

test('everything that a timer makes ready runs before the next timer', async () => {
  const clock = createVirtualClock()
  const order: string[] = []
  clock.setTimeout(async () => {
    order.push('first')
    for (let await_ = 0; await_ < 20; await_++) await null
    order.push('what follows the first')
  }, 10)
  clock.setTimeout(() => order.push('second'), 10)
  await clock.advance(10)
  expect(order).toEqual(['first', 'what follows the first', 'second'])
})

test('a timer set by a timer fires in the same advance when it is due', async () => {
  const clock = createVirtualClock()
  const at: number[] = []
  const again = (): void => {
    at.push(clock.now())
    clock.setTimeout(again, 30)
  }
  clock.setTimeout(again, 30)
  await clock.advance(100)
  expect(at).toEqual([30, 60, 90])
  expect(clock.pending).toBe(1)
})

test('run answers as its work does, as soon as it can, and says when it never will', async () => {
  const clock = createVirtualClock()
  const after = (ms: number) => new Promise<number>((resolve) => void clock.setTimeout(() => resolve(clock.now()), ms))
  expect(await clock.run(after(3_600_000))).toBe(3_600_000)
  const error = new Error('no')
  await expect(clock.run(after(5).then(() => Promise.reject(error)))).rejects.toBe(error)
  await expect(clock.run(new Promise(() => {}))).rejects.toThrow(/no timer left/)
  expect(clock.now()).toBe(3_600_005)
})
