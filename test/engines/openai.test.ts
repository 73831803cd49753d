/**
 * The driver of any OpenAI-compatible server: what it sends, what it makes of streams, and the whole supervisor over servers without token ids.
 */
import { afterEach, describe, expect, onTestFinished, test } from 'vitest'
import { createOpenaiDriver } from '../../src/engines/openai.ts'
import { createSupervisor, type InstanceOptions } from '../../src/index.ts'
import { type EmbeddedEngine, scoreTokens, startEmbeddedEngine } from '../../src/testing/index.ts'
import { largestDifference, until } from '../testing/client.ts'
import { type Answer, events, join, never, options, refusal, sampling, serve } from './fake-server.ts'

const CHAT = [{ role: 'user', content: 'hi' }]
type Prompt = string | readonly number[] | typeof CHAT
const ask = (prompt: Prompt, more = {}) => ({ requestId: 'r-1', prompt, sampling: { ...sampling, ...more } })

/** A server with these models, whose completions routes answer like this. */
async function serving(answer: Answer, models: readonly unknown[] = [{ id: 'm' }], model?: string) {
  const server = await serve((sent, response, body) => {
    const json = (value: unknown) =>
      response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(value))
    if (sent.url === '/v1/models') json({ object: 'list', data: models })
    else answer(sent, response, body)
  })
  const driver = createOpenaiDriver(options(server.url, { model }))
  onTestFinished(() => driver.close())
  return { server, driver }
}

const text = (said: string, finish: string | null = null, more = {}) => ({
  choices: [{ index: 0, text: said, finish_reason: finish, ...more }],
})
const chat = (delta: object, finish: string | null = null) => ({
  choices: [{ index: 0, delta, finish_reason: finish }],
})

async function read(list: readonly unknown[], prompt: Prompt = 'hello') {
  const { driver } = await serving((_, response) => {
    events(response, list)
    response.end()
  })
  return join(driver.generate(ask(prompt), never))
}

describe('a stream', () => {
  test('of text yields its deltas, without ids; usage and [DONE] are passed over', async () => {
    const out = await read([text('he'), text('llo'), text('', 'length'), { choices: [], usage: {} }, '[DONE]'])
    expect(out).toMatchObject({
      error: null,
      text: 'hello',
      tokenIds: [],
      logprobs: [],
      last: { finishReason: 'length' },
    })
  })

  test('of chat yields what the assistant says', async () => {
    const out = await read([chat({ role: 'assistant', content: '' }), chat({ content: 'hi' }), chat({}, 'stop')], CHAT)
    expect(out).toMatchObject({ error: null, text: 'hi', last: { finishReason: 'stop' } })
  })

  test('that thinks, or calls a tool, makes progress without text', async () => {
    const list = [chat({ reasoning_content: 'hm' }), chat({ tool_calls: [{ index: 0 }] }), chat({}, 'tool_calls')]
    const out = await read(list, CHAT)
    expect(out).toMatchObject({ error: null, text: '', last: { text: '', finishReason: 'toolCalls' } })
  })

  test.each([
    ['eos_token', 'stop'],
    ['content_filter', 'stop'],
    ['max_tokens', 'length'],
    ['function_call', 'toolCalls'],
    ['abort', 'abort'],
  ])('that ends by %s is finished by %s', async (said, finishReason) => {
    expect((await read([text('a', said)])).last?.finishReason).toBe(finishReason)
  })

  test('that is done without a finish reason is an interruption; one that just ends is broken (F12)', async () => {
    expect(await read([text('a'), '[DONE]'])).toMatchObject({ error: null, last: { finishReason: 'abort' } })
    expect(await read([text('a')])).toMatchObject({ text: 'a', error: { code: 'TRANSPORT' } })
  })

  test.each([
    [{ error: { message: 'slow down', code: 429 } }, 'BUSY'],
    [{ error: { message: 'broken', type: 'server_error', code: null } }, 'ENGINE_ERROR'],
    [{ error: { message: 'bad', code: '400' } }, 'REQUEST_REJECTED'],
    [{ nothing: 1 }, 'WRONG_PROTOCOL'],
  ])('with %j in it fails with %s (R9)', async (event, code) => {
    expect((await read([text('a'), event])).error).toMatchObject({ code })
  })
})

test.each([
  [429, 'BUSY', 3000],
  [503, 'BUSY', undefined],
  [401, 'INSTANCE_FAULT', undefined],
  [400, 'REQUEST_REJECTED', undefined],
  [500, 'ENGINE_ERROR', undefined],
])('an answer with status %i is %s', async (status, code, retryAfterMs) => {
  const { driver } = await serving((_, response) => {
    const headers = retryAfterMs === undefined ? {} : { 'retry-after': '3' }
    response.writeHead(status, { 'content-type': 'application/json', ...headers }).end('{"error":{"message":"no"}}')
  })
  const { error } = await join(driver.generate(ask('a'), never))
  expect(error).toMatchObject({ code, status, message: expect.stringContaining('no') })
  expect(error?.retryAfterMs).toBe(retryAfterMs)
})

/** Answers the question of the probe like a server with token ids. */
const withIds: Answer = (_, response, body) => {
  const asked = JSON.parse(body)
  const choice = { token_ids: [5], prompt_token_ids: asked.prompt, logprobs: { token_logprobs: [-0.5] } }
  if (asked.stream === true) {
    events(response, [text('a', 'length', choice)])
    response.end()
  } else {
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ choices: [choice] }))
  }
}

const without: Answer = (_, response) => {
  response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ choices: [{ text: 'a' }] }))
}

describe('a probe', () => {
  test('finds the model, and a server that shows no token ids has none', async () => {
    const { driver } = await serving(without, [{ id: 'm', max_model_len: 2048 }])
    expect(await driver.probe()).toMatchObject({
      engine: 'openai',
      capacity: null,
      weightVersion: null,
      contextLength: 2048,
      capabilities: { tokenIds: false, logprobs: 'none', abortById: false, versions: 'none', loadReport: false },
      advice: [expect.stringContaining('use the engine of the server itself')],
    })
  })

  test('finds token ids where the server shows them, and asks once', async () => {
    const { driver, server } = await serving(withIds)
    expect(await driver.probe()).toMatchObject({ capabilities: { tokenIds: true, logprobs: 'raw' }, advice: [] })
    await driver.probe()
    expect(server.requests.map(({ line }) => line)).toEqual([
      'GET /v1/models',
      'POST /v1/completions',
      'GET /v1/models',
    ])
    const out = await join(driver.generate(ask([1, 2], { stopTokenIds: [9], ignoreEos: true }), never))
    expect(out).toMatchObject({ error: null, tokenIds: [5], logprobs: [-0.5], text: 'a' })
    expect(JSON.parse(server.requests.at(-1)!.body)).toMatchObject({ prompt: [1, 2], ignore_eos: true, logprobs: 1 })
  })

  test('takes the model that is asked for, and names those that there are', async () => {
    const models = [{ id: 'a' }, { id: 'b' }]
    const chosen = await serving(without, models, 'b')
    await chosen.driver.probe()
    expect(JSON.parse(chosen.server.requests.at(-1)!.body)).toMatchObject({ model: 'b' })
    const first = await serving(without, models)
    expect((await first.driver.probe()).advice[0]).toMatch(/option model/)
    const missing = await serving(without, models, 'c')
    expect(await refusal(missing.driver.probe())).toMatchObject({
      code: 'INSTANCE_FAULT',
      message: expect.stringMatching(/"c", found a, b/),
    })
  })

  test('of something else, or with a wrong key, says so', async () => {
    const server = await serve((_, response) => response.writeHead(404).end())
    const other = createOpenaiDriver(options(server.url))
    onTestFinished(() => other.close())
    expect(await refusal(other.probe())).toMatchObject({ code: 'WRONG_PROTOCOL' })
    const { driver } = await embedded({ apiKey: 'k' })
    expect(await refusal(driver.probe())).toMatchObject({ code: 'INSTANCE_FAULT', status: 401 })
  })
})

test('a request holds nothing that a compatible server may not know', async () => {
  const { driver, server } = await serving((sent, response, body) => {
    if (JSON.parse(body).stream !== true) return without(sent, response, body)
    events(response, [text('a', 'stop')])
    response.end()
  })
  await driver.probe()
  await join(driver.generate(ask(CHAT, { seed: 3, stop: ['x'] }), never))
  const { line, body } = server.requests.at(-1)!
  expect(line).toBe('POST /v1/chat/completions')
  expect(JSON.parse(body)).toEqual({
    model: 'm',
    messages: CHAT,
    stream: true,
    n: 1,
    max_tokens: 10,
    temperature: 1,
    top_p: 1,
    stop: ['x'],
    seed: 3,
  })
})

test.each([
  ['token ids', [1, 2], {}, /found token ids/],
  ['sampling of its own', 'a', { topK: 5, ignoreEos: true }, /found topK, ignoreEos/],
])('%s are refused by a server that did not show ids', async (_, prompt, more, message) => {
  const { driver } = await serving(without)
  await driver.probe()
  expect(() => driver.generate(ask(prompt, more), never)).toThrow(
    expect.objectContaining({ code: 'REQUEST_REJECTED', message: expect.stringMatching(message) }),
  )
})

test('a server without the completions route takes chat only', async () => {
  const { driver } = await serving((_, response) => response.writeHead(404).end())
  await driver.probe()
  expect(() => driver.generate(ask('a'), never)).toThrow(/chat messages/)
})

test('what the protocol has no route for is no error, or says so', async () => {
  const { driver } = await serving(without)
  await driver.abort('r-1')
  await driver.resume()
  expect(await driver.weightVersion()).toBeNull()
  expect((await refusal(driver.load())).code).toBe('WRONG_PROTOCOL')
  expect((await refusal(driver.updateWeights({ version: 1, path: 'x', frozen: false }))).code).toBe('UPDATE_FAILED')
})

const engines: EmbeddedEngine[] = []
afterEach(async () => {
  await Promise.all(engines.splice(0).map((engine) => engine.close()))
})

async function embedded(more: Parameters<typeof startEmbeddedEngine>[0] = {}) {
  const engine = await startEmbeddedEngine({ profile: 'openai', stepMs: 0, perSequenceMs: 0, ...more })
  engines.push(engine)
  const driver = createOpenaiDriver(options(engine.url))
  onTestFinished(() => driver.close())
  return { engine, driver }
}

async function supervise(instances: readonly InstanceOptions[], more = {}) {
  const supervisor = createSupervisor({ instances, ...more })
  onTestFinished(() => supervisor.close())
  await supervisor.start()
  return supervisor
}

describe('through the supervisor', () => {
  test.each([['hello'], [CHAT]])('%j completes with text and no ids', async (prompt) => {
    const { engine } = await embedded()
    const supervisor = await supervise([{ url: engine.url, engine: 'openai' }])
    expect(supervisor.getSnapshot().instances[0]!.capacity).toBe(4)
    const { completions } = await supervisor.submit({ prompt, samples: 6, sampling: { maxTokens: 20 } }).result
    for (const completion of completions) {
      expect(completion).toMatchObject({ outcome: 'completed', text: expect.any(String), versions: [] })
      expect(completion.tokenIds).toHaveLength(0)
      expect(completion.logprobs).toHaveLength(0)
    }
    expect(completions.some(({ text: said }) => said !== '')).toBe(true)
  })

  test('a busy server is waited for (429, Retry-After)', async () => {
    const { engine } = await embedded({ capacity: 1, maxQueued: 0, stepMs: 5 })
    const supervisor = await supervise([{ url: engine.url, engine: 'openai', capacity: 2 }])
    const { completions } = await supervisor.submit({ prompt: 'a', samples: 2, sampling: { maxTokens: 30 } }).result
    expect(completions.map(({ outcome }) => outcome)).toEqual(['completed', 'completed'])
  })

  test('an interrupted sample begins again, with nothing of the text before (decision 21)', async () => {
    let tries = 0
    const { server } = await serving((_, response, body) => {
      if (JSON.parse(body).stream !== true) return without(_, response, body)
      events(response, tries++ === 0 ? [text('lost ')] : [text('whole'), text('', 'stop')])
      response.end()
    })
    const supervisor = await supervise([{ url: server.url, engine: 'openai' }])
    const { completions } = await supervisor.submit({ prompt: 'a' }).result
    expect(completions[0]).toMatchObject({ outcome: 'completed', text: 'whole' })
    expect(completions[0]!.segments.map(({ reason }) => reason)).toEqual(['failed', 'finished'])
  })

  test('text that cannot be kept is no progress: attempts that bring no more end the sample (decision 16)', async () => {
    const { server } = await serving((_, response, body) => {
      if (JSON.parse(body).stream !== true) return without(_, response, body)
      events(response, [text('again')])
      response.end()
    })
    const supervisor = await supervise([{ url: server.url, engine: 'openai' }], {
      retry: { attempts: 2 },
      breaker: { failures: 100 },
    })
    const { completions } = await supervisor.submit({ prompt: 'a' }).result
    expect(completions[0]).toMatchObject({ outcome: 'failed', text: 'again', error: { code: 'ATTEMPTS_EXHAUSTED' } })
    expect(completions[0]!.segments).toHaveLength(2)
  })

  test('text counts against the clocks of an attempt: a slow stream is not silent', async () => {
    const { engine } = await embedded({ stepMs: 30 })
    const supervisor = await supervise([{ url: engine.url, engine: 'openai' }], {
      timeouts: { firstTokenMs: 400, progressMs: 400 },
    })
    const { completions } = await supervisor.submit({ prompt: 'abc', sampling: { maxTokens: 30 } }).result
    expect(completions[0]).toMatchObject({ outcome: 'completed', segments: [{ reason: 'finished' }] })
    expect(completions[0]!.timings.firstTokenMs).not.toBeNull()
  })

  test('a cancel frees the slot (I11)', async () => {
    const { engine } = await embedded({ stepMs: 20, contextLength: 8192 })
    const supervisor = await supervise([{ url: engine.url, engine: 'openai' }])
    const rollout = supervisor.submit({ prompt: 'abc', samples: 2, sampling: { maxTokens: 8000 } })
    await until('two run', () => engine.counters.running === 2)
    rollout.cancel()
    await until('all slots are free', () => engine.counters.running === 0)
    expect((await rollout.result).completions[0]!.outcome).toBe('cancelled')
  })

  test('over a server that shows ids tokens are exact (I8)', async () => {
    const { engine } = await embedded({ profile: 'vllm' })
    const supervisor = await supervise([{ url: engine.url, engine: 'openai' }])
    const prompt = [7, 1, 12]
    const { completions } = await supervisor.submit({ prompt, samples: 3, sampling: { maxTokens: 30 } }).result
    for (const { outcome, tokenIds, logprobs } of completions) {
      expect(outcome).toBe('completed')
      expect(largestDifference(logprobs, scoreTokens(engine.weights, prompt, tokenIds))).toBeLessThan(1e-5)
    }
  })
})
