/**
 * The ledger against naive books: granted once, released once, never above the limit (I3, I4, D7, D18, D19, D24).
 */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { createLedger } from '../../src/rollout/ledger.ts'

const step = fc.oneof(
  { weight: 1, arbitrary: fc.record({ add: fc.constantFrom('a', 'b', 'c') }) },
  { weight: 1, arbitrary: fc.record({ remove: fc.constantFrom('a', 'b', 'c', 'd') }) },
  {
    weight: 2,
    arbitrary: fc.record({ limit: fc.integer({ min: 0, max: 5 }), of: fc.constantFrom('a', 'b', 'c', 'd') }),
  },
  { weight: 6, arbitrary: fc.record({ grant: fc.constantFrom('a', 'b', 'c', 'd') }) },
  { weight: 5, arbitrary: fc.record({ release: fc.integer({ min: -1, max: 60 }) }) },
)

test('is the same as a list of who holds what', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200, size: 'max' }), (life) => {
      const told: string[] = []
      const ledger = createLedger(({ id }) => told.push(id))
      /** Books of one membership: an instance that left and came back has new ones. */
      const books = new Map<string, { limit: number; running: number }>()
      const leases = new Map<number, { limit: number; running: number }>()
      /** Every lease that was ever granted, held or not. */
      const granted: number[] = []
      for (const each of life) {
        if ('add' in each) {
          if (books.has(each.add)) continue
          ledger.add(each.add, 1)
          books.set(each.add, { limit: 0, running: 0 })
        } else if ('remove' in each) {
          ledger.remove(each.remove)
          books.delete(each.remove)
        } else if ('limit' in each) {
          ledger.setLimit(each.of, each.limit)
          const of = books.get(each.of)
          if (of !== undefined) of.limit = each.limit
        } else if ('grant' in each) {
          const of = books.get(each.grant)
          if (of === undefined || of.running >= of.limit) {
            expect(() => ledger.grant(each.grant)).toThrow(expect.objectContaining({ code: 'UNKNOWN_INSTANCE' }))
            continue
          }
          const lease = ledger.grant(each.grant)
          expect(lease.instance).toBe(each.grant)
          expect(granted).not.toContain(lease.id)
          granted.push(lease.id)
          leases.set(lease.id, of)
          of.running++
        } else {
          const lease = granted[each.release] ?? each.release
          const of = leases.get(lease)
          if (of === undefined) {
            expect(() => ledger.release(lease)).toThrow(expect.objectContaining({ code: 'UNKNOWN_LEASE' }))
            continue
          }
          ledger.release(lease)
          leases.delete(lease)
          of.running--
        }
        expect(ledger.held).toBe(leases.size)
        expect(ledger.free).toBe(
          [...books.values()].reduce((sum, { limit, running }) => sum + Math.max(0, limit - running), 0),
        )
        for (const [id, { limit, running }] of books) expect(ledger.get(id)).toMatchObject({ limit, running })
        expect(ledger.get('d')).toBe(undefined)
      }
    }),
    { numRuns: 100 },
  )
})

test('A3, D24: releasing what is not held names the lease, and changes nothing', () => {
  const ledger = createLedger(() => {})
  ledger.add('a', 1)
  ledger.setLimit('a', 2)
  const lease = ledger.grant('a')
  ledger.grant('a')
  ledger.release(lease.id)
  for (const id of [lease.id, 99, 0, -1, 1.5, Number.NaN])
    expect(() => ledger.release(id)).toThrow(`lease ${id} is not held`)
  expect([ledger.held, ledger.free]).toEqual([1, 1])
})

test('a lease outlives the membership of its instance, and frees no slot of its successor', () => {
  const changed: string[] = []
  const ledger = createLedger(({ id }) => changed.push(id))
  ledger.add('a', 1)
  ledger.setLimit('a', 1)
  const lease = ledger.grant('a')
  ledger.remove('a')
  ledger.add('a', 1)
  ledger.setLimit('a', 1)
  ledger.grant('a')
  changed.length = 0
  ledger.release(lease.id)
  expect(changed).toEqual([])
  expect([ledger.held, ledger.free, ledger.get('a')!.running]).toEqual([1, 0, 1])
})
