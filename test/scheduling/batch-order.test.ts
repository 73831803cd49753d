/**
 * Which groups make up a batch: the three orders, and which of them waits.
 */
import { expect, test } from 'vitest'
import { type BatchOrder, chooseBatch } from '../../src/scheduling/batch-order.ts'

/** Groups in the order of the source, as `name:rank:age`; rank `-` is not ready. */
function choose(order: BatchOrder, groups: readonly string[], size = 2): string {
  const shelf = groups.map((text) => {
    const [name = '', rank = '', age = ''] = text.split(':')
    return { name, rank: rank === '-' ? null : Number(rank), age: Number(age) }
  })
  return chooseBatch(order, size, shelf)
    .map(({ name }) => name)
    .join('')
}

test('as-completed takes what was ready first, whatever its age', () => {
  expect(choose('as-completed', ['a:2:2', 'b:-:2', 'c:0:0', 'd:1:0'])).toBe('cd')
  expect(choose('as-completed', ['a:2:0'])).toBe('a')
})

test('source takes a prefix, and waits for the first that is not ready', () => {
  expect(choose('source', ['a:2:0', 'b:0:0', 'c:1:0'])).toBe('ab')
  expect(choose('source', ['a:2:0', 'b:-:0', 'c:1:0'])).toBe('a')
})

test('oldest-first takes the oldest tokens, then the order of the source', () => {
  expect(choose('oldest-first', ['a:2:0', 'b:0:0', 'c:1:1'])).toBe('ca')
  expect(choose('oldest-first', ['a:2:0', 'b:0:Infinity', 'c:1:Infinity'], 3)).toBe('bca')
})

test('oldest-first and as-completed wait for no group that runs', () => {
  expect(choose('oldest-first', ['a:-:2', 'b:1:0', 'c:0:0'])).toBe('bc')
  expect(choose('as-completed', ['a:-:2', 'b:1:0', 'c:0:0'])).toBe('cb')
})
