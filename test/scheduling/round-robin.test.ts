/**
 * round-robin, plain and strict, against a naive model (decision 13, A4).
 */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { createLedger } from '../../src/rollout/ledger.ts'
import { hasRoom } from '../../src/scheduling/policy.ts'
import { roundRobin } from '../../src/scheduling/round-robin.ts'
import { play, sample, steps } from './fleet-of-loads.ts'

test.each([false, true])('picks the next in joining order (strict: %s), while instances come and go', (strict) => {
  fc.assert(
    fc.property(steps, (life) => {
      /** Joining numbers go up for ever: the last one that had its turn. */
      let last = -1
      play(roundRobin({ strict }), life, (picked, fleet) => {
        const number = (id: string): number => Number(id.slice(1))
        const marked = fleet.filter((each) => (strict ? each.limit > 0 : hasRoom(each)))
        const next = marked.find(({ id }) => number(id) > last) ?? marked[0]
        if (next === undefined || !hasRoom(next)) {
          expect(picked).toBe(null)
          return
        }
        expect(picked).toBe(next.id)
        last = number(next.id)
      })
    }),
    { numRuns: 400 },
  )
})

function fleetOf(strict: boolean, ids: readonly string[], limit = 1) {
  const policy = roundRobin({ strict })
  const ledger = createLedger((account) => policy.changed(account))
  for (const id of ids) {
    policy.add(ledger.add(id, 1))
    ledger.setLimit(id, limit)
  }
  return { policy, ledger }
}

test('A4: a full instance is skipped, or waited for in the strict order', () => {
  for (const strict of [false, true]) {
    const { policy, ledger } = fleetOf(strict, ['a', 'b', 'c'])
    const leases = ['a', 'b', 'c'].map((id) => {
      expect(policy.pick(sample)).toBe(id)
      return ledger.grant(id)
    })
    ledger.release(leases[1]!.id)
    expect(policy.pick(sample)).toBe(strict ? null : 'b')
    ledger.setLimit('a', 0)
    expect(policy.pick(sample)).toBe('b')
  }
})

test('says its name, with the order', () => {
  expect([roundRobin().name, roundRobin({ strict: true }).name]).toEqual(['round-robin', 'round-robin (strict)'])
})
