/**
 * Sessions on a fleet: a turn goes where its prefix is while there is room, and nobody ever waits for a prefix (I7).
 */
import { expect, test } from 'vitest'
import type { Placeable } from '../../src/index.ts'
import { leastRequest } from '../../src/scheduling/least-request.ts'
import { closeSimulation, type Simulation, startSimulation } from '../simulate.ts'

/** Where one sample of a session ran, from its first instance to its last. */
async function turn({ clock, supervisor }: Simulation, sessionId: string, prompt = [1, 3]): Promise<string[]> {
  const { completions } = await clock.run(supervisor.submit({ prompt, sessionId }).result)
  return completions[0]!.segments.map(({ instance }) => instance)
}

test.each(['least-request', 'round-robin'] as const)('%s: a session stays where its prefix is', async (policy) => {
  const simulation = await startSimulation([{}, {}, {}], { policy })
  const first = await turn(simulation, 'one')
  // Least-request and round-robin would both go on to the next instance.
  for (let again = 0; again < 4; again++) expect(await turn(simulation, 'one')).toEqual(first)
  expect(await turn(simulation, 'two')).not.toEqual(first)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('I7: a full instance sends its session elsewhere at once, and the session stays there', async () => {
  const simulation = await startSimulation([{ capacity: 1 }, { capacity: 1 }])
  const { clock, supervisor } = simulation
  const [home] = await turn(simulation, 'one')
  const long = supervisor.submit({ prompt: [9, 100], sessionId: 'one' })
  await clock.settle()
  const [other] = await turn(simulation, 'one')
  expect(other).not.toBe(home)
  await clock.run(long.result)
  expect(await turn(simulation, 'one')).toEqual([home])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('a session leaves a server that failed it, and one that has left', async () => {
  const simulation = await startSimulation([{ chunkTokens: 1 }, { chunkTokens: 1 }])
  const { clock, supervisor, server } = simulation
  const [home] = await turn(simulation, 'one')
  const running = turn(simulation, 'one', [1, 10])
  await clock.advance(45)
  server(home!).die()
  const [, other] = await running
  expect(other).not.toBe(home)
  server(home!).revive()
  await clock.advance(5_000)
  expect(await turn(simulation, 'one')).toEqual([other])
  await clock.run(supervisor.remove(other!))
  expect(await turn(simulation, 'one')).toEqual([home])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('new weights empty the caches: the session may go anywhere', async () => {
  const simulation = await startSimulation([{}, {}])
  const { clock, supervisor } = simulation
  const [home] = await turn(simulation, 'one')
  await clock.run(supervisor.updateWeights({ version: 1, path: '/w/1' }))
  const [then] = await turn(simulation, 'one')
  expect(then).not.toBe(home)
  expect(await turn(simulation, 'one')).toEqual([then])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('the samples of a group spread over the fleet, where their session has no prefix yet', async () => {
  const simulation = await startSimulation([{}, {}])
  const { clock, supervisor } = simulation
  const rollout = supervisor.submit({ prompt: [2, 5], samples: 4, sessionId: 'new' })
  const { completions } = await clock.run(rollout.result)
  expect(new Set(completions.map(({ segments }) => segments[0]!.instance)).size).toBe(2)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('strict round-robin deals out in turn, sessions or not', async () => {
  const simulation = await startSimulation([{}, {}, {}], { policy: { name: 'round-robin', strict: true } })
  const order: string[] = []
  for (let again = 0; again < 6; again++) order.push(...(await turn(simulation, 'one')))
  expect(order).toEqual(['a', 'b', 'c', 'a', 'b', 'c'])
  expect(await closeSimulation(simulation)).toBe(0)
})

test.each([undefined, true, false])("a user's policy with sticky: %s", async (sticky) => {
  const seen: Placeable[] = []
  const inner = leastRequest()
  const policy = {
    ...inner,
    name: 'mine',
    ...(sticky === undefined ? {} : { sticky }),
    pick(sample: Placeable) {
      seen.push(sample)
      return inner.pick(sample)
    },
  }
  const simulation = await startSimulation([{}, {}], { policy })
  const order = [
    ...(await turn(simulation, 'one')),
    ...(await turn(simulation, 'one')),
    ...(await turn(simulation, 'one')),
  ]
  expect(order).toEqual(sticky === false ? ['a', 'b', 'a'] : ['a', 'a', 'a'])
  expect(seen.map(({ preferred }) => preferred)).toEqual(sticky === false ? [null, 'a', 'b'] : [null])
  expect(await closeSimulation(simulation)).toBe(0)
})
