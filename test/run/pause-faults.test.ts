/**
 * Every single fault of every call in pauses, the resumes after them, and evaluations (F2, D13, F10). These tables say at which step a fault
 * stops them; what must hold besides, after every event and at the end, is in phase-trial.ts.
 */
import { describe, expect, test } from 'vitest'
import type { ControlCall, ControlFailure } from '../../src/testing/simulated-fleet.ts'
import { EVALUATIONS, FAILURES, isLost, outcomesOf, PAUSES, RESUMES } from './phase-operations.ts'
import { attempt, type Operation } from './phase-trial.ts'

async function mustComeTo(operation: Operation, call: ControlCall, outcomes: ReadonlyMap<ControlFailure, string>) {
  const found: Record<string, string> = {}
  for (const how of FAILURES) {
    const { outcome, broken } = await attempt({ operation, faults: [[call, how]], isLost: isLost(call, how) })
    found[how] = [outcome.replace(/^WRONG_PHASE /, 'not'), ...broken].join('\n')
  }
  expect(found).toEqual(Object.fromEntries(outcomes))
}

function tests(operations: readonly Operation[], callsOf: (operation: Operation) => ControlCall[], table: string) {
  const outcomes = outcomesOf(table)
  describe.each(operations)('F2, D13, I8-I10: $name', (operation) => {
    const calls = callsOf(operation)
    test('makes these calls, and succeeds', async () => {
      const { outcome, calls: made, broken } = await attempt({ operation })
      expect([outcome, [...made], broken]).toEqual(['ok', calls, []])
    })

    for (const call of calls)
      test(`${call} that goes wrong`, () => {
        // An instance that dies over the abort of its requests is quiet, and has no memory to give away.
        const isUnfinished = call === 'abort' && operation.name.endsWith('release')
        return mustComeTo(
          operation,
          call,
          isUnfinished ? outcomes.get('abort,release' as ControlCall)! : outcomes.get(call)!,
        )
      })
  })
}

// A pause that failed names the step after `not`, and the run is paused all the same.
tests(
  PAUSES,
  ({ name }) => {
    const ended: ControlCall[] = name.includes('abort') ? ['abort'] : []
    if (name.includes('release')) return [...ended, 'load', 'release']
    return name.includes('keep') ? ['pause'] : ended
  },
  `
              400        404        500        503        hang       hangAfter  failAfter  lie dieBefore  dieAfter   restartBefore restartAfter
abort         ok         ok         ok         ok         ok         ok         ok         ok  ok         ok         ok            ok
abort,release ok         ok         ok         ok         ok         ok         ok         ok  notquiet   notquiet   ok            ok
pause         ok         ok         ok         ok         ok         ok         ok         ok  ok         ok         ok            ok
load          notquiet   notquiet   notquiet   notquiet   notquiet   notquiet   notquiet   ok  notquiet   notquiet   notquiet      notquiet
release       notrelease notrelease notrelease notrelease notrelease notrelease notrelease ok  notrelease notrelease notrelease    notrelease
`,
)

tests(
  RESUMES,
  ({ name }) => (name.includes('release') ? ['reclaim'] : name.includes('keep') ? ['resume', 'probe'] : []),
  `
              400     404     500     503     hang    hangAfter failAfter lie dieBefore dieAfter restartBefore restartAfter
resume        ok      ok      ok      ok      ok      ok        ok        ok  resume    resume   ok            ok
probe         ok      ok      ok      ok      ok      ok        ok        ok  resume    resume   ok            ok
reclaim       reclaim reclaim reclaim reclaim reclaim reclaim   reclaim   ok  reclaim   reclaim  reclaim       reclaim
`,
)

tests(
  EVALUATIONS,
  ({ name }) => (/resume|restart/.test(name) ? ['abort'] : []),
  `
              400 404 500 503 hang hangAfter failAfter lie dieBefore dieAfter restartBefore restartAfter
abort         ok  ok  ok  ok  ok   ok        ok        ok  ok        ok       ok            ok
`,
)
