/**
 * Every way a real SGLang 0.5.23 was seen to refuse, in its own words: two of them look like success until the body is read.
 */
import { afterEach, describe, expect, test } from 'vitest'
import {
  type EmbeddedEngine,
  type EmbeddedEngineOptions,
  startEmbeddedEngine,
} from '../../src/testing/embedded-engine.ts'
import { call, generate, stream, until } from './client.ts'

const PROMPT = [7, 1, 12]
const LONG = { max_new_tokens: 3000, ignore_eos: true }

let engine: EmbeddedEngine
afterEach(() => engine?.close())

async function start(options: EmbeddedEngineOptions = {}): Promise<void> {
  engine = await startEmbeddedEngine({ stepMs: 1, perSequenceMs: 0, ...options })
}

function short(count: number, extra: object = {}): object {
  return { input_ids: PROMPT, sampling_params: { max_new_tokens: count, ignore_eos: true, ...extra } }
}

describe('refusals', () => {
  test('a full queue: 503, and in a stream 200 with one event', async () => {
    await start({ capacity: 1, maxQueued: 1 })
    const running = await stream(engine, { input_ids: PROMPT, sampling_params: LONG })
    const queued = await stream(engine, { input_ids: PROMPT, sampling_params: LONG })
    await until('full', () => engine.counters.running === 1 && engine.counters.waiting === 1)
    expect(await call(engine, '/generate', short(3))).toMatchObject({
      status: 503,
      json: { object: 'error', message: 'The request queue is full.', type: '503', param: null, code: 503 },
    })
    const refused = await stream(engine, short(3))
    const event = await refused.ended
    expect(refused.status).toBe(200)
    expect(refused.events).toHaveLength(1)
    expect(event.meta_info.finish_reason).toMatchObject({ type: 'abort', status_code: 503 })
    expect(refused.done()).toBe(true)
    running.leave()
    queued.leave()
  })

  test('values: 400, and in a stream 200 with an error event', async () => {
    await start({ contextLength: 100 })
    const cases: [object, RegExp][] = [
      [
        { input_ids: Array(150).fill(1) },
        /The input \(150 tokens\) is longer than the model's context length \(100 tokens\)/,
      ],
      [{ input_ids: PROMPT, sampling_params: { max_new_tokens: 98 } }, /maximum context length of 100/],
      [{ input_ids: [] }, /empty/],
      [{}, /At least one of text, input_ids/],
      [{ text: '1', input_ids: [1] }, /at the same time/],
      [short(-4), /max_new_tokens must be at least 0, got -4/],
      [short(4, { top_p: 0 }), /top_p must be in/],
      [short(4, { temperature: -1 }), /temperature must be/],
      [short(4, { n: 2 }), /n = 2/],
    ]
    for (const [body, message] of cases) {
      const { status, json } = await call(engine, '/generate', { sampling_params: { max_new_tokens: 5 }, ...body })
      expect(status).toBe(400)
      expect((json as { error: { message: string } }).error.message).toMatch(message)
      const streamed = await stream(engine, { sampling_params: { max_new_tokens: 5 }, ...body })
      expect(streamed.status).toBe(200)
      expect(await streamed.ended).toMatchObject({
        error: { type: 'invalid_request_error', code: 400, retryable: false },
      })
      expect(streamed.done()).toBe(true)
    }
    expect((await generate(engine, short(97))).output_ids.length).toBeGreaterThan(90)
  })

  test('an id that is live is refused, and free again afterwards', async () => {
    await start()
    const one = await stream(engine, { rid: 'dup', input_ids: PROMPT, sampling_params: LONG })
    await until('it runs', () => engine.counters.running === 1)
    expect(await call(engine, '/generate', { rid: 'dup', ...short(3) })).toMatchObject({
      status: 400,
      json: { error: { message: 'Duplicate request ID detected: dup' } },
    })
    await call(engine, '/abort_request', { rid: 'dup' })
    await one.ended
    expect((await generate(engine, { rid: 'dup', ...short(3) })).output_ids).toHaveLength(3)
  })

  test('unknown sampling keys are named, unknown top-level keys ignored, broken bodies 400, unknown routes 404', async () => {
    await start()
    const unknown = await call(engine, '/generate', short(3, { max_tokens: 3 }))
    expect(unknown.status).toBe(400)
    expect((unknown.json as { error: string }).error).toMatch(
      /^unknown field `max_tokens`, expected one of `max_new_tokens`/,
    )
    expect((await generate(engine, { ...short(3), no_such_key: 1 })).output_ids).toHaveLength(3)
    for (const body of ['{"input_ids":', '', '[1]', '{"input_ids":[1.5]}', '{"input_ids":"1"}']) {
      expect(await call(engine, '/generate', body)).toMatchObject({
        status: 400,
        json: { object: 'error', type: 'Bad Request', param: null, code: 400 },
      })
    }
    expect(await call(engine, '/get_load')).toMatchObject({ status: 404, json: { detail: 'Not Found' } })
    expect((await call(engine, '/generate')).status).toBe(405)
    expect((await call(engine, '/toString')).status).toBe(404)
  })

  test('without the api key: 401 on everything but health and metrics', async () => {
    await start({ apiKey: 'secret' })
    for (const path of ['/server_info', '/v1/loads', '/ready', '/ping']) {
      expect(await call(engine, path)).toMatchObject({ status: 401, json: { error: 'Unauthorized' } })
    }
    expect((await call(engine, '/generate', short(3), { authorization: 'Bearer wrong' })).status).toBe(401)
    expect((await call(engine, '/health')).status).toBe(200)
    expect((await call(engine, '/metrics')).status).toBe(200)
    expect((await call(engine, '/generate', short(3), { authorization: 'Bearer secret' })).status).toBe(200)
  })

  test('a prompt of a megabyte is read whole', async () => {
    await start({ contextLength: 1_000_000 })
    const input_ids = Array.from({ length: 400_000 }, (_, i) => i % 10)
    const reply = await generate(engine, { input_ids, sampling_params: { max_new_tokens: 2, ignore_eos: true } })
    expect(reply.meta_info.prompt_tokens).toBe(400_000)
  })
})
