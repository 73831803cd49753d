/**
 * Random workloads, cancels, faults and membership changes under the virtual clock, with the real supervisor: I1 to I12
 * are looked at after every event, every command and every timer.
 *
 * SEED=123 runs one seed, SEEDS=100000 more of them, both together so many from there on.
 */
import { expect, test, vi } from 'vitest'
import type { Run } from '../../src/run/run.ts'
import { live } from './workload.ts'

const made = vi.hoisted(() => ({ last: null as unknown }))

/** The real createRun; the run that it made is kept, so that the test can look into the books. */
vi.mock('../../src/run/create-run.ts', async (importOriginal) => {
  const original = await importOriginal<typeof import('../../src/run/create-run.ts')>()
  return {
    createRun: (options: Parameters<typeof original.createRun>[0]) => {
      made.last = original.createRun(options)
      return made.last
    },
  }
})
const runOf = (): Run => made.last as Run

const only = process.env.SEED
const first = only === undefined ? 0 : Number(only)
const count = Number(process.env.SEEDS ?? (only === undefined ? 1_000 : 1))
/** Beyond those that run each time, and once not held. */
const KEPT: readonly number[] = [2981, 3092, 9058, 13974, 16542, 19802]

async function mustHold(seed: number): Promise<readonly string[]> {
  let life: Awaited<ReturnType<typeof live>>
  try {
    life = await live(seed, runOf)
  } catch (cause) {
    throw new Error(`seed ${seed} (SEED=${seed} npx vitest run test/properties): ${String(cause)}`, { cause })
  }
  if (life.broken.length > 0) {
    const last = only === undefined ? '' : `\n${life.log.slice(-60).join('\n')}`
    throw new Error(`seed ${seed} (SEED=${seed} npx vitest run test/properties):\n${life.broken.join('\n')}${last}`)
  }
  return life.log
}

test(`whatever happens, the invariants hold (I1-I12), over ${count} seeds`, {
  timeout: 3_600_000,
}, async () => {
  const failed: string[] = []
  const seeds = Array.from({ length: count }, (_, index) => first + index)
  for (const seed of only === undefined ? [...seeds, ...KEPT] : seeds) {
    if (failed.length === 20) break
    await mustHold(seed).catch((error: Error) => failed.push(error.message))
  }
  expect(failed.join('\n')).toBe('')
})

test('the same seed gives the same run, event by event', { timeout: 60_000 }, async () => {
  for (let seed = first; seed < first + Math.min(count, 20); seed++) {
    const log = await mustHold(seed).catch(() => [])
    expect(await mustHold(seed).catch(() => [])).toEqual(log)
  }
})
