/**
 * Pauses and resumes that wait for each other in the line.
 */
import { expect, test } from 'vitest'
import { closeSimulation, startSimulation } from '../simulate.ts'

test('D13: a resume that was asked for before the pause opens nothing when its turn comes after it', async () => {
  const simulation = await startSimulation([{ capacity: 1, chunkTokens: 1 }])
  const { clock, supervisor } = simulation
  const rollout = supervisor.submit({ prompt: [1, 30], samples: 2 })
  await clock.advance(5)
  const evaluation = supervisor.evaluate([{ prompt: [2, 20] }])
  const resume = supervisor.resume()
  const pause = supervisor.pause()
  const placed: string[] = []
  supervisor.events$.subscribe((event) => event.type === 'sample.placed' && placed.push(event.kind))
  await clock.run(Promise.all([evaluation, resume, pause]))
  expect(placed).toEqual(['evaluation'])
  expect((await resume).instances).toEqual([])
  expect(supervisor.getSnapshot().phase).toBe('paused')
  await clock.run(supervisor.resume())
  expect((await clock.run(rollout.result)).complete).toBe(true)
  expect(await closeSimulation(simulation)).toBe(0)
})
