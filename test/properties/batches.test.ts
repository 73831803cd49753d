/**
 * Random streams of batches under the virtual clock, with the real supervisor: under any interleaving of tasks, completions, rejections, failures,
 * pauses and version changes no batch holds a token older than the bound, every group is accounted for, and no loop deadlocks.
 *
 * SEED=123 runs one seed, SEEDS=100000 more of them.
 */
import { expect, test, vi } from 'vitest'
import type { Run } from '../../src/run/run.ts'
import { liveOnBatches } from './batch-life.ts'

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

const only = process.env.SEED
const first = only === undefined ? 0 : Number(only)
const count = only === undefined ? Number(process.env.SEEDS ?? 1_000) : 1

test(`no batch is too old, no group is lost and no loop deadlocks: ${count} seeds from ${first}`, {
  timeout: 0,
}, async () => {
  let batches = 0
  for (let seed = first; seed < first + count; seed++) {
    const life = await liveOnBatches(seed, () => made.last as Run)
    const last = only === undefined ? '' : `\n${life.log.slice(-80).join('\n')}`
    expect(life.broken, `SEED=${seed} npx vitest run test/properties/batches${last}`).toEqual([])
    batches += life.batches
  }
  // Lives without batches would show nothing.
  expect(batches).toBeGreaterThan(count)
})
