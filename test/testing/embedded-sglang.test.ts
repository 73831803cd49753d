/**
 * The embedded engine speaks what a real SGLang 0.5.23 was seen to speak (real-engines.md), refusals and quirks included.
 */
import { afterEach, describe, expect, test } from 'vitest'
import {
  type EmbeddedEngine,
  type EmbeddedEngineOptions,
  startEmbeddedEngine,
} from '../../src/testing/embedded-engine.ts'
import { EOS, scoreTokens, textOf } from '../../src/testing/tiny-policy.ts'
import { call, generate, largestDifference, logprobsOf, type Reply, stream, until } from './client.ts'

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

describe('replies', () => {
  test('whole: text, ids, log-probabilities and meta', async () => {
    await start()
    const reply = await generate(engine, { rid: 'abc', ...short(6) })
    expect(reply).toMatchObject({
      text: textOf(reply.output_ids),
      meta_info: {
        id: 'abc',
        finish_reason: { type: 'length', length: 6 },
        prompt_tokens: 3,
        completion_tokens: 6,
        cached_tokens: 0,
        weight_version: 'default',
        weight_versions: [{ version: 'default', start: 0, end: 6 }],
        output_token_logprobs_length: 6,
      },
    })
    expect(reply.meta_info.output_token_logprobs!.map(([, token]) => token)).toEqual(reply.output_ids)
    const bare = await generate(engine, { ...short(2), return_logprob: false })
    expect(bare.meta_info.output_token_logprobs).toBeUndefined()
  })

  test('streamed: every event repeats all so far; spans on the last only; then [DONE]', async () => {
    await start()
    const { events, ended, done, status } = await stream(engine, { rid: 's', ...short(12) })
    const last = await ended
    expect(status).toBe(200)
    expect(done()).toBe(true)
    expect(events).toHaveLength(12)
    events.forEach((event, i) => {
      expect(event.output_ids).toEqual(last.output_ids.slice(0, i + 1))
      expect(event.text).toBe(textOf(event.output_ids))
      expect(logprobsOf(event)).toEqual(logprobsOf(last).slice(0, i + 1))
      expect(event.meta_info.completion_tokens).toBe(i + 1)
      if (i < 11) expect(event.meta_info).toMatchObject({ finish_reason: null, id: 's', weight_version: 'default' })
      expect('weight_versions' in event.meta_info).toBe(i === 11)
    })
  })

  test('incremental: events are deltas, completion_tokens is not', async () => {
    await start({ incremental: true })
    const { events, ended } = await stream(engine, short(12))
    await ended
    expect(events.map((event) => event.output_ids.length)).toEqual(Array(12).fill(1))
    expect(events.map((event) => event.meta_info.completion_tokens)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])
    const ids = events.flatMap((event) => event.output_ids)
    expect(events.map((event) => event.text).join('')).toBe(textOf(ids))
    const reference = scoreTokens(engine.weights, PROMPT, ids)
    expect(largestDifference(events.flatMap(logprobsOf), reference)).toBeLessThan(1e-9)
  })

  test('stream interval, of the server and of the request: 1, 4, 4, 2', async () => {
    for (const incremental of [true, false]) {
      await start({ incremental, streamInterval: 4 })
      const sizes = (events: Reply[]) => events.map((event) => event.output_ids.length)
      const server = await stream(engine, short(11))
      await server.ended
      expect(sizes(server.events)).toEqual(incremental ? [1, 4, 4, 2] : [1, 5, 9, 11])
      const request = await stream(engine, short(5, { stream_interval: 3 }))
      await request.ended
      expect(sizes(request.events)).toEqual(incremental ? [1, 3, 1] : [1, 4, 5])
      await engine.close()
    }
  })

  test('text prompts and /tokenize agree', async () => {
    await start()
    const { json } = await call(engine, '/tokenize', { prompt: '71b' }, { 'content-type': 'application/json' })
    expect(json).toEqual({ tokens: PROMPT, count: 3, max_model_len: 4096 })
    const reply = await generate(engine, { text: '71b', sampling_params: { max_new_tokens: 4 } })
    expect(reply.meta_info.prompt_tokens).toBe(3)
    const scores = scoreTokens(engine.weights, PROMPT, reply.output_ids)
    expect(largestDifference(logprobsOf(reply), scores)).toBeLessThan(1e-9)
    const messages = [
      { role: 'system', content: '7' },
      { role: 'user', content: '1b' },
    ]
    expect((await call(engine, '/tokenize', { messages })).json).toEqual(json)
    expect((await call(engine, '/v1/tokenize', { prompt: ['1', '23'] })).json).toMatchObject({
      tokens: [[1], [2, 3]],
      count: [1, 2],
    })
  })

  test('stop on end of sequence, on ids, on strings; ignore_eos ignores ids too', async () => {
    await start({ stepMs: 0 })
    const every = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15]
    const byEos = await generate(engine, { input_ids: PROMPT, sampling_params: { max_new_tokens: 3000 } })
    expect(byEos.meta_info.finish_reason).toEqual({ type: 'stop', matched: EOS })
    expect(byEos.output_ids.at(-1)).toBe(EOS)
    const byId = await generate(engine, {
      input_ids: PROMPT,
      sampling_params: { max_new_tokens: 9, stop_token_ids: every },
    })
    expect(byId.output_ids).toHaveLength(1)
    expect(byId.meta_info.finish_reason).toMatchObject({ type: 'stop', matched: byId.output_ids[0] })
    expect(byId.text).toBe('')
    const byText = await generate(engine, {
      input_ids: PROMPT,
      sampling_params: { ...LONG, stop: ['7', '12'] },
    })
    const text = textOf(byText.output_ids)
    const { matched } = byText.meta_info.finish_reason as unknown as { matched: string }
    expect(['7', '12']).toContain(matched)
    expect(text.endsWith(matched)).toBe(true)
    expect(byText.text).toBe(text.slice(0, -matched.length))
    const ignoring = await generate(engine, short(9, { stop_token_ids: every }))
    expect(ignoring.output_ids).toHaveLength(9)
  })
})

describe('abort', () => {
  test('of a running request ends its stream with all tokens; unknown ids and prefixes do nothing; always 200 and empty', async () => {
    await start()
    const one = await stream(engine, { rid: 'group-1', input_ids: PROMPT, sampling_params: LONG })
    const plain = generate(engine, { rid: 'plain', input_ids: PROMPT, sampling_params: LONG })
    await until('tokens', () => one.events.length > 3 && engine.counters.running === 2)
    for (const rid of ['nobody', 'group', ''])
      expect(await call(engine, '/abort_request', { rid })).toMatchObject({ status: 200, text: '' })
    expect(engine.counters.running).toBe(2)
    await call(engine, '/abort_request', { rid: 'group-1' })
    await call(engine, '/abort_request', { rid: 'plain' })
    const aborted = { type: 'abort', message: 'Aborted', status_code: null, err_type: null }
    const last = await one.ended
    expect(last.meta_info.finish_reason).toEqual(aborted)
    expect(one.done()).toBe(true)
    const whole = await plain
    expect(whole.meta_info.finish_reason).toEqual(aborted)
    for (const reply of [last, whole]) {
      const scores = scoreTokens(engine.weights, PROMPT, reply.output_ids)
      expect(largestDifference(logprobsOf(reply), scores)).toBeLessThan(1e-9)
    }
    expect(engine.counters.aborted).toBe(2)
  })

  test('of a queued request answers at once, without prompt_tokens; abort_all reaches everyone', async () => {
    await start({ capacity: 1 })
    const running = await stream(engine, { rid: 'a', input_ids: PROMPT, sampling_params: LONG })
    await until('it runs', () => engine.counters.running === 1)
    const queued = await stream(engine, { rid: 'b', input_ids: PROMPT, sampling_params: LONG })
    await until('it waits', () => engine.counters.waiting === 1)
    await call(engine, '/abort_request', { rid: 'b' })
    const reply = await queued.ended
    expect(reply).toMatchObject({ text: '', output_ids: [] })
    expect(reply.meta_info.finish_reason).toEqual({ type: 'abort', message: 'Abort in waiting queue' })
    expect('prompt_tokens' in reply.meta_info).toBe(false)
    const other = await stream(engine, { input_ids: PROMPT, sampling_params: LONG })
    await call(engine, '/abort_request', { abort_all: true })
    expect((await other.ended).meta_info.finish_reason!.message).toBe('Abort in waiting queue')
    expect((await running.ended).meta_info.finish_reason!.message).toBe('Aborted')
    expect(engine.counters).toMatchObject({ running: 0, waiting: 0 })
  })

  test('under retract ends with the tokens so far; incremental streams repeat only the last id', async () => {
    for (const incremental of [false, true]) {
      await start({ incremental })
      const one = await stream(engine, { rid: 'a', input_ids: PROMPT, sampling_params: LONG })
      await until('tokens', () => one.events.length > 3)
      await call(engine, '/pause_generation', { mode: 'retract' })
      await call(engine, '/abort_request', { rid: 'a' })
      const last = await one.ended
      expect(last.meta_info.finish_reason!.message).toBe('Abort in waiting queue')
      const count = last.meta_info.completion_tokens
      expect(count).toBeGreaterThan(3)
      expect(last.output_ids).toHaveLength(incremental ? 1 : count)
      expect(logprobsOf(last)).toHaveLength(count)
      expect(last.text).toHaveLength(textOf(last.meta_info.output_token_logprobs!.map(([, id]) => id)).length)
      await engine.close()
    }
  })

  test('in place takes effect only after continue', async () => {
    await start()
    const one = await stream(engine, { rid: 'a', input_ids: PROMPT, sampling_params: LONG })
    await until('tokens', () => one.events.length > 3)
    await call(engine, '/pause_generation', { mode: 'in_place' })
    await call(engine, '/abort_request', { rid: 'a' })
    const steps = engine.counters.steps
    await call(engine, '/ping')
    expect(engine.counters).toMatchObject({ running: 1, steps })
    expect(one.done()).toBe(false)
    await call(engine, '/continue_generation', {})
    expect((await one.ended).meta_info.finish_reason!.message).toBe('Aborted')
  })
})

describe('pause', () => {
  test('holds new requests, headers sent and no event; they run on continue, aborted or left', async () => {
    await start()
    for (const mode of ['abort', 'retract', 'in_place']) {
      expect(await call(engine, '/pause_generation', { mode })).toMatchObject({
        status: 200,
        json: { message: 'Generation paused successfully.', status: 'ok' },
      })
      const generated = engine.counters.tokensGenerated
      const held = await stream(engine, { rid: `held-${mode}`, ...short(5) })
      const left = await stream(engine, { rid: `left-${mode}`, ...short(5) })
      await until('both are held', () => engine.counters.held === 2)
      expect(held.status).toBe(200)
      await call(engine, '/abort_request', { rid: `held-${mode}` })
      left.leave()
      expect((await call(engine, '/ready')).status).toBe(503)
      expect((await call(engine, '/health')).status).toBe(503)
      expect((await call(engine, '/ping')).status).toBe(200)
      expect((await call(engine, '/server_info')).status).toBe(200)
      expect((await call(engine, '/flush_cache', {})).status).toBe(200)
      expect(held.events).toEqual([])
      await call(engine, '/continue_generation', {})
      expect((await held.ended).output_ids).toHaveLength(5)
      await until('both ran', () => engine.counters.tokensGenerated === generated + 10)
      expect((await call(engine, '/ready')).status).toBe(200)
    }
  })

  test('in place refuses to flush while something runs', async () => {
    await start()
    const one = await stream(engine, { input_ids: PROMPT, sampling_params: LONG })
    await until('it runs', () => engine.counters.running === 1)
    await call(engine, '/pause_generation', { mode: 'in_place' })
    expect((await call(engine, '/flush_cache', {})).status).toBe(400)
    one.leave()
  })

  test('abort over in_place blocks, continue too, until the client leaves', async () => {
    await start()
    const one = await stream(engine, { input_ids: PROMPT, sampling_params: LONG })
    await until('it runs', () => engine.counters.running === 1)
    await call(engine, '/pause_generation', { mode: 'in_place' })
    let answered = 0
    const count = () => answered++
    const pausing = call(engine, '/pause_generation', { mode: 'abort' }).then(count)
    const going = call(engine, '/continue_generation', {}).then(count)
    await call(engine, '/ping')
    expect(answered).toBe(0)
    one.leave()
    await Promise.all([pausing, going])
    await until('nothing runs', () => engine.counters.running === 0)
    expect((await generate(engine, short(3))).output_ids).toHaveLength(3)
  })

  test('needs a body, and a mode it knows', async () => {
    await start()
    expect((await call(engine, '/pause_generation', '')).status).toBe(400)
    expect((await call(engine, '/pause_generation', { mode: 'keep' })).status).toBe(400)
    expect((await call(engine, '/ready')).status).toBe(200)
  })
})

test('with real delays, pausing what runs takes a second and so does /health', async () => {
  await start({ realDelays: true })
  const one = await stream(engine, { input_ids: PROMPT, sampling_params: LONG })
  await until('it runs', () => engine.counters.running === 1)
  const from = performance.now()
  await Promise.all([call(engine, '/pause_generation', {}), call(engine, '/health')])
  expect(performance.now() - from).toBeGreaterThan(990)
  await one.ended
})
