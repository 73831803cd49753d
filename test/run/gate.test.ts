/**
 * The gate of each instance, as its own machine keeps it (I10, F2): closed for as long as an update or a pause holds it.
 */
import { expect, test } from 'vitest'
import { closeSimulation, type Simulation, startSimulation } from '../simulate.ts'

const start = () => startSimulation([{ capacity: 1 }, { capacity: 1 }])
const statesOf = ({ supervisor }: Simulation): string[] => supervisor.getSnapshot().instances.map(({ state }) => state)
const closed = ['paused', 'paused']

test('I10, F2: an update closes every gate before anything ends, and opens them when all have their weights', async () => {
  const simulation = await start()
  const { clock, supervisor, server } = simulation
  supervisor.submit({ prompt: [1, 50], samples: 2 })
  const seen: string[][] = []
  const apply = async ({ id }: { readonly id: string }): Promise<void> => {
    seen.push(statesOf(simulation))
    server(id).load('1')
  }
  const update = supervisor.updateWeights({ version: 1, apply, mode: 'drain' })
  await clock.advance(100)
  expect(statesOf(simulation)).toEqual(closed)
  await clock.run(update)
  expect(seen).toEqual([closed, closed])
  expect(statesOf(simulation)).toEqual(['serving.idle', 'serving.idle'])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('I10, F2: a rolling update closes one gate after the other', async () => {
  const simulation = await start()
  const { clock, supervisor, server } = simulation
  const seen: string[][] = []
  const apply = async ({ id }: { readonly id: string }): Promise<void> => {
    seen.push(statesOf(simulation))
    server(id).load('1')
  }
  await clock.run(supervisor.updateWeights({ version: 1, apply, rolling: 1 }))
  expect(seen).toEqual([
    ['paused', 'serving.idle'],
    ['serving.idle', 'paused'],
  ])
  expect(await closeSimulation(simulation)).toBe(0)
})

test.each(['an evaluation', 'an update'])(
  'D13: a pause that has to wait for %s closes every gate at its turn, until the resume',
  async (what) => {
    const simulation = await start()
    const { clock, supervisor } = simulation
    supervisor.submit({ prompt: [1, 50], samples: 2 })
    await clock.advance(5)
    const before =
      what === 'an update'
        ? supervisor.updateWeights({ version: 1, path: '/w/1', mode: 'drain' })
        : supervisor.evaluate([{ prompt: [2, 20] }])
    await clock.run(Promise.all([before, supervisor.pause()]))
    expect(statesOf(simulation)).toEqual(closed)
    await clock.run(supervisor.resume())
    expect(statesOf(simulation).every((state) => state.startsWith('serving'))).toBe(true)
    expect(await closeSimulation(simulation)).toBe(0)
  },
)
