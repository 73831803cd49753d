/**
 * The llama-server driver: what it sends, what it makes of streams, and the whole supervisor over embedded llama-servers.
 */
import { afterEach, describe, expect, onTestFinished, test } from 'vitest'
import type { Chunk, EngineDriver } from '../../src/engines/driver.ts'
import { createLlamaServerDriver } from '../../src/engines/llama-server.ts'
import { type Completion, createSupervisor, type InstanceOptions } from '../../src/index.ts'
import { type EmbeddedEngine, scoreTokens, startEmbeddedEngine, textOf, tokensOf } from '../../src/testing/index.ts'
import { largestDifference, until } from '../testing/client.ts'
import { events, join, never, options, refusal, sampling, serve } from './fake-server.ts'

const PROMPT = [7, 1, 12]
const request = (more = {}) => ({ requestId: 'r-1', prompt: PROMPT, sampling: { ...sampling, ...more } })

/** One event of token `id`, the nth of its stream. */
const token = (id: number, n: number, more = {}) => ({
  index: 0,
  content: `<${id}>`,
  tokens: [id],
  stop: false,
  tokens_predicted: n,
  completion_probabilities: [{ id, logprob: -id, top_logprobs: [] }],
  ...more,
})
const end = (stopType: string, n: number, word = '') => ({
  content: '',
  tokens: [],
  stop: true,
  tokens_predicted: n,
  stop_type: stopType,
  stopping_word: word,
})

/** What the driver makes of these events, and of a server that goes on after them if `open`. */
async function read(list: readonly unknown[], more = {}, open = false) {
  let closed = false
  const server = await serve((_, response) => {
    response.on('close', () => {
      closed = true
    })
    events(response, list)
    if (!open) response.end()
  })
  const driver = createLlamaServerDriver(options(server.url))
  onTestFinished(() => driver.close())
  const out = await join(driver.generate(request(more), never))
  return { ...out, closed: () => closed }
}

describe('a stream', () => {
  test.each([
    ['limit', '', 'length', '<4><5>'],
    ['eos', '', 'stop', '<4><5>'],
    ['word', 'xy', 'stop', '<4><5>xy'],
  ])('that ends by %s%s is finished by %s, without [DONE] (F12)', async (type, word, finishReason, text) => {
    const out = await read([token(4, 1), token(5, 2), end(type, 2, word)])
    expect(out).toMatchObject({ error: null, tokenIds: [4, 5], logprobs: [-4, -5], text, last: { finishReason } })
  })

  test('with probabilities after the samplers yields their logarithms', async () => {
    const probability = (prob: number) => ({ completion_probabilities: [{ id: 4, prob, top_probs: [] }] })
    const out = await read([token(4, 1, probability(0.25)), token(4, 2, probability(0)), end('limit', 2)])
    expect(out.logprobs).toEqual([Math.log(0.25), Number.NEGATIVE_INFINITY])
  })

  test('that stops without its last event is broken, its tokens are kept', async () => {
    const out = await read([token(4, 1), token(5, 2)])
    expect(out).toMatchObject({ tokenIds: [4, 5], error: { code: 'TRANSPORT' } })
  })

  test('is interrupted before tokens that the server counts and does not name, and its socket is closed (I8)', async () => {
    // Token 3 ended inside a character; the event of token 4 completes it.
    const out = await read([token(4, 1), token(5, 2), token(9, 4)], {}, true)
    expect(out).toMatchObject({ error: null, tokenIds: [4, 5], logprobs: [-4, -5], last: { finishReason: 'abort' } })
    await until('the socket is closed', out.closed)
  })

  test('whose last tokens are not named is shorter', async () => {
    const out = await read([token(4, 1), end('limit', 3)])
    expect(out).toMatchObject({ error: null, tokenIds: [4], last: { finishReason: 'length' } })
  })

  test('is finished by a stop id, which the server does not know, and its socket is closed', async () => {
    const out = await read([token(4, 1), token(5, 2), token(6, 3)], { stopTokenIds: [5] }, true)
    expect(out).toMatchObject({ error: null, tokenIds: [4, 5], last: { finishReason: 'stop' } })
    await until('the socket is closed', out.closed)
    const ignored = await read([token(5, 1), end('limit', 1)], { stopTokenIds: [5], ignoreEos: true })
    expect(ignored.last?.finishReason).toBe('length')
  })

  test.each([
    [{ error: { code: 500, message: 'Compute error.', type: 'server_error' } }, 'ENGINE_ERROR'],
    [{ error: { code: 503, message: 'full', type: 'unavailable_error' } }, 'BUSY'],
    [end('none', 1), 'WRONG_PROTOCOL'],
    [{ choices: [] }, 'WRONG_PROTOCOL'],
    [token(5, 2, { completion_probabilities: [] }), 'WRONG_PROTOCOL'],
    [token(5, 2, { tokens: undefined }), 'WRONG_PROTOCOL'],
  ])('with %j in it fails with %s after its tokens (R9)', async (event, code) => {
    const out = await read([token(4, 1), event])
    expect(out).toMatchObject({ error: { code } })
  })
})

describe('a request', () => {
  async function sent(more = {}): Promise<unknown> {
    const server = await serve((_, response) => {
      events(response, [end('limit', 0)])
      response.end()
    })
    const driver = createLlamaServerDriver(options(server.url))
    onTestFinished(() => driver.close())
    await join(driver.generate({ ...request(more), prompt: Int32Array.of(10, 11) }, never))
    return JSON.parse(server.requests[0]!.body)
  }

  test('spells out every default that would cut the distribution, and the order of the samplers', async () => {
    expect(await sent({ maxTokens: 64, stop: ['x'], seed: 2 ** 40 + 7 })).toEqual({
      prompt: [10, 11],
      stream: true,
      n_predict: 64,
      samplers: ['temperature', 'top_k', 'top_p', 'min_p'],
      temperature: 1,
      top_k: 0,
      top_p: 1,
      min_p: 0,
      repeat_penalty: 1,
      frequency_penalty: 0,
      presence_penalty: 0,
      ignore_eos: false,
      n_probs: 1,
      post_sampling_probs: false,
      return_tokens: true,
      cache_prompt: true,
      seed: 7,
    })
  })

  test.each([
    [{ temperature: 0.7 }, true],
    [{ topP: 0.9 }, true],
    [{ topK: 20 }, true],
    [{ minP: 0.1 }, true],
    [{ ignoreEos: true }, true],
    [{ temperature: 0 }, false],
    [{}, false],
  ])('with %j asks for probabilities after the samplers: %j (decision 20)', async (more, after) => {
    expect(await sent(more)).toMatchObject({ post_sampling_probs: after })
  })

  test.each([
    ['minTokens', { minTokens: 3 }, PROMPT],
    ['chat messages', {}, [{ role: 'user', content: 'hi' }]],
  ])('with %s is refused before it is sent', (what, more, prompt) => {
    const driver = createLlamaServerDriver(options('http://127.0.0.1:9'))
    expect(() => driver.generate({ ...request(more), prompt }, never)).toThrow(
      expect.objectContaining({ code: 'REQUEST_REJECTED', message: expect.stringContaining(what) }),
    )
  })
})

const engines: EmbeddedEngine[] = []
afterEach(async () => {
  await Promise.all(engines.splice(0).map((engine) => engine.close()))
})

async function embedded(more: Parameters<typeof startEmbeddedEngine>[0] = {}) {
  const engine = await startEmbeddedEngine({ profile: 'llama-server', stepMs: 0, perSequenceMs: 0, ...more })
  engines.push(engine)
  const driver: EngineDriver = createLlamaServerDriver(options(engine.url))
  onTestFinished(() => driver.close())
  return { engine, driver }
}

describe('a server', () => {
  test('is probed for its slots, context and vocabulary; what it cannot do is declared', async () => {
    const { driver } = await embedded({ capacity: 3, contextLength: 512 })
    expect(await driver.probe()).toEqual({
      engine: 'llama-server',
      engineVersion: 'b11434-embedded',
      capacity: 3,
      weightVersion: null,
      vocabularySize: 16,
      contextLength: 512,
      paused: false,
      capabilities: {
        tokenIds: true,
        logprobs: 'sampled',
        abortById: false,
        versions: 'none',
        updateWeights: false,
        loadReport: true,
        pause: [],
        release: false,
      },
      advice: [],
    })
    expect(await driver.weightVersion()).toBeNull()
    await driver.abort('r-1')
    await driver.resume()
    expect(await refusal(driver.updateWeights({ version: 1, path: 'x', frozen: false }))).toMatchObject({
      code: 'UPDATE_FAILED',
      message: expect.stringContaining('restart'),
    })
  })

  test('that loads is busy; another one is no llama-server; a wrong key is the fault of the instance', async () => {
    const loading = await embedded({ loadingMs: 60_000 })
    expect(await refusal(loading.driver.probe())).toMatchObject({ code: 'BUSY', status: 503 })
    const other = await embedded({ profile: 'openai' })
    expect(await refusal(other.driver.probe())).toMatchObject({ code: 'WRONG_PROTOCOL' })
    const locked = await embedded({ apiKey: 'k' })
    expect(await refusal(locked.driver.probe())).toMatchObject({ code: 'INSTANCE_FAULT', status: 401 })
  })

  test.each([true, false])('with metrics %j says what it runs', async (metrics) => {
    const { engine, driver } = await embedded({ metrics, capacity: 2, stepMs: 1 })
    const { advice } = await driver.probe()
    expect(advice).toEqual(metrics ? [] : [expect.stringContaining('--metrics')])
    const controller = new AbortController()
    const streams = [1, 2, 3].map(() =>
      join(driver.generate(request({ maxTokens: 4000, ignoreEos: true }), controller.signal)),
    )
    await until('two run', () => engine.counters.running === 2 && engine.counters.waiting === 1)
    expect(await driver.load()).toMatchObject({ running: 2, waiting: metrics ? 1 : 0 })
    controller.abort()
    for (const each of await Promise.all(streams)) expect(each.error?.code).toBe('CANCELLED')
    await until('all slots are free', () => engine.counters.running + engine.counters.waiting === 0)
  })

  test('makes token ids of text and of chat messages', async () => {
    const { driver } = await embedded()
    expect(await driver.tokenize!('abc')).toEqual(tokensOf('abc'))
    const messages = [
      { role: 'system', content: 'ab' },
      { role: 'user', content: 'c' },
    ]
    expect(await driver.tokenize!(messages)).toEqual(tokensOf('abc'))
  })

  test('refuses what it cannot take with its own words (F4)', async () => {
    const { driver } = await embedded({ contextLength: 64 })
    const long = { ...request(), prompt: Array(64).fill(1) }
    const out = await join(driver.generate(long, never))
    expect(out.error).toMatchObject({ code: 'REQUEST_REJECTED', message: expect.stringMatching(/context size/) })
  })
})

async function supervise(instances: readonly InstanceOptions[]) {
  const supervisor = createSupervisor({ instances })
  onTestFinished(() => supervisor.close())
  await supervisor.start()
  return supervisor
}

/** Every log-probability is that of the weights, recomputed from nothing. */
function expectExact(
  { tokenIds, logprobs }: Completion,
  { weights }: EmbeddedEngine,
  prompt: number[],
  temperature = 1,
) {
  expect(largestDifference(logprobs, scoreTokens(weights, prompt, tokenIds, temperature))).toBeLessThan(1e-5)
}

describe('through the supervisor', () => {
  test.each([
    { temperature: 1, topP: 1, ignoreEos: false },
    { temperature: 0.5, topP: 1, ignoreEos: false },
    { temperature: 0, topP: 1, ignoreEos: false },
  ])('every log-probability is that of the distribution sampled from: %j (I8, decision 20)', async (how) => {
    const { engine } = await embedded()
    const supervisor = await supervise([{ url: engine.url, engine: 'llama-server' }])
    const { completions } = await supervisor.submit({ prompt: PROMPT, samples: 6, sampling: how }).result
    for (const completion of completions) {
      expect(completion).toMatchObject({
        outcome: 'completed',
        logprobBasis: how.temperature === 0 ? 'raw' : 'sampled',
      })
      expectExact(completion, engine, PROMPT, how.temperature)
      expect(completion.text).toBe(textOf(completion.tokenIds))
    }
  })

  test.each([['abc'], [[{ role: 'user', content: 'abc' }]]])(
    '%j becomes token ids once (decision 21)',
    async (prompt) => {
      const { engine } = await embedded()
      const supervisor = await supervise([{ url: engine.url, engine: 'llama-server' }])
      const { completions } = await supervisor.submit({ prompt, samples: 2, sampling: { maxTokens: 9 } }).result
      for (const completion of completions) expectExact(completion, engine, tokensOf('abc'))
    },
  )

  test('a cancel frees the slot, and a server that is lost costs no token (I11, F1)', async () => {
    const first = await embedded({ stepMs: 1, capacity: 2 })
    const second = await embedded({ stepMs: 1, capacity: 2, seed: 9 })
    const supervisor = await supervise(
      [first, second].map(({ engine }) => ({ url: engine.url, engine: 'llama-server' })),
    )
    const long = { maxTokens: 300, ignoreEos: true }
    const cancelled = supervisor.submit({ prompt: PROMPT, sampling: { ...long, maxTokens: 4000 } })
    const kept = supervisor.submit({ prompt: PROMPT, samples: 3, sampling: long })
    await until('four run', () => first.engine.counters.running + second.engine.counters.running === 4)
    cancelled.cancel()
    expect((await cancelled.result).completions[0]!.outcome).toBe('cancelled')
    await until('its slot is free', () => first.engine.counters.running + second.engine.counters.running === 3)
    await until('some tokens', () => first.engine.counters.tokensDelivered > 20)
    await first.engine.close()
    const { completions } = await kept.result
    for (const { outcome, tokenIds, logprobs, segments } of completions) {
      expect(outcome).toBe('completed')
      expect(tokenIds).toHaveLength(300)
      expect(logprobs).toHaveLength(300)
      expect(segments.at(-1)!.end).toBe(300)
    }
    expect(completions.some(({ segments }) => segments.length > 1)).toBe(true)
  })
})

test('chunks never hold more log-probabilities than tokens', async () => {
  const { driver } = await embedded()
  const chunks: Chunk[] = []
  for await (const chunk of driver.generate(request({ maxTokens: 50, ignoreEos: true }), never)) chunks.push(chunk)
  for (const { tokenIds, logprobs } of chunks) expect(logprobs).toHaveLength(tokenIds.length)
})
