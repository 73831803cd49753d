/**
 * Two faults of one phase operation, and something else that happens meanwhile, drawn from seeds. What must hold then is in phase-trial.ts.
 *
 * PAIRS=5000 runs so many seeds, PAIR=123 that one.
 */
import { expect, test } from 'vitest'
import { createRandom } from '../../src/testing/random.ts'
import { APPLY_FAILURES, EVENTS, FAILURES, isLost, OPERATIONS } from './phase-operations.ts'
import { attempt, type Operation } from './phase-trial.ts'
import type { Call, Fault, Moment } from './phase-world.ts'

const only = process.env.PAIR
const first = Number(only ?? 0)
const count = only === undefined ? Number(process.env.PAIRS ?? 400) : 1

/** Calls that each operation makes of itself; a fault may lead it to others. */
const calls = new Map<Operation, readonly Call[]>()
async function callsOf(operation: Operation): Promise<readonly Call[]> {
  const known = calls.get(operation) ?? [...(await attempt({ operation })).calls]
  calls.set(operation, known)
  return known
}

async function brokenBy(seed: number): Promise<string[]> {
  const random = createRandom(seed)
  const draw = <T>(list: readonly T[]): T => list[random.int(list.length)]!
  const operation = draw(OPERATIONS)
  const around: readonly Call[] = [...(await callsOf(operation)), 'abort', 'load', 'resume', 'probe']
  const fault = (): Fault => {
    const call = draw(around)
    return call === 'apply' ? [call, draw(APPLY_FAILURES)] : [call, draw(FAILURES)]
  }
  const faults = [fault(), fault()]
  // A flush that lies is found by nothing but its tokens (R2).
  if (faults.some(([call, how]) => call === 'flush' && how === 'lie')) return []
  // A process that is there again in the very moment of its death, while a cancelled request still seems to run there, passes for the old one.
  if (faults.some(([call, how]) => call === 'abort' && String(how).startsWith('restart'))) return []
  const moments: readonly Moment[] = [
    'asked',
    'a moment later',
    ...around.map((call) => `during ${call}` as const),
    'ended',
  ]
  const at = draw(moments)
  const drawn = draw(['nothing', ...Object.keys(EVENTS)])
  // Somebody must be left.
  const event = drawn === 'removal of a' && faults.some(([, how]) => String(how).startsWith('die')) ? 'nothing' : drawn
  const happening = event === 'nothing' ? {} : { event: { at, act: EVENTS[event]! } }
  const lost = faults.some(([call, how]) => isLost(call, how))
  const { broken } = await attempt({ operation, faults, isLost: lost, ...happening })
  const what = `PAIR=${seed}: ${operation.name}, ${faults.map((each) => each.join(' ')).join(', ')}, ${event} ${at}`
  return broken.map((each) => `${what}: ${each}`)
}

test(`two faults of one operation, over ${count} seeds`, { timeout: 3_600_000 }, async () => {
  const broken: string[] = []
  for (let seed = first; seed < first + count && broken.length < 60; seed++) {
    const found = await brokenBy(seed).catch((error: Error) => [`PAIR=${seed}: ${error.stack ?? error.message}`])
    broken.push(...found)
  }
  expect(broken.join('\n')).toBe('')
})
