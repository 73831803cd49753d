/**
 * `rollout.events`: where the task is now, then all that happens to it, to its end (decision 15).
 */
import { expect, test } from 'vitest'
import type { RolloutEvent } from '../../src/index.ts'
import { taskEvents } from '../../src/streams/task-events.ts'
import { tokenOf } from '../../src/testing/simulated-fleet.ts'
import { closeSimulation, simulate, startSimulation } from '../simulate.ts'

async function read(events: AsyncIterable<RolloutEvent>): Promise<RolloutEvent[]> {
  const all: RolloutEvent[] = []
  for await (const event of events) all.push(event)
  return all
}
const typesOf = (events: readonly RolloutEvent[]): string[] => events.map(({ type }) => type)
const tokensOf = (events: readonly RolloutEvent[], sample: number): number[] =>
  events.flatMap((event) => (event.type === 'sample.tokens' && event.sample === sample ? event.tokenIds : []))

test('begins with the present, goes on with tokens, and ends with the task', async () => {
  const simulation = await startSimulation([{ capacity: 1, chunkTokens: 2 }])
  const { clock, supervisor } = simulation
  const rollout = supervisor.submit({ prompt: [7, 4], samples: 2 })
  const events = await clock.run(read(rollout.events))
  expect(events.map(({ type, sample, at }) => `${at} ${sample} ${type}`)).toEqual([
    '0 0 sample.placed',
    '0 1 sample.queued',
    '10 0 sample.tokens',
    '30 0 sample.tokens',
    '40 0 sample.tokens',
    '40 0 sample.ended',
    '40 0 sample.released',
    '40 1 sample.placed',
    '50 1 sample.tokens',
    '70 1 sample.tokens',
    '80 1 sample.tokens',
    '80 1 sample.ended',
    '80 1 sample.released',
  ])
  for (const sample of [0, 1]) expect(tokensOf(events, sample)).toEqual([0, 1, 2, 3].map((at) => tokenOf(7, at)))
  expect(await closeSimulation(simulation)).toBe(0)
})

test('tokens that nobody has read yet are joined, none is lost and none repeated', async () => {
  const simulation = await startSimulation([{ capacity: 1, chunkTokens: 1 }])
  const { clock, supervisor } = simulation
  const rollout = supervisor.submit({ prompt: [7, 50] })
  const iterator = rollout.events[Symbol.asyncIterator]()
  expect((await iterator.next()).value.type).toBe('sample.placed')
  const next = iterator.next()
  await clock.advance(105)
  expect((await next).value.tokenIds).toEqual([tokenOf(7, 0)])
  const joined = (await iterator.next()).value
  expect(joined.tokenIds).toEqual(Array.from({ length: 9 }, (_, at) => tokenOf(7, at + 1)))
  expect(joined.logprobs.length).toBe(9)
  await clock.advance(1_000)
  const rest = await clock.run(read({ [Symbol.asyncIterator]: () => iterator }))
  expect(tokensOf(rest, 0).length).toBe(40)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('tokens of samples that run at once are joined each with its own', async () => {
  const simulation = await startSimulation([{ capacity: 2, chunkTokens: 1 }])
  const { clock, supervisor } = simulation
  const rollout = supervisor.submit({ prompt: [7, 20], samples: 2 })
  const iterator = rollout.events[Symbol.asyncIterator]()
  await iterator.next()
  await clock.run(rollout.result)
  const rest = await read({ [Symbol.asyncIterator]: () => iterator })
  for (const sample of [0, 1])
    expect(tokensOf(rest, sample)).toEqual(Array.from({ length: 20 }, (_, at) => tokenOf(7, at)))
  expect(await closeSimulation(simulation)).toBe(0)
})

test('a reader that leaves is nowhere any more (D19)', async () => {
  const task: { listeners: Set<unknown> | null; group: null } = { listeners: null, group: null }
  const event = {
    type: 'sample.ended',
    at: 0,
    taskId: 't',
    sample: 0,
    kind: 'rollout',
    outcome: 'completed',
    tokens: 0,
  }
  const events = taskEvents(task as never, () => [event as RolloutEvent])
  const [first, second] = [events[Symbol.asyncIterator](), events[Symbol.asyncIterator]()]
  await first.next()
  await second.next()
  expect(task.listeners?.size).toBe(2)
  await first.return!()
  expect(task.listeners?.size).toBe(1)
  await second.return!()
  // Null is what keeps events from being built.
  expect(task.listeners).toBe(null)
})

test('a reader that leaves while it waits for an event that never comes is not kept', async () => {
  const simulation = simulate([])
  const { clock, supervisor } = simulation
  const rollout = supervisor.submit({ prompt: [7, 4] })
  const iterator = rollout.events[Symbol.asyncIterator]()
  expect((await iterator.next()).value.type).toBe('sample.queued')
  const [second, third] = [iterator.next(), iterator.next()]
  await clock.settle()
  await iterator.return!()
  expect([(await second).done, (await third).done, (await iterator.next()).done]).toEqual([true, true, true])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('two readers of one task each get all of it', async () => {
  const simulation = await startSimulation([{ capacity: 2, chunkTokens: 1 }])
  const { clock, supervisor } = simulation
  const rollout = supervisor.submit({ prompt: [7, 20], samples: 2 })
  const [first, second] = await clock.run(Promise.all([read(rollout.events), read(rollout.events)]))
  expect(typesOf(first)).toEqual(typesOf(second))
  expect(tokensOf(first, 1)).toEqual(tokensOf(second, 1))
  expect(tokensOf(first, 1).length).toBe(20)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('a reader that leaves is told no more, and one of an ended task gets its end at once', async () => {
  const simulation = await startSimulation([{ capacity: 2, chunkTokens: 1 }])
  const { clock, supervisor } = simulation
  const rollout = supervisor.submit({ prompt: [7, 20], samples: 2 })
  for await (const event of rollout.events) {
    expect(event.type).toBe('sample.placed')
    break
  }
  await clock.run(rollout.result)
  const events = await read(rollout.events)
  expect(events.map((event) => event.type === 'sample.ended' && [event.outcome, event.tokens])).toEqual([
    ['completed', 20],
    ['completed', 20],
  ])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('tells of interruptions, retries and cancels', async () => {
  const simulation = await startSimulation([{ capacity: 1 }, { capacity: 1 }])
  const { clock, supervisor } = simulation
  const rollout = supervisor.submit({ prompt: [7, 20] })
  const events = read(rollout.events)
  await clock.advance(50)
  await clock.run(supervisor.remove(supervisor.getSnapshot().instances.find(({ running }) => running === 1)!.id))
  rollout.cancel()
  const types = typesOf(await clock.run(events))
  expect(types[0]).toBe('sample.placed')
  expect(types.filter((type) => type !== 'sample.tokens').slice(1)).toEqual([
    'sample.queued',
    'sample.placed',
    'sample.released',
    'sample.ended',
  ])
  expect(await closeSimulation(simulation)).toBe(0)
})
