/**
 * The vLLM dialect of the embedded engine answers as the real 0.32 was seen to answer (test/engines/fixtures/vllm-scale-out.json).
 */
import { afterEach, describe, expect, test } from 'vitest'
import {
  type EmbeddedEngine,
  type EmbeddedEngineOptions,
  startEmbeddedEngine,
} from '../../src/testing/embedded-engine.ts'
import { createTinyWeights, scoreTokens, textOf } from '../../src/testing/tiny-policy.ts'
import { said } from '../engines/replay-vllm.ts'
import { call, largestDifference, until } from './client.ts'
import { ask as askOf, COMPLETIONS, GENERATE, PROMPT } from './vllm-client.ts'

const OLD = createTinyWeights({ seed: 1 })

let engine: EmbeddedEngine

afterEach(() => engine?.close())

async function start(options: EmbeddedEngineOptions = {}): Promise<void> {
  engine = await startEmbeddedEngine({
    profile: 'vllm',
    stepMs: 1,
    perSequenceMs: 0,
    weights: OLD,
    weightVersion: '1',
    ...options,
  })
}

type Ask = Parameters<typeof askOf> extends [unknown, ...infer Rest] ? Rest : never
const ask = (...rest: Ask) => askOf(engine, ...rest)
const post = (path: string, body: object = {}) => call(engine, path, body)
const get = (path: string) => call(engine, path)
const running = () => until('it runs', () => engine.counters.tokensDelivered > 0)

describe.each([GENERATE, COMPLETIONS] as const)('%s', (route) => {
  test('streams deltas and ends with a finish reason', async () => {
    await start()
    const out = await ask(route, { max_tokens: 20 }, { output_mode: 'text' })
    expect(out).toMatchObject({ status: 200, done: true, error: null })
    expect(out.tokenIds).toHaveLength(20)
    expect(out.last?.finish_reason).toBe('length')
    expect(out.text).toBe(textOf(out.tokenIds))
    expect(largestDifference(out.logprobs, scoreTokens(OLD, PROMPT, out.tokenIds))).toBeLessThan(1e-9)
    if (route === GENERATE) expect(out.last?.weight_versions).toEqual([{ version: '1', start: 0, end: 20 }])
    else expect(out.last).not.toHaveProperty('weight_versions')
  })

  test('whole replies say the same as streams, and a seed starts again with each request', async () => {
    await start({ stepMs: 0 })
    const streamed = await ask(route, { max_tokens: 12, seed: 5 })
    const whole = await ask(route, { max_tokens: 12, seed: 5 }, { stream: false })
    expect(whole.tokenIds).toEqual(streamed.tokenIds)
    expect(whole.logprobs).toEqual(streamed.logprobs)
    expect((await ask(route, { max_tokens: 12, seed: 6 })).tokenIds).not.toEqual(streamed.tokenIds)
  })

  test('log-probabilities are before temperature, or with processed_logprobs after everything', async () => {
    const hot = { max_tokens: 60, temperature: 0.5 }
    await start({ stepMs: 0 })
    const raw = await ask(route, hot)
    expect(largestDifference(raw.logprobs, scoreTokens(OLD, PROMPT, raw.tokenIds, 1))).toBeLessThan(1e-9)
    await engine.close()
    await start({ stepMs: 0, logprobsMode: 'processed_logprobs' })
    const processed = await ask(route, hot)
    expect(largestDifference(processed.logprobs, scoreTokens(OLD, PROMPT, processed.tokenIds, 0.5))).toBeLessThan(1e-9)
    expect((await ask(route, { max_tokens: 8, top_k: 1 })).logprobs).toEqual(Array(8).fill(0))
    const cut = await ask(route, { max_tokens: 60, top_p: 0.5 })
    const whole = scoreTokens(OLD, PROMPT, cut.tokenIds, 1)
    expect(cut.logprobs.every((value, i) => value > whole[i]!)).toBe(true)
  })

  test('stop ids end it also when the end is ignored; stop text is shown only when asked for', async () => {
    await start({ stepMs: 0 })
    const byId = await ask(route, { stop_token_ids: [11, 12, 13, 14, 15] })
    expect(byId.last).toMatchObject({ finish_reason: 'stop', stop_reason: byId.tokenIds.at(-1) })
    const shown = await ask(route, { stop: ['1'], include_stop_str_in_output: true }, { output_mode: 'text' })
    expect(shown.last).toMatchObject({ finish_reason: 'stop', stop_reason: '1' })
    expect(shown.text.endsWith('1')).toBe(true)
    const hidden = await ask(route, { stop: ['1', '22'] }, { output_mode: 'text' })
    const full = textOf(hidden.tokenIds)
    expect(hidden.text).toBe(full.slice(0, full.endsWith('1') ? -1 : -2))
    const end = await ask(route, { ignore_eos: false })
    expect(end.last).toMatchObject({ finish_reason: 'stop', stop_reason: null })
  })

  test('only its own form of the id aborts, while the answer always claims success (R4)', async () => {
    await start()
    const ending = ask(route, {}, { request_id: 'abc' })
    await running()
    const wrong = ['abc', 'cmpl-abc', 'chatcmpl-abc', route === GENERATE ? 'cmpl-abc-0' : 'generate-tokens-abc']
    expect((await post('/abort_requests', { request_ids: wrong })).json).toEqual({ status: 'aborted', aborted: 4 })
    expect(engine.counters.running).toBe(1)
    const right = route === GENERATE ? 'generate-tokens-abc' : 'cmpl-abc-0'
    await post('/abort_requests', { request_ids: [right] })
    expect(engine.counters.running).toBe(0)
    const out = await ending
    expect(out).toMatchObject({ done: true, last: { finish_reason: 'abort', token_ids: [] } })
    expect(out.logprobs).toHaveLength(out.tokenIds.length)
    expect((await get('/metrics')).text).toContain('num_requests_running{engine="0",model_name="tiny-policy"} 0.0')
  })

  test('a header beats the id of the body, and an abort in the queue leaves no token', async () => {
    await start({ capacity: 1 })
    const first = ask(route, {}, { request_id: 'first' })
    await running()
    const second = ask(route, {}, { request_id: 'body' }, { 'x-request-id': 'head' })
    await until('it waits', () => engine.counters.waiting === 1)
    expect((await get('/metrics')).text).toContain('num_requests_waiting{engine="0",model_name="tiny-policy"} 1.0')
    const ids = ['body', 'head'].map((name) => (route === GENERATE ? `generate-tokens-${name}` : `cmpl-${name}-0`))
    await post('/abort_requests', { request_ids: ids.slice(0, 1) })
    expect(engine.counters.waiting).toBe(1)
    await post('/abort_requests', { request_ids: ids })
    const out = await second
    expect(out).toMatchObject({ status: 200, done: true, error: null, tokenIds: [] })
    if (route === GENERATE) expect(out.last).toMatchObject({ finish_reason: 'abort', weight_versions: [] })
    else expect(out.last).toBeUndefined()
    await post('/abort_requests', {})
    expect((await first).last?.finish_reason).toBe('abort')
  })

  test('a client that leaves frees its slot at once', async () => {
    await start({ stepMs: 1 })
    const controller = new AbortController()
    const body =
      route === GENERATE
        ? { token_ids: PROMPT, sampling_params: { max_tokens: 2000, ignore_eos: true } }
        : { prompt: PROMPT, max_tokens: 2000, ignore_eos: true }
    const gone = fetch(engine.url + route, { method: 'POST', body: JSON.stringify(body), signal: controller.signal })
    gone.catch(() => {})
    await until('it runs', () => engine.counters.running === 1)
    controller.abort()
    await until('it is gone', () => engine.counters.running === 0)
    expect(engine.counters.disconnects).toBe(1)
  })
})

describe('refusals', () => {
  test.each([
    [GENERATE, { prompt: [] }, {}, 400, 'too_short', false],
    [GENERATE, {}, { max_tokens: -2 }, 400, 'max_tokens must be at least 1, got -2.', false],
    [GENERATE, { prompt: [3, 99] }, {}, 200, 'Token id 99 is out of vocabulary', true],
    [GENERATE, { prompt: Array(5000).fill(5) }, {}, 200, 'longer than the maximum model length', true],
    [GENERATE, { prompt: Array(5000).fill(5), stream: false }, {}, 400, 'longer than the maximum model length', false],
    [COMPLETIONS, { prompt: [] }, {}, 400, 'You must pass at least one prompt', false],
    [COMPLETIONS, { prompt: [3, 99] }, {}, 400, 'Token id 99 is out of vocabulary', false],
    [COMPLETIONS, {}, { max_tokens: 5000 }, 400, 'cannot be greater than max_model_len=4096', false],
    [COMPLETIONS, { prompt: Array(4000).fill(5) }, { max_tokens: 200 }, 400, 'maximum context length', false],
    [COMPLETIONS, {}, { stop: ['a', 'b', 'c', 'd', 'e'] }, 400, 'at most 4 items', false],
    [COMPLETIONS, { model: 'nope' }, {}, 404, 'does not exist', false],
    [COMPLETIONS, {}, { logit_bias: { 2147483647: 0 } }, 400, 'Vocabulary size: 16', false],
  ] as const)('%s with %o and %o is %i: %s', async (route, more, sampling, status, message, streamed) => {
    await start({ stepMs: 0 })
    const out = await ask(route, sampling, more)
    expect(out.status).toBe(status)
    expect(out.error?.message).toContain(message)
    expect(out.done).toBe(streamed)
    expect(engine.counters.running + engine.counters.waiting).toBe(0)
  })

  test('an output that does not fit the context is cut short by the generate route', async () => {
    await start({ stepMs: 0, contextLength: 40 })
    const out = await ask(GENERATE, { max_tokens: 3000 })
    expect(out.tokenIds).toHaveLength(35)
    expect(out.last?.finish_reason).toBe('length')
  })

  test('have the bodies of the real one', async () => {
    await start({ scaleOut: false })
    const shape = (text: string) => Object.keys(JSON.parse(text).error)
    const disabled = await post(GENERATE)
    expect(disabled.status).toBe(403)
    expect(shape(disabled.text)).toEqual(shape(said('generateNegative').body))
    expect(await get('/nope')).toMatchObject({ status: 404, text: said('notFound').body })
    expect((await get('/pause')).status).toBe(405)
    expect((await post('/pause?mode=foo')).status).toBe(said('pauseBad').status)
    expect((await post('/update_weight_version', { new_version: 7 })).status).toBe(said('updateVersionBad').status)
    expect((await post('/collective_rpc', { method: 'nope' })).status).toBe(said('rpcUnknown').status)
    expect((await post('/tokenize', { prompt: 3 })).status).toBe(said('tokenizeBad').status)
  })

  test('a key is asked for under /v1 and /inference alone', async () => {
    await start({ apiKey: 's3cret' })
    for (const path of [GENERATE, COMPLETIONS])
      expect(await post(path)).toMatchObject({ status: 401, json: { error: 'Unauthorized' } })
    expect((await get('/v1/models')).status).toBe(401)
    for (const path of ['/health', '/metrics', '/version', '/weight_info']) expect((await get(path)).status).toBe(200)
    expect((await ask(GENERATE, { max_tokens: 2 }, {}, { authorization: 'Bearer s3cret' })).tokenIds).toHaveLength(2)
  })

  test('outside dev mode there are no control routes', async () => {
    await start({ devMode: false })
    for (const path of ['/weight_info', '/is_paused', '/server_info']) expect((await get(path)).status).toBe(404)
    expect((await post('/abort_requests')).status).toBe(404)
    expect((await post('/inference/v1/abort_requests', { request_ids: ['x'] })).text).toBe('')
  })

  test('a full queue is 503 before a stream begins', async () => {
    await start({ capacity: 1, maxQueued: 0 })
    const first = ask(GENERATE)
    await running()
    expect((await ask(GENERATE)).error).toMatchObject({ code: 503 })
    await post('/abort_requests')
    await first
  })
})

test('what it says about itself has the shape of the real one', async () => {
  await start({ capacity: 5 })
  const keys = (text: string) => Object.keys(JSON.parse(text))
  expect(keys((await get('/version')).text)).toEqual(keys(said('version').body))
  expect((await get('/server_info?config_format=json')).json).toMatchObject({
    vllm_config: {
      model_config: { max_model_len: 4096, logprobs_mode: 'raw_logprobs' },
      scheduler_config: { max_num_seqs: 5 },
    },
  })
  expect((await get('/v1/models')).json).toMatchObject({ data: [{ owned_by: 'vllm', max_model_len: 4096 }] })
  const chat = (await post('/tokenize', { messages: [{ role: 'user', content: '12' }] })).text
  expect(keys(chat)).toEqual(keys(said('tokenizeChat').body))
  expect(JSON.parse(chat).tokens).toEqual([1, 2])
})
