/**
 * One generation under one lease: what counts against a sample, what is sent, and how its tokens are labelled.
 */
import { expect, test } from 'vitest'
import {
  type Chunk,
  type DriverFactory,
  type GenerateRequest,
  type Rollout,
  RolloutError,
  type Supervisor,
} from '../../src/index.ts'
import { closeSimulation, simulate, startSimulation } from '../simulate.ts'

test('leaving instances never count as attempts without a token (decision 16)', async () => {
  const fleet = Array.from({ length: 6 }, () => ({ capacity: 1 }))
  const simulation = await startSimulation(fleet, { retry: { attempts: 2 } })
  const { clock, supervisor, servers } = simulation
  for (const each of servers) each.freeze()
  const rollout = supervisor.submit({ prompt: [7, 5] })
  const where = () => supervisor.getSnapshot().instances.find(({ running }) => running === 1)!.id
  for (let left = 0; left < 3; left++) {
    await clock.settle()
    await clock.run(supervisor.remove(where()))
  }
  // The first attempt that fails by itself: one is left.
  simulation.server(where()).die()
  await clock.settle()
  for (const each of servers) each.thaw()
  const { completions } = await clock.run(rollout.result)
  expect(completions[0]!.segments.map(({ reason }) => reason)).toEqual([
    'interrupted',
    'interrupted',
    'interrupted',
    'failed',
    'finished',
  ])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('a sample that is cancelled while its prompt is made into tokens is never sent (I11)', async () => {
  const simulation = simulate([])
  const { clock, supervisor } = simulation
  let sent = 0
  let answer = (_ids: number[]): void => {}
  const engine = scripted([], {
    onGenerate: () => void sent++,
    tokenize: () => new Promise((resolve) => (answer = resolve)),
  })
  supervisor.add({ url: 'sim://text', engine, id: 'text', capacity: 1 })
  await clock.run(supervisor.start())
  const rollout = supervisor.submit({ prompt: 'hello' })
  rollout.cancel()
  answer([1, 2])
  await clock.settle()
  expect(sent).toBe(0)
  expect(supervisor.getSnapshot().instances[0]!.running).toBe(0)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('tokens that the spans of a server leave out are labelled with the version of the request (I8)', async () => {
  const simulation = simulate([])
  const { clock, supervisor } = simulation
  const chunk: Chunk = {
    tokenIds: [1, 2, 3, 4, 5],
    logprobs: [-1, -1, -1, -1, -1],
    text: null,
    finishReason: 'stop',
    versions: [{ version: '4', start: 2, end: 3 }],
  }
  supervisor.add({ url: 'sim://gaps', engine: scripted([chunk]), id: 'gaps' })
  await clock.run(supervisor.start())
  const { completions } = await clock.run(supervisor.submit({ prompt: [1] }).result)
  expect(completions[0]!.versions).toEqual([
    { version: null, start: 0, end: 2 },
    { version: 4, start: 2, end: 3 },
    { version: null, start: 3, end: 5 },
  ])
  expect(await closeSimulation(simulation)).toBe(0)
})

test.each([
  ['all it may have', { maxTokens: 3 }, 'length'],
  ['its stop token', { maxTokens: 10, stopTokenIds: [3] }, 'stop'],
] as const)('a stream cut after %s is complete, not resumed', async (_, sampling, finishReason) => {
  const simulation = simulate([])
  const { clock, supervisor } = simulation
  let sent = 0
  const cut = { tokenIds: [1, 2, 3], logprobs: [-1, -1, -1], text: null, finishReason: null, versions: null }
  supervisor.add({ url: 'sim://cut', engine: scripted([cut], { onGenerate: () => void sent++ }), id: 'cut' })
  await clock.run(supervisor.start())
  const { completions } = await clock.run(supervisor.submit({ prompt: [1], sampling }).result)
  expect(completions[0]).toMatchObject({ outcome: 'completed', finishReason, error: null })
  expect([[...completions[0]!.tokenIds], sent]).toEqual([[1, 2, 3], 1])
  expect(await closeSimulation(simulation)).toBe(0)
})

test.each([
  ['end-of-sequence is ignored', { maxTokens: 10, stopTokenIds: [3], ignoreEos: true }],
  ['fewer than minTokens came', { maxTokens: 10, minTokens: 5, stopTokenIds: [3] }],
] as const)('a stream cut after its stop token goes on where %s', async (_, sampling) => {
  const simulation = simulate([], { retry: { attempts: 1 } })
  const { clock, supervisor } = simulation
  const cut = { tokenIds: [1, 2, 3], logprobs: [-1, -1, -1], text: null, finishReason: null, versions: null }
  const sent: number[][] = []
  const engine: DriverFactory = (options) => {
    const driver = scripted([cut])(options)
    return {
      ...driver,
      async *generate(request, signal) {
        sent.push([...(request.prompt as number[])])
        if (sent.length === 1) yield* driver.generate(request, signal)
        else yield { ...cut, finishReason: 'stop' as const }
      },
    }
  }
  supervisor.add({ url: 'sim://cut', engine, id: 'cut' })
  await clock.run(supervisor.start())
  const { completions } = await clock.run(supervisor.submit({ prompt: [9], sampling }).result)
  expect([...completions[0]!.tokenIds]).toEqual([1, 2, 3, 1, 2, 3])
  expect(sent).toEqual([[9], [9, 1, 2, 3]])
  expect(await closeSimulation(simulation)).toBe(0)
})

/** A server that answers each request with the same chunks. */
function scripted(
  chunks: readonly Chunk[],
  hooks: { onGenerate?: () => void; tokenize?: () => Promise<number[]> } = {},
): DriverFactory {
  return () => ({
    engine: 'scripted',
    probe: async () => ({
      engine: 'scripted',
      engineVersion: null,
      capacity: 1,
      weightVersion: null,
      vocabularySize: null,
      contextLength: null,
      paused: false,
      capabilities: {
        tokenIds: true,
        logprobs: 'sampled',
        abortById: true,
        versions: 'spans',
        updateWeights: false,
        loadReport: false,
        pause: [],
        release: false,
      },
      advice: [],
    }),
    load: async () => ({ running: 0, waiting: 0 }),
    weightVersion: async () => null,
    async *generate() {
      hooks.onGenerate?.()
      yield* chunks
    },
    abort: async () => {},
    resume: async () => {},
    updateWeights: async () => {},
    ...(hooks.tokenize === undefined ? {} : { tokenize: hooks.tokenize }),
    close: async () => {},
  })
}

test.each([{ progressMs: 100 }, { progressMs: 100, totalMs: 3_600_000, firstTokenMs: 60_000 }])(
  'an attempt that stands still after its first tokens is found after progressMs: $progressMs (decision 18)',
  async (timeouts) => {
    const simulation = await startSimulation([{ capacity: 1 }, { capacity: 1 }], { timeouts })
    const { clock, supervisor } = simulation
    const rollout = supervisor.submit({ prompt: [7, 5], sampling: { maxTokens: 50, ignoreEos: true } })
    await clock.advance(30)
    const { id } = supervisor.getSnapshot().instances.find(({ running }) => running === 1)!
    const frozenAt = clock.now()
    simulation.server(id).freeze()
    const [completion] = (await clock.run(rollout.result)).completions
    const [stood, next] = completion!.segments
    expect(stood).toMatchObject({ reason: 'timedOut', instance: id })
    expect(stood!.end).toBeGreaterThan(0)
    expect(next).toMatchObject({ reason: 'finished', start: stood!.end })
    expect(stood!.endedAt - frozenAt).toBeLessThanOrEqual(100)
    simulation.server(id).thaw()
    expect(await closeSimulation(simulation)).toBe(0)
  },
)

test('requests that strangers abort without a token are sent again after a growing backoff, and four count as one attempt (decision 16)', async () => {
  const simulation = simulate([], { retry: { attempts: 3 } })
  const { clock, supervisor } = simulation
  const sent: number[] = []
  let ended = 8
  const chunk = { tokenIds: [], logprobs: [], text: null, versions: null, finishReason: 'abort' as const }
  const engine: DriverFactory = (options) => {
    const driver = scripted([chunk])(options)
    return {
      ...driver,
      async *generate(request, signal) {
        sent.push(clock.now())
        if (sent.length <= ended) yield* driver.generate(request, signal)
        else yield { ...chunk, tokenIds: [1], logprobs: [-1], finishReason: 'stop' as const }
      },
    }
  }
  supervisor.add({ url: 'sim://strangers', engine, id: 'strangers' })
  await clock.run(supervisor.start())
  const { completions } = await clock.run(supervisor.submit({ prompt: [9] }).result)
  expect(completions[0]).toMatchObject({ outcome: 'completed', error: null })
  expect(sent.slice(1).map((at, index) => at - sent[index]!)).toEqual([100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000])
  ended = Number.POSITIVE_INFINITY
  const [exhausted] = (await clock.run(supervisor.submit({ prompt: [9] }).result)).completions
  expect([exhausted!.error!.code, exhausted!.segments.length]).toEqual(['ATTEMPTS_EXHAUSTED', 12])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('tokens that are thrown away are no progress: a sample that cannot resume and always breaks off is exhausted (decision 16)', async () => {
  const simulation = simulate([], { retry: { attempts: 3 } })
  const { clock, supervisor } = simulation
  const chunk: Chunk = { tokenIds: [1], logprobs: [-1], text: 'a', versions: null, finishReason: null }
  // Ends without a finish reason, and has no tokenizer: text begins again.
  supervisor.add({ url: 'sim://text', engine: scripted([chunk]), id: 'text', capacity: 1 })
  await clock.run(supervisor.start())
  const { completions } = await clock.run(supervisor.submit({ prompt: 'hello' }).result)
  expect(completions[0]).toMatchObject({ outcome: 'failed', error: { code: 'ATTEMPTS_EXHAUSTED' } })
  expect(completions[0]!.segments).toHaveLength(3)
  expect(await closeSimulation(simulation)).toBe(0)
})

test.each([1, 3])(
  'a server whose answer shows that it restarted gets no other sample before it is brought up to date (I9), with %i slots',
  async (capacity) => {
    const simulation = await startSimulation([{ capacity }])
    const { clock, supervisor, servers } = simulation
    await clock.run(supervisor.updateWeights({ version: 1, path: '/weights/1' }))
    servers[0]!.revive()
    // The first to end finds it; those that ran beside it were sent before.
    const lengths = Array.from({ length: capacity + 4 }, (_, index) => 5 + 10 * index)
    const rollouts = lengths.map((length) => supervisor.submit({ prompt: [7, length] }))
    const groups = await clock.run(Promise.all(rollouts.map(({ result }) => result)))
    for (const { completions } of groups.slice(capacity))
      expect(completions[0]!.versions.map(({ version }) => version)).toEqual([1])
    expect(await closeSimulation(simulation)).toBe(0)
  },
)

test.each([
  // By an evaluation, whose sample comes next.
  ['interrupted', (supervisor: Supervisor) => void supervisor.evaluate([{ prompt: [7, 5] }])],
  ['cancelled', (_: Supervisor, rollout: Rollout) => rollout.cancel()],
] as const)(
  'a server whose answer to a request that was %s shows other weights gets no sample before it is brought up to date (I9)',
  async (_, end) => {
    const simulation = await startSimulation([{ capacity: 1 }])
    const { clock, supervisor, servers } = simulation
    const later: (number | null)[] = []
    supervisor.completions$.subscribe(({ taskId, versions }) => {
      if (taskId !== 'first') for (const { version } of versions) later.push(version)
    })
    await clock.run(supervisor.updateWeights({ version: 1, path: '/weights/1' }))
    servers[0]!.revive()
    const first = supervisor.submit({ id: 'first', prompt: [7, 400] })
    await clock.advance(30)
    end(supervisor, first)
    supervisor.submit({ prompt: [7, 5] })
    await clock.run(supervisor.drainAll())
    expect(new Set(later)).toEqual(new Set([1]))
    expect(await closeSimulation(simulation)).toBe(0)
  },
)

test.each(['drain', 'abort'] as const)(
  'a request whose connection was closed under it is not sent again past a gate that has closed (I10), pause: %s',
  async (mode) => {
    const simulation = simulate([], { minInstances: 0 })
    const { clock, supervisor } = simulation
    const { engine, answers } = closedUnder()
    supervisor.add({ url: 'sim://closed', engine, id: 'closed' })
    await clock.run(supervisor.start())
    const rollout = supervisor.submit({ prompt: [1] })
    await clock.settle()
    void supervisor.pause({ mode })
    await clock.advance(100)
    void supervisor.resume()
    expect((await clock.run(rollout.result)).complete).toBe(true)
    expect(answers).toEqual([false, true])
    expect(supervisor.getSnapshot().instances[0]).toMatchObject({ failed: 0, fault: null })
    expect(await closeSimulation(simulation)).toBe(0)
  },
)

/** A server that closes the connection of every request once; the request is sent again 50 ms later, where that may be. */
function closedUnder(): { engine: DriverFactory; answers: boolean[] } {
  const answers: boolean[] = []
  const engine: DriverFactory = (options) => ({
    ...scripted([])(options),
    async *generate({ maySendAgain }: GenerateRequest, signal: AbortSignal): AsyncGenerator<Chunk> {
      await new Promise((resolve) => void options.clock.setTimeout(() => resolve(null), 50))
      const may: boolean = await maySendAgain!()
      answers.push(may)
      signal.throwIfAborted()
      if (!may) throw new RolloutError('TRANSPORT', 'the connection was closed')
      yield { tokenIds: [1], logprobs: [-1], text: null, finishReason: 'stop', versions: null }
    },
  })
  return { engine, answers }
}
