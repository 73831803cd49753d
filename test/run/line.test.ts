/**
 * The line of phase operations (decision 9): one at a time, whoever asks, and from wherever.
 */
import { expect, test } from 'vitest'
import { createLine } from '../../src/run/line.ts'
import { simulateServer } from '../../src/testing/simulated-fleet.ts'
import { createVirtualClock } from '../../src/testing/virtual-clock.ts'
import { closeSimulation, startSimulation } from '../simulate.ts'

// Found by seed 844 of test/properties: an evaluation was asked for from inside the first placement of another.
test('an operation that is asked for while another begins waits for it', async () => {
  const line = createLine(createVirtualClock())
  const said: string[] = []
  const work = (name: string) => async (): Promise<void> => {
    said.push(`${name} begins`)
    await Promise.resolve()
    said.push(`${name} ends`)
  }
  let second = Promise.resolve()
  await line.enter({ name: 'first', timeoutMs: null }, () => {
    second = line.enter({ name: 'second', timeoutMs: null }, work('second'))
    return work('first')()
  })
  await second
  expect(said).toEqual(['first begins', 'first ends', 'second begins', 'second ends'])
})

// Found by seed 715 of test/properties: it began behind gates that nobody would open.
test('a pause that did not get its turn in time still pauses: an evaluation asked for after it waits for resume (D13)', async () => {
  const simulation = await startSimulation([{ capacity: 1, tokenMs: 10 }])
  const { clock, supervisor } = simulation
  const running = supervisor.evaluate([{ prompt: [1, 100] }])
  await clock.settle()
  const late = supervisor.pause({ timeoutMs: 50 }).catch(({ code }: { code: string }) => code)
  const update = supervisor.updateWeights({ version: 1, path: '/w/1' })
  const waiting = supervisor.evaluate([{ prompt: [2, 5] }])
  expect(await clock.run(late)).toBe('WRONG_PHASE')
  await clock.run(running)
  await clock.run(update)
  await clock.advance(1_000)
  expect(supervisor.getSnapshot()).toMatchObject({ phase: 'paused', conservation: { waiting: 1 } })
  await clock.run(supervisor.resume())
  expect(await clock.run(waiting)).toMatchObject([{ complete: true }])
  expect(await closeSimulation(simulation)).toBe(0)
})

// Found by seed 13974 of test/properties: the evaluation waited for the weights, and the update for the evaluation.
test('an evaluation of a fleet whose weights are gone lets the update pass that it needs', async () => {
  const simulation = await startSimulation([{ capacity: 1, keepsWeights: false }])
  const { clock, supervisor } = simulation
  await clock.run(supervisor.pause({ release: true }))
  const evaluation = supervisor.evaluate([{ prompt: [1, 5] }])
  await clock.run(supervisor.resume())
  await clock.advance(1_000)
  expect(supervisor.getSnapshot()).toMatchObject({ phase: 'rollout', waiting: { phase: 1 } })
  await clock.run(supervisor.updateWeights({ version: 1, path: '/w/1' }))
  const [group] = await clock.run(evaluation)
  expect(group!.completions[0]!.versions).toEqual([{ version: 1, start: 0, end: 5 }])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('an evaluation of a fleet whose weights are gone runs on an instance that joins', async () => {
  const simulation = await startSimulation([{ capacity: 1, keepsWeights: false }])
  const { clock, supervisor } = simulation
  await clock.run(supervisor.pause({ release: true }))
  await clock.run(supervisor.resume())
  const evaluation = supervisor.evaluate([{ prompt: [1, 5] }])
  await clock.settle()
  expect(supervisor.getSnapshot().phase).toBe('rollout')
  const { id, url, engine } = simulateServer(clock, { id: 'late', capacity: 1 })
  supervisor.add({ id, url, engine })
  const [group] = await clock.run(evaluation)
  expect(group!.completions[0]!.segments[0]!.instance).toBe('late')
  expect(await closeSimulation(simulation)).toBe(0)
})
