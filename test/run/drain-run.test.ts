/**
 * What drainAll leaves behind.
 */
import { expect, test, vi } from 'vitest'
import type { Run } from '../../src/run/run.ts'
import { closeSimulation, startSimulation } from '../simulate.ts'

const made = vi.hoisted(() => ({ last: null as unknown }))

vi.mock('../../src/run/create-run.ts', async (importOriginal) => {
  const original = await importOriginal<typeof import('../../src/run/create-run.ts')>()
  return {
    createRun: (options: Parameters<typeof original.createRun>[0]) => {
      made.last = original.createRun(options)
      return made.last
    },
  }
})

test('drainAll that was given up leaves nothing behind in a run that is always busy (D19)', async () => {
  const simulation = await startSimulation([{ capacity: 1 }])
  const { clock, supervisor } = simulation
  const run = made.last as Run
  supervisor.submit({ prompt: [1, 10_000] })
  await clock.advance(10)
  const before = run.hub.onChange.size
  for (let count = 0; count < 5; count++) {
    const controller = new AbortController()
    const drained = supervisor.drainAll({ signal: controller.signal })
    await clock.advance(10)
    expect(run.hub.onChange.size).toBeGreaterThan(before)
    controller.abort(new Error('enough'))
    await expect(drained).rejects.toThrow('enough')
    await clock.settle()
    expect([run.hub.onChange.size, run.onIdle.size]).toEqual([before, 0])
  }
  expect(await closeSimulation(simulation)).toBe(0)
})
