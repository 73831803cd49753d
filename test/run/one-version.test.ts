/**
 * `restart` promises one version for all tokens of a sample (decision 5), also of samples that the update did not find at work on a server it
 * could reach.
 */
import { expect, test } from 'vitest'
import { closeSimulation, type Simulation, startSimulation } from '../simulate.ts'

const slot = { capacity: 1, chunkTokens: 1 }

/** Twenty tokens of version 1 are on each of two servers, and the second drains: its sample has to move in the middle. */
async function drainTheSecond(): Promise<Simulation & { versions(): Promise<unknown> }> {
  const simulation = await startSimulation([slot, slot])
  const { clock, supervisor } = simulation
  await clock.run(supervisor.updateWeights({ version: 1, path: '/w/1' }))
  const rollout = supervisor.submit({ prompt: [1, 100], samples: 2 })
  await clock.advance(205)
  void supervisor.drain('b', { timeoutMs: 300 })
  return { ...simulation, versions: async () => (await clock.run(rollout.result)).completions[1]!.versions }
}

test.each([{}, { rolling: 1 }])(
  'a sample that a draining instance gives back after an update with restart begins again %j',
  async (rolling) => {
    const simulation = await drainTheSecond()
    const { clock, supervisor } = simulation
    await clock.run(supervisor.updateWeights({ version: 2, path: '/w/2', mode: 'restart', ...rolling }))
    expect(await simulation.versions()).toEqual([{ version: 2, start: 0, end: 100 }])
    expect(await closeSimulation(simulation)).toBe(0)
  },
)

test('a sample that moves after a later update with abort goes on from its tokens', async () => {
  const simulation = await drainTheSecond()
  const { clock, supervisor } = simulation
  await clock.run(supervisor.updateWeights({ version: 2, path: '/w/2', mode: 'restart' }))
  await clock.run(supervisor.updateWeights({ version: 3, path: '/w/3', mode: 'abort' }))
  expect(await simulation.versions()).toEqual([
    { version: 1, start: 0, end: 50 },
    { version: 3, start: 50, end: 100 },
  ])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('it begins again also after a later update with abort that no instance has taken', async () => {
  const simulation = await drainTheSecond()
  const { clock, supervisor, server } = simulation
  await clock.run(supervisor.updateWeights({ version: 2, path: '/w/2', mode: 'restart' }))
  server('a').fail('updateWeights', 500)
  const update = supervisor.updateWeights({ version: 3, path: '/w/3', mode: 'abort' })
  await expect(clock.run(update)).rejects.toMatchObject({ code: 'UPDATE_FAILED' })
  expect(await simulation.versions()).toEqual([{ version: 2, start: 0, end: 100 }])
  expect(await closeSimulation(simulation)).toBe(0)
})
