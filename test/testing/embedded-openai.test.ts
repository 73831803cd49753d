/**
 * The embedded engine as a plain OpenAI-compatible server: text, chat, usage, errors, and 429 when it has no room.
 */
import { afterEach, describe, expect, test } from 'vitest'
import {
  type EmbeddedEngine,
  type EmbeddedEngineOptions,
  startEmbeddedEngine,
} from '../../src/testing/embedded-engine.ts'
import { call, until } from './client.ts'

let engine: EmbeddedEngine
afterEach(() => engine?.close())

async function start(options: EmbeddedEngineOptions = {}): Promise<void> {
  engine = await startEmbeddedEngine({ profile: 'openai', stepMs: 0, perSequenceMs: 0, ...options })
}

const eventsOf = (text: string) =>
  text
    .trimEnd()
    .split('\n\n')
    .map((event) => event.slice('data: '.length))

const TEXT = { model: 'embedded', prompt: 'abc' }
const CHAT = { model: 'embedded', messages: [{ role: 'user', content: 'abc' }] }

describe('streams', () => {
  test.each([
    ['/v1/completions', TEXT, (choice: { text: string }) => choice.text],
    ['/v1/chat/completions', CHAT, (choice: { delta: { content?: string } }) => choice.delta.content ?? ''],
  ] as const)('of %s: deltas of text without ids, a finish reason, usage, [DONE]', async (path, body, textIn) => {
    await start()
    const asked = { ...body, max_tokens: 12, seed: 3 }
    const { text } = await call(engine, path, { ...asked, stream: true, stream_options: { include_usage: true } })
    const events = eventsOf(text)
    expect(events.at(-1)).toBe('[DONE]')
    const chunks = events.slice(0, -1).map((event) => JSON.parse(event))
    const usage = chunks.pop()
    expect(usage.choices).toEqual([])
    expect(usage.usage.prompt_tokens).toBe(3)
    const choices = chunks.map((chunk) => chunk.choices[0])
    expect(choices.at(-1).finish_reason).toMatch(/^(length|stop)$/)
    for (const choice of choices) expect(choice).not.toHaveProperty('token_ids')
    const joined = choices.map(textIn as (choice: unknown) => string).join('')
    const { json } = await call(engine, path, asked)
    const whole = (json as { choices: { text?: string; message?: { content: string } }[] }).choices[0]!
    expect(joined).toBe(whole.text ?? whole.message?.content)
  })

  test('log-probabilities where asked for, by token text', async () => {
    await start()
    const asked = { ...CHAT, max_tokens: 5, stream: true, logprobs: true }
    const choices = eventsOf((await call(engine, '/v1/chat/completions', asked)).text)
      .slice(0, -1)
      .map((event) => JSON.parse(event).choices[0])
    const entries = choices.flatMap(({ logprobs }) => logprobs.content)
    expect(entries.map(({ token }) => token).join('')).toBe(choices.map(({ delta }) => delta.content ?? '').join(''))
    for (const { logprob } of entries) expect(logprob).toBeLessThan(0)
  })
})

test.each([
  ['another model', { ...TEXT, model: 'x' }, 404, 'model_not_found'],
  ['token ids', { ...TEXT, prompt: [1, 2] }, 400, null],
  ['more than fits', { ...TEXT, max_tokens: 100 }, 400, 'context_length_exceeded'],
  ['a length below 1', { ...TEXT, max_tokens: 0 }, 400, null],
])('%s is refused', async (_, body, status, code) => {
  await start({ contextLength: 64 })
  expect(await call(engine, '/v1/completions', body)).toMatchObject({ status, json: { error: { code } } })
})

test('a wrong key is refused on every route', async () => {
  await start({ apiKey: 'k' })
  expect((await call(engine, '/v1/models')).status).toBe(401)
  expect((await call(engine, '/v1/models', undefined, { authorization: 'Bearer k' })).json).toMatchObject({
    data: [{ id: 'embedded' }],
  })
})

test('over its limit it answers 429 and says how long to wait', async () => {
  await start({ capacity: 1, maxQueued: 0, stepMs: 50 })
  const controller = new AbortController()
  const first = fetch(`${engine.url}/v1/completions`, {
    method: 'POST',
    body: JSON.stringify({ ...TEXT, max_tokens: 1000, stream: true }),
    signal: controller.signal,
  })
  first.catch(() => {})
  await until('one runs', () => engine.counters.running === 1)
  const second = await fetch(`${engine.url}/v1/completions`, { method: 'POST', body: JSON.stringify(TEXT) })
  expect(second.status).toBe(429)
  expect(second.headers.get('retry-after')).toBe('1')
  expect(await second.json()).toMatchObject({ error: { code: 'rate_limit_exceeded' } })
  controller.abort()
  await until('its slot is free', () => engine.counters.running === 0)
})
