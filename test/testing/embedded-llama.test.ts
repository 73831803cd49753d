/**
 * The embedded engine speaks what a real llama-server was seen to speak (real-engines.md), refusals and quirks included.
 */
import { request } from 'node:http'
import { afterEach, describe, expect, test } from 'vitest'
import {
  type EmbeddedEngine,
  type EmbeddedEngineOptions,
  startEmbeddedEngine,
} from '../../src/testing/embedded-engine.ts'
import { EOS, scoreTokens, textOf } from '../../src/testing/tiny-policy.ts'
import { call, largestDifference, until } from './client.ts'

const PROMPT = [7, 1, 12]
/** Neither truncation nor temperature. */
const PLAIN = { temperature: 1, top_k: 0, top_p: 1, min_p: 0, n_probs: 1, return_tokens: true, ignore_eos: true }

let engine: EmbeddedEngine
afterEach(() => engine?.close())

async function start(options: EmbeddedEngineOptions = {}): Promise<void> {
  engine = await startEmbeddedEngine({ profile: 'llama-server', stepMs: 0, perSequenceMs: 0, ...options })
}

interface Event {
  readonly content: string
  readonly tokens: number[]
  readonly stop: boolean
  readonly stop_type?: string
  readonly stopping_word?: string
  readonly tokens_predicted: number
  readonly completion_probabilities?: { readonly id: number; readonly logprob?: number; readonly prob?: number }[]
}

async function stream(body: object): Promise<Event[]> {
  const { status, text } = await call(engine, '/completion', { prompt: PROMPT, stream: true, ...PLAIN, ...body })
  expect(status).toBe(200)
  return text
    .trimEnd()
    .split('\n\n')
    .map((event) => JSON.parse(event.slice('data: '.length)))
}

const idsOf = (events: readonly Event[]) => events.flatMap(({ tokens }) => tokens)
const entriesOf = (events: readonly Event[]) => events.flatMap((event) => event.completion_probabilities ?? [])

describe('replies', () => {
  test('streamed: one event per token, then an empty one that ends it, and no [DONE]', async () => {
    await start()
    const events = await stream({ n_predict: 6 })
    expect(events.map(({ tokens }) => tokens.length)).toEqual([1, 1, 1, 1, 1, 1, 0])
    expect(events.map(({ tokens_predicted: predicted }) => predicted)).toEqual([1, 2, 3, 4, 5, 6, 6])
    expect(events.at(-1)).toMatchObject({ content: '', stop: true, stop_type: 'limit', tokens_evaluated: 3 })
    expect(events.at(-1)).not.toHaveProperty('completion_probabilities')
    expect(events.map(({ content }) => content).join('')).toBe(textOf(idsOf(events)))
  })

  test('log-probabilities are of the logits, whatever the temperature', async () => {
    await start()
    const events = await stream({ n_predict: 8, temperature: 0.5 })
    const found = entriesOf(events).map(({ logprob }) => logprob!)
    // The end-of-sequence token that is never sampled has its part of the mass all the same.
    expect(largestDifference(found, scoreTokens(engine.weights, PROMPT, idsOf(events)))).toBeLessThan(1e-9)
  })

  test('with post_sampling_probs they are probabilities of what was sampled from', async () => {
    await start()
    const events = await stream({ n_predict: 8, temperature: 0.5, post_sampling_probs: true, ignore_eos: false })
    const ids = idsOf(events)
    const found = entriesOf(events).map(({ prob }) => Math.log(prob!))
    expect(largestDifference(found, scoreTokens(engine.weights, PROMPT, ids, 0.5))).toBeLessThan(1e-9)
  })

  test('whole: the tokens in one object', async () => {
    await start()
    const { json } = await call(engine, '/completion', { prompt: PROMPT, n_predict: 4, ...PLAIN })
    expect(json).toMatchObject({ stop: true, stop_type: 'limit', tokens_predicted: 4 })
    const { tokens, content } = json as { tokens: number[]; content: string }
    expect(content).toBe(textOf(tokens))
    expect(tokens).toHaveLength(4)
  })

  test('the end of a sequence is a token of its own, and a stop string is taken out of the text', async () => {
    await start()
    const ended = await stream({ ignore_eos: false })
    expect(ended.at(-1)).toMatchObject({ stop_type: 'eos' })
    expect(idsOf(ended).at(-1)).toBe(EOS)
    const all = textOf(idsOf(await stream({ n_predict: 20, seed: 4 })))
    const stop = all.slice(5, 8)
    const stopped = await stream({ n_predict: 20, seed: 4, stop: [stop] })
    expect(stopped.at(-1)).toMatchObject({ stop_type: 'word', stopping_word: stop })
    const text = stopped.map(({ content }) => content).join('')
    expect(text + stop).toBe(textOf(idsOf(stopped)))
  })

  test('a silent stream is kept open by comments', async () => {
    await start({ stepMs: 60_000 })
    const body = JSON.stringify({ prompt: PROMPT, stream: true, sse_ping_interval: 0.02 })
    const pinged = await new Promise<string>((resolve) => {
      const sent = request(`${engine.url}/completion`, { method: 'POST' }, (response) => {
        response.once('data', (bytes: Buffer) => {
          resolve(bytes.toString())
          sent.destroy()
        })
      })
      sent.on('error', () => {})
      sent.end(body)
    })
    expect(pinged).toBe(':\n\n')
  })
})

test.each([
  ['a prompt that is too long', { prompt: Array(64).fill(1) }, 'exceed_context_size_error'],
  ['an id outside the vocabulary', { prompt: [1, 99] }, 'invalid_request_error'],
  ['no prompt', {}, 'invalid_request_error'],
  ['a negative length', { prompt: [1], n_predict: -5 }, 'invalid_request_error'],
])('%s is refused before a stream begins', async (_, body, type) => {
  await start({ contextLength: 64 })
  const { status, json } = await call(engine, '/completion', { stream: true, ...body })
  expect(status).toBe(400)
  expect(json).toMatchObject({ error: { code: 400, type } })
})

test('while it loads its model every route says 503; unknown routes are not found; a key is asked for', async () => {
  await start({ loadingMs: 60_000 })
  for (const path of ['/health', '/props', '/completion'])
    expect(await call(engine, path)).toMatchObject({ status: 503, json: { error: { message: 'Loading model' } } })
  await engine.close()
  await start({ apiKey: 'k' })
  expect((await call(engine, '/health')).status).toBe(200)
  expect((await call(engine, '/props')).status).toBe(401)
  const keyed = { authorization: 'Bearer k' }
  expect((await call(engine, '/props', undefined, keyed)).json).toMatchObject({ total_slots: 8 })
  expect((await call(engine, '/nothing', undefined, keyed)).status).toBe(404)
})

test('slots and gauges say what runs; who is over the slots waits; closing a stream frees its slot', async () => {
  await start({ capacity: 2, stepMs: 1 })
  const leave = [1, 2, 3].map(() => {
    const sent = request(`${engine.url}/completion`, { method: 'POST' }, (response) => response.resume())
    sent.on('error', () => {})
    sent.end(JSON.stringify({ prompt: PROMPT, stream: true, ...PLAIN }))
    return () => sent.destroy()
  })
  await until('two run and one waits', () => engine.counters.running === 2 && engine.counters.waiting === 1)
  const { text } = await call(engine, '/metrics')
  expect(text).toContain('\nllamacpp:requests_processing 2\n')
  expect(text).toContain('\nllamacpp:requests_deferred 1\n')
  const slots: { is_processing: boolean }[] = JSON.parse((await call(engine, '/slots')).text)
  expect(slots.map((slot) => slot.is_processing)).toEqual([true, true])
  for (const each of leave) each()
  await until('all slots are free', () => engine.counters.running + engine.counters.waiting === 0)
  expect(engine.counters.disconnects).toBe(3)
})

test('without --metrics there are none', async () => {
  await start({ metrics: false })
  expect(await call(engine, '/metrics')).toMatchObject({
    status: 501,
    json: { error: { type: 'not_supported_error' } },
  })
})
