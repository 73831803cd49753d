/**
 * Where an interrupted sample goes on, and where it does not: its budget, its ends, and text that an engine has not said yet (engines.md 7).
 */
import { expect, test } from 'vitest'
import type { Chunk, DriverFactory, GenerateRequest, Sampling, SavedState, SupervisorOptions } from '../../src/index.ts'
import { closeSimulation, simulate } from '../simulate.ts'

const CAN = {
  tokenIds: true,
  logprobs: 'sampled',
  abortById: true,
  versions: 'none',
  updateWeights: false,
  loadReport: true,
  pause: [],
  release: false,
} as const

type Said = Partial<Chunk> & { readonly tokenIds: readonly number[] }

/** One server of one slot that says these streams, one after the other; the last of each ends it. */
async function started(
  streams: readonly (readonly Said[])[],
  counted: () => number = () => 0,
  options: SupervisorOptions = {},
) {
  const requests: GenerateRequest[] = []
  const aborts: string[] = []
  const engine: DriverFactory = () => ({
    engine: 'scripted',
    probe: async () => ({
      engine: 'scripted',
      engineVersion: null,
      capacity: 1,
      weightVersion: null,
      vocabularySize: null,
      contextLength: null,
      paused: false,
      capabilities: CAN,
      advice: [],
    }),
    load: async () => ({ running: counted(), waiting: 0 }),
    weightVersion: async () => null,
    async *generate(request) {
      requests.push(request)
      for (const said of streams[requests.length - 1] ?? []) {
        const logprobs = said.tokenIds.map((id) => -id)
        yield { logprobs, text: null, finishReason: null, versions: null, ...said }
      }
    },
    abort: async (requestId) => void aborts.push(requestId),
    resume: async () => {},
    updateWeights: async () => {},
    close: async () => {},
  })
  const simulation = simulate([], { minInstances: 0, ...options })
  simulation.supervisor.add({ id: 's', url: 'sim://s', engine, capacity: 1 })
  const { clock, supervisor } = simulation
  await clock.run(supervisor.start())
  await clock.advance(1)
  const complete = async (sampling: Sampling) =>
    (await clock.run(supervisor.submit({ prompt: [1], sampling }).result)).completions[0]!
  return { ...simulation, requests, aborts, complete, running: () => supervisor.getSnapshot().instances[0]!.running }
}

const aborted = (tokenIds: readonly number[], more: Partial<Chunk> = {}): Said => ({
  tokenIds,
  finishReason: 'abort',
  ...more,
})
const sentOf = ({ prompt, sampling: { maxTokens, minTokens, seed }, textBefore }: GenerateRequest) => ({
  prompt: [...(prompt as number[])],
  maxTokens,
  minTokens,
  seed: seed === null ? null : typeof seed,
  textBefore,
})

test('each segment asks for the rest: budget, least tokens, a seed of its own, a fresh id, several interruptions in a row (7)', async () => {
  const { complete, requests, ...simulation } = await started([
    [aborted([2, 3])],
    // In the queue: nothing at all, twice.
    [aborted([])],
    [aborted([])],
    [{ tokenIds: [4] }, aborted([5])],
    [{ tokenIds: [6], finishReason: 'length' }],
  ])
  const found = await complete({ maxTokens: 5, minTokens: 3, seed: 9 })
  expect([...found.tokenIds]).toEqual([2, 3, 4, 5, 6])
  expect([...found.logprobs]).toEqual([-2, -3, -4, -5, -6])
  expect(found.segments.map(({ start, end }) => [start, end])).toEqual([
    [0, 2],
    [2, 2],
    [2, 2],
    [2, 4],
    [4, 5],
  ])
  expect(requests.map(sentOf)).toEqual([
    { prompt: [1], maxTokens: 5, minTokens: 3, seed: 'number' },
    { prompt: [1, 2, 3], maxTokens: 3, minTokens: 1, seed: 'number' },
    { prompt: [1, 2, 3], maxTokens: 3, minTokens: 1, seed: 'number' },
    { prompt: [1, 2, 3], maxTokens: 3, minTokens: 1, seed: 'number' },
    { prompt: [1, 2, 3, 4, 5], maxTokens: 1, minTokens: 0, seed: 'number' },
  ])
  expect(new Set(requests.map(({ sampling: { seed } }) => seed)).size).toBe(5)
  expect(new Set(requests.map(({ requestId }) => requestId)).size).toBe(5)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('a budget that is exactly used up by the token an abort adds is the end (7)', async () => {
  const { complete, requests, ...simulation } = await started([[{ tokenIds: [2, 3] }, aborted([4])]])
  expect(await complete({ maxTokens: 3 })).toMatchObject({ outcome: 'completed', finishReason: 'length' })
  expect(requests).toHaveLength(1)
  expect(await closeSimulation(simulation)).toBe(0)
})

test.each([
  ['a stop id', { stopTokenIds: [3] }, 'ab', 'ab', true],
  ['a stop id that is ignored', { stopTokenIds: [3], ignoreEos: true }, 'ab', 'abc', false],
  ['a stop id before the least number of tokens', { stopTokenIds: [3], minTokens: 3 }, 'ab', 'abc', false],
] as const)(
  'a last token that completes %s: the sample goes on from it or not (7 a)',
  async (_, sampling, said, text, ends) => {
    const { complete, requests, ...simulation } = await started([
      [{ tokenIds: [2], text: said.slice(0, 1) }, aborted([3], { text: said.slice(1) })],
      [{ tokenIds: [4], text: 'c', finishReason: 'length' }],
    ])
    const found = await complete({ maxTokens: 9, ...sampling })
    expect(found).toMatchObject({ outcome: 'completed', finishReason: ends ? 'stop' : 'length', text })
    expect([...found.tokenIds]).toEqual(ends ? [2, 3] : [2, 3, 4])
    expect(requests).toHaveLength(ends ? 1 : 2)
    expect(await closeSimulation(simulation)).toBe(0)
  },
)

test('what has come of a stop string is sent along, over all segments; nothing where none has begun (7 b)', async () => {
  const { complete, requests, ...simulation } = await started([
    [aborted([2], { text: 'a <' })],
    [aborted([3], { text: '/e' })],
    [aborted([4], { text: 'm' })],
    [{ tokenIds: [5], text: '.', finishReason: 'length' }],
  ])
  await complete({ maxTokens: 9, stop: ['</end>'] })
  expect(requests.map(({ textBefore }) => textBefore)).toEqual([undefined, '<', '</e', undefined])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('a sample goes on from before a character that is cut, and says what was dropped (7 f)', async () => {
  const { complete, requests, ...simulation } = await started([
    [{ tokenIds: [2], text: 'a' }, { tokenIds: [3], text: '', hidden: 1 }, aborted([], { text: '', hidden: 1 })],
    [
      { tokenIds: [3, 4], text: 'é' },
      { tokenIds: [5], text: 'b', finishReason: 'stop' },
    ],
  ])
  const found = await complete({ maxTokens: 9 })
  expect(requests.map(({ prompt }) => prompt)).toEqual([[1], Int32Array.of(1, 2)])
  expect(requests[1]!.sampling.maxTokens).toBe(8)
  expect(found).toMatchObject({ text: 'aéb', versions: [{ version: null, start: 0, end: 4 }] })
  expect([...found.tokenIds]).toEqual([2, 3, 4, 5])
  expect([...found.logprobs]).toEqual([-2, -3, -4, -5])
  expect(found.segments).toMatchObject([
    { start: 0, end: 1, dropped: 1 },
    { start: 1, end: 4 },
  ])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('a last chunk without new text or tokens is an end like any other (7)', async () => {
  const { complete, ...simulation } = await started([
    [
      { tokenIds: [2], text: 'a' },
      { tokenIds: [], text: '', finishReason: 'stop' },
    ],
  ])
  expect(await complete({ maxTokens: 9 })).toMatchObject({ text: 'a', finishReason: 'stop' })
  expect(await closeSimulation(simulation)).toBe(0)
})

test.each([
  ['stop', 'completed'],
  ['abort', 'interrupted'],
] as const)(
  'an end that the driver sets (%s) settles the sample, and the slot when the server counts it no more (decision 23)',
  async (finishReason, end) => {
    let counted = 1
    const { clock, supervisor, aborts, running, ...simulation } = await started(
      [[{ tokenIds: [2], finishReason, isCut: true }], [{ tokenIds: [3], finishReason: 'stop' }]],
      () => counted,
    )
    const rollout = supervisor.submit({ prompt: [1] })
    await clock.advance(1_000)
    const { conservation } = supervisor.getSnapshot()
    expect(end === 'completed' ? conservation.ended.completed : conservation.waiting).toBe(1)
    expect(running()).toBe(1)
    expect(aborts).toHaveLength(1)
    counted = 0
    await clock.advance(250)
    expect(running()).toBe(0)
    expect((await clock.run(rollout.result)).complete).toBe(true)
    expect(await closeSimulation({ clock, supervisor, ...simulation })).toBe(0)
  },
)

test('a run that is saved in the middle of a stop string and a character goes on from before the character, with the beginning of both', async () => {
  const first = await started([
    [{ tokenIds: [2], text: 'a <' }, { tokenIds: [3], text: '', hidden: 1 }, aborted([], { text: '', hidden: 1 })],
  ])
  const sampling = { maxTokens: 9, stop: ['<é>'] }
  let saved: unknown = null
  let heard = 0
  const rollout = first.supervisor.submit({ prompt: [1], sampling })
  const listening = (async () => {
    // With the second, and before its end.
    for await (const event of rollout.events)
      if (event.type === 'sample.tokens' && ++heard === 2) saved = JSON.parse(JSON.stringify(first.supervisor.save()))
  })()
  await first.clock.settle()
  expect(await closeSimulation(first)).toBe(0)
  await listening
  const restore = saved as SavedState
  const second = await started(
    [
      [
        { tokenIds: [3, 4], text: 'é' },
        { tokenIds: [5], text: '>', finishReason: 'stop' },
      ],
    ],
    () => 0,
    { restore },
  )
  expect(second.requests.map(sentOf)).toMatchObject([{ prompt: [1, 2], maxTokens: 8, textBefore: '<' }])
  expect(await closeSimulation(second)).toBe(0)
})
