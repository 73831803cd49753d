/**
 * Policies by name, and a user's own behind its guard (F17).
 */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { createLedger } from '../../src/rollout/ledger.ts'
import { createPolicy, isPolicy, policyNames } from '../../src/scheduling/policies.ts'
import { hasRoom, type PlacementPolicy } from '../../src/scheduling/policy.ts'
import { createRandom } from '../../src/testing/random.ts'
import { play, sample, steps } from './fleet-of-loads.ts'

const noFault = (message: string): void => {
  throw new Error(message)
}

test('every known name makes a policy of that name', () => {
  for (const name of policyNames) expect(createPolicy(name, noFault).name).toBe(name)
  expect(createPolicy({ name: 'round-robin' }, noFault).name).toBe('round-robin')
  expect(createPolicy({ name: 'round-robin', strict: true }, noFault).name).toBe('round-robin (strict)')
})

test('a policy is what has a pick function', () => {
  expect([isPolicy({ pick: () => null }), isPolicy({ pick: 1 }), isPolicy({})]).toEqual([true, false, false])
})

function guard(policy: Partial<PlacementPolicy>) {
  const faults: string[] = []
  const nothing = (): void => {}
  const guarded = createPolicy(
    { name: 'own', add: nothing, remove: nothing, changed: nothing, pick: () => null, ...policy },
    (message) => faults.push(message),
  )
  const ledger = createLedger((account) => guarded.changed(account))
  for (const id of ['a', 'b']) {
    guarded.add(ledger.add(id, 1))
    ledger.setLimit(id, 1)
  }
  return { guarded, ledger, faults }
}

test("a user's choice is taken, null as well", () => {
  const { guarded, faults } = guard({ pick: ({ priority }) => (priority > 0 ? 'b' : null) })
  expect(guarded.pick({ ...sample, priority: 1 })).toBe('b')
  expect(guarded.pick(sample)).toBe(null)
  expect(faults).toEqual([])
})

test('one that throws, or picks what has no slot, is reported and decided for (F17)', () => {
  for (const [pick, fault] of [
    [() => 'nobody', 'policy own picked "nobody", which has no free slot'],
    [() => 7 as never, 'policy own picked 7, which has no free slot'],
    [() => undefined as never, 'policy own picked undefined, which has no free slot'],
    [
      () => {
        throw new Error('bug')
      },
      'policy own threw in pick',
    ],
  ] as const) {
    const { guarded, faults } = guard({ pick })
    expect(['a', 'b']).toContain(guarded.pick(sample))
    expect(faults).toEqual([fault])
  }
})

test('one that throws in every other call changes nothing either', () => {
  const bug = (): never => {
    throw new Error('bug')
  }
  const { guarded, ledger, faults } = guard({ add: bug, remove: bug, changed: bug, pick: () => 'a' })
  expect(guarded.pick(sample)).toBe('a')
  ledger.grant('a')
  expect(guarded.pick(sample)).toBe('b')
  guarded.remove('b')
  expect(guarded.pick(sample)).toBe(null)
  expect(new Set(faults)).toEqual(
    new Set(
      ['add', 'changed', 'remove']
        .map((call) => `policy own threw in ${call}`)
        .concat('policy own picked "a", which has no free slot'),
    ),
  )
})

test('an instance that a policy threw at, and so may not know, is placed on all the same, until it is told of again', () => {
  let fails = true
  const known = new Set<string>()
  const { guarded, ledger, faults } = guard({
    add: ({ id }) => {
      if (fails) throw new Error('bug')
      known.add(id)
    },
    changed: ({ id }) => {
      if (fails) throw new Error('bug')
      known.add(id)
    },
    pick: () => null,
  })
  expect(['a', 'b']).toContain(guarded.pick(sample))
  fails = false
  for (const id of ['a', 'b']) ledger.setLimit(id, 2)
  expect(known).toEqual(new Set(['a', 'b']))
  // From here on its null is its own.
  expect(guarded.pick(sample)).toBe(null)
  expect(faults.length).toBeGreaterThan(0)
})

test('whatever a policy answers, a slot is found when there is one, and no full instance is used', () => {
  fc.assert(
    fc.property(steps, fc.nat(), (life, seed) => {
      const random = createRandom(seed)
      const known = ['nobody', ...Array.from({ length: 20 }, (_, index) => `i${index}`)]
      const wild: PlacementPolicy = {
        name: 'wild',
        add: () => {},
        remove: () => {},
        changed: () => {},
        pick: () => known[random.int(known.length)]!,
      }
      const policy = createPolicy(wild, () => {})
      play(policy, life, (picked, fleet) => {
        const open = fleet.filter(hasRoom).map(({ id }) => id)
        if (open.length === 0) expect(picked).toBe(null)
        else expect(open).toContain(picked)
      })
    }),
    { numRuns: 200 },
  )
})
