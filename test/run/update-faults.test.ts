/**
 * Every single fault of every call in an update, in each mode, all together and rolling, by path and by a function of the user's own (F2, R10). This
 * table says at which step a fault takes the server out; what must hold besides, after every event and at the end, is in phase-trial.ts.
 */
import { describe, expect, test } from 'vitest'
import type { ControlCall, ControlFailure } from '../../src/testing/simulated-fleet.ts'
import { APPLY_FAILURES, FAILURES, isOfItsOwn, outcomesOf, UPDATES, type UpdateOperation } from './phase-operations.ts'
import { attempt, type Trial } from './phase-trial.ts'
import type { Call } from './phase-world.ts'

const OUTCOMES = outcomesOf(`
              400    404    500    503    hang   hangAfter failAfter lie    dieBefore dieAfter restartBefore restartAfter
abort         ok     ok     ok     ok     ok     ok        ok        ok     quiet     quiet    ok            ok
load          quiet  quiet  quiet  quiet  quiet  quiet     quiet     ok     quiet     quiet    quiet         quiet
pause         pause  pause  pause  pause  pause  pause     pause     ok     pause     pause    pause         pause
updateWeights apply  apply  apply  apply  apply  apply     apply     apply  apply     apply    apply         apply
flush         flush  flush  flush  flush  flush  flush     flush     -      flush     flush    flush         flush
weightVersion verify verify verify verify verify verify    verify    verify verify    verify   verify        verify
resume        ok     ok     ok     ok     ok     ok        ok        ok     resume    resume   resume        resume
probe         ok     ok     ok     ok     ok     ok        ok        resume resume    resume   resume        resume
`)

/** A server that says it is held and is not is found out by what it is told next: requests run there, or its cache cannot be emptied. */
function expected({ mode, way }: UpdateOperation, call: ControlCall, how: ControlFailure): string {
  if (mode === 'keep' && call === 'pause' && how === 'lie') return way === 'path' ? 'apply' : 'flush'
  return OUTCOMES.get(call)!.get(how)!
}

const CALLS: Readonly<Record<UpdateOperation['mode'], readonly Call[]>> = {
  abort: ['abort', 'load', 'pause'],
  restart: ['abort', 'load', 'pause'],
  keep: ['pause'],
  drain: ['load', 'pause'],
}

function callsOf({ mode, way }: UpdateOperation): Call[] {
  const loading: readonly Call[] = way === 'path' ? ['updateWeights'] : ['apply', 'flush']
  return [...CALLS[mode], ...loading, 'weightVersion', 'resume', 'probe']
}

async function outcomeOf(trial: Trial): Promise<string> {
  const { outcome, broken } = await attempt(trial)
  return [outcome, ...broken].join('\n')
}

describe.each(UPDATES)('F2, R10, I8-I10: $name', (operation) => {
  test('makes these calls, and succeeds', async () => {
    const { outcome, calls, broken } = await attempt({ operation })
    expect([outcome, [...calls], broken]).toEqual(['ok', callsOf(operation), []])
  })

  const calls = callsOf(operation).filter((call) => call !== 'apply' && isOfItsOwn(operation, call))
  test.each(calls as ControlCall[])('%s that goes wrong', async (call) => {
    const found: Record<string, string> = {}
    const wanted: Record<string, string> = {}
    for (const how of FAILURES) {
      const outcome = expected(operation, call, how)
      // A flush that lies is found by nothing but its tokens (R2).
      if (outcome === '-') continue
      wanted[how] = outcome
      found[how] = await outcomeOf({ operation, faults: [[call, how]] })
    }
    expect(found).toEqual(wanted)
  })

  if (operation.way === 'path') return
  test('apply that goes wrong', async () => {
    const found: string[] = []
    for (const how of APPLY_FAILURES) found.push(`${how}: ${await outcomeOf({ operation, faults: [['apply', how]] })}`)
    expect(found).toEqual(['throws: apply', 'never: apply', 'half: apply', 'lies: verify'])
  })
})

describe.each(UPDATES.filter(({ mode }) => mode === 'abort' || mode === 'keep'))('$name', (operation) => {
  test('fails as a whole where too few are left, and says at which step of whom', async () => {
    const found: Record<string, string> = {}
    const wanted: Record<string, string> = {}
    for (const call of callsOf(operation)) {
      const outcome = call === 'apply' ? 'apply' : expected(operation, call, 'dieBefore')
      wanted[call] = `UPDATE_FAILED ${outcome}`
      found[call] = await outcomeOf({
        operation,
        faults: [call === 'apply' ? [call, 'throws'] : [call, 'dieBefore']],
        minInstances: 2,
      })
    }
    expect(found).toEqual(wanted)
  })
})
