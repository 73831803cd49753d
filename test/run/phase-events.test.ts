/**
 * Whatever happens before, during and after each call of each phase operation: cancels, new tasks, instances that join, drain and leave, close(), and
 * servers that die, restart, freeze or become busy with others' work. What must hold then is in phase-trial.ts.
 */
import { describe, expect, test } from 'vitest'
import { EVALUATIONS, EVENTS, isOfItsOwn, PAUSES, RESUMES, UPDATES } from './phase-operations.ts'
import { attempt, type Operation } from './phase-trial.ts'
import type { Call, Moment } from './phase-world.ts'

/** Around each of its calls, and where there is none. */
async function momentsOf(operation: Operation, isOwn: (call: Call) => boolean): Promise<Moment[]> {
  const { calls } = await attempt({ operation })
  const around = [...calls]
    .filter(isOwn)
    .flatMap((call): Moment[] => [`before ${call}`, `during ${call}`, `after ${call}`])
  return ['asked', 'a moment later', ...around, 'ended']
}

function tests(operation: Operation, isOwn: (call: Call) => boolean = () => true) {
  test(operation.name, { timeout: 60_000 }, async () => {
    const broken: string[] = []
    for (const at of await momentsOf(operation, isOwn))
      for (const [name, act] of Object.entries(EVENTS)) {
        const verdict = await attempt({ operation, event: { at, act } })
        // A resume that has nothing to do is over in no time.
        if (!verdict.happened && at !== 'a moment later') broken.push(`${name} ${at} did not happen`)
        for (const each of verdict.broken) broken.push(`${name} ${at}: ${each}`)
      }
    expect(broken).toEqual([])
  })
}

describe('F2, F10, I8-I10: anything at any moment of', () => {
  for (const operation of UPDATES) tests(operation, (call) => isOfItsOwn(operation, call))
  for (const operation of [...PAUSES, ...RESUMES, ...EVALUATIONS]) tests(operation)
})
