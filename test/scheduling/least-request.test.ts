/**
 * least-request against the sentence that defines it (decision 12).
 */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { createLedger } from '../../src/rollout/ledger.ts'
import { leastRequest } from '../../src/scheduling/least-request.ts'
import { hasRoom, type InstanceLoad } from '../../src/scheduling/policy.ts'
import { play, sample, steps } from './fleet-of-loads.ts'

const scoreOf = ({ running, failures, limit, weight }: InstanceLoad): number =>
  (running + 1 + failures) / (limit * weight)

test('always picks one of the smallest score, the least recently used of them (D8, D22)', () => {
  fc.assert(
    fc.property(steps, (life) => {
      play(leastRequest(), life, (picked, fleet) => {
        const open = fleet.filter(hasRoom)
        if (open.length === 0) {
          expect(picked).toBe(null)
          return
        }
        const chosen = open.find(({ id }) => id === picked)!
        expect(chosen).toBeDefined()
        const best = Math.min(...open.map(scoreOf))
        const oldest = Math.min(...open.filter((each) => scoreOf(each) === best).map((each) => each.lastGranted))
        expect([scoreOf(chosen), chosen.lastGranted]).toEqual([best, oldest])
      })
    }),
    { numRuns: 400 },
  )
})

test('an empty fleet, and one without room, pick nobody', () => {
  const policy = leastRequest()
  const ledger = createLedger((account) => policy.changed(account))
  expect(policy.pick(sample)).toBe(null)
  policy.add(ledger.add('a', 1))
  expect(policy.pick(sample)).toBe(null)
  ledger.setLimit('a', 1)
  expect(policy.pick(sample)).toBe('a')
  policy.remove('a')
  policy.remove('a')
  expect(policy.pick(sample)).toBe(null)
})

test('at low load ties go round the whole fleet (D22)', () => {
  const policy = leastRequest()
  const ledger = createLedger((account) => policy.changed(account))
  const ids = Array.from({ length: 5 }, (_, index) => `i${index}`)
  for (const id of ids) {
    policy.add(ledger.add(id, 1))
    ledger.setLimit(id, 4)
  }
  const picked = Array.from({ length: 10 }, () => {
    const id = policy.pick(sample)!
    ledger.release(ledger.grant(id).id)
    return id
  })
  expect([...picked.slice(0, 5)].sort()).toEqual(ids)
  expect(picked.slice(5)).toEqual(picked.slice(0, 5))
})

test('shares follow capacity and weight (D8)', () => {
  const policy = leastRequest()
  const ledger = createLedger((account) => policy.changed(account))
  for (const [id, limit, weight] of [
    ['small', 10, 1],
    ['large', 40, 1],
    ['fast', 20, 2],
  ] as const) {
    policy.add(ledger.add(id, weight))
    ledger.setLimit(id, limit)
  }
  for (let taken = 0; taken < 45; taken++) ledger.grant(policy.pick(sample)!)
  expect(['small', 'large', 'fast'].map((id) => ledger.get(id)!.running)).toEqual([5, 20, 20])
})
