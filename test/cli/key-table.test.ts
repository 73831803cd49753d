/**
 * The compact map behaves like a Map, also while it grows.
 */
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { createKeyTable } from '../../src/cli/key-table.ts'

it('answers like a Map', () => {
  const key = fc.integer({ min: 0, max: 5_000 }).map(String)
  fc.assert(
    fc.property(
      fc.array(fc.tuple(key, fc.integer({ min: 1, max: 2 ** 32 - 1 })), { minLength: 2_000, maxLength: 5_000 }),
      (entries) => {
        const map = new Map<string, number>()
        const table = createKeyTable()
        for (const [name, value] of entries) {
          expect(table.set(name, value)).toBe(map.get(name) ?? 0)
          map.set(name, value)
        }
        expect(table.size).toBe(map.size)
        for (let name = 0; name <= 5_000; name += 7) expect(table.get(String(name))).toBe(map.get(String(name)) ?? 0)
      },
    ),
    { numRuns: 20 },
  )
})

it('tells a million keys apart that differ in little', () => {
  const table = createKeyTable()
  let mistaken = 0
  for (let number = 0; number < 250_000; number++) {
    for (const key of [`p${number}`, `0 prompt-${number}`, `${number} a`, `train/${number}/x`]) {
      if (table.set(key, 1) !== 0) mistaken += 1
    }
  }
  expect(mistaken).toBe(0)
  expect(table.size).toBe(1_000_000)
})
