/**
 * Seeds for engines: different where noise must differ, the same where a run is repeated (decision 19).
 */
import { expect, test } from 'vitest'
import { segmentSeed } from '../../src/scheduling/seed.ts'

test('samples, segments and seeds all give seeds of their own, in 31 bits', () => {
  const seen = new Set<number>()
  for (const seed of [0, 1, 2, 2 ** 31, 2 ** 32, 2 ** 32 + 1, Number.MAX_SAFE_INTEGER])
    for (let sample = 0; sample < 32; sample++)
      for (let segment = 0; segment < 8; segment++) seen.add(segmentSeed(seed, sample, segment))
  expect(seen.size).toBe(7 * 32 * 8)
  for (const each of seen) expect(Number.isInteger(each) && each >= 0 && each < 2 ** 31).toBe(true)
})

test('is the same every time', () => {
  expect([segmentSeed(7, 0, 0), segmentSeed(7, 1, 0), segmentSeed(7, 0, 1)]).toMatchInlineSnapshot(`
    [
      1143152369,
      1107011508,
      1760011175,
    ]
  `)
  expect(segmentSeed(7, 3, 2)).toBe(segmentSeed(7, 3, 2))
})
