/**
 * The embedded engine keeps the fidelity of a real one, and its ways to lose it: see the tables of real-engines.md.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import {
  type EmbeddedEngine,
  type EmbeddedEngineOptions,
  startEmbeddedEngine,
} from '../../src/testing/embedded-engine.ts'
import { createTinyWeights, EOS, saveWeights, scoreTokens } from '../../src/testing/tiny-policy.ts'
import { call, generate, largestDifference, logprobsOf, type Reply, stream, until } from './client.ts'

const OLD = createTinyWeights({ seed: 1 })
const NEW = createTinyWeights({ seed: 2, scale: 0.8 })
const PROMPT = [7, 1, 12, 3, 9]
const LONG = { max_new_tokens: 2000, ignore_eos: true }

let folder = ''
let engine: EmbeddedEngine

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'embedded-'))
  await saveWeights(folder, NEW)
})
afterAll(() => rm(folder, { recursive: true, force: true }))
afterEach(() => engine?.close())

async function start(options: EmbeddedEngineOptions = {}): Promise<void> {
  engine = await startEmbeddedEngine({ stepMs: 1, perSequenceMs: 0, weights: OLD, weightVersion: '1', ...options })
}

function update(extra: object = {}) {
  return call(engine, '/update_weights_from_disk', { model_path: folder, weight_version: '2', ...extra })
}

/** Largest difference between what was reported and what the weights of each span say. */
function error(reply: Reply, prompt: readonly number[] = PROMPT, temperature = 1): number {
  const reported = logprobsOf(reply)
  const spans = reply.meta_info.weight_versions!
  expect(reported).toHaveLength(reply.output_ids.length)
  expect(spans.at(-1)!.end).toBe(reply.output_ids.length)
  let largest = 0
  for (const { version, start, end } of spans) {
    const scores = scoreTokens(version === '1' ? OLD : NEW, prompt, reply.output_ids, temperature)
    largest = Math.max(largest, largestDifference(reported.slice(start, end), scores.slice(start, end)))
  }
  return largest
}

describe('log-probabilities', () => {
  test('are those of the weights, at any temperature, whatever is truncated', async () => {
    await start({ stepMs: 0 })
    for (const sampling of [
      {},
      { temperature: 0.6 },
      { temperature: 1.7, top_p: 0.5 },
      { temperature: 1, top_k: 3 },
      { temperature: 1, min_p: 0.9 },
    ]) {
      const reply = await generate(engine, {
        input_ids: PROMPT,
        sampling_params: { max_new_tokens: 200, ignore_eos: true, ...sampling },
      })
      expect(reply.output_ids).toHaveLength(200)
      expect(error(reply, PROMPT, sampling.temperature ?? 1)).toBeLessThan(1e-9)
    }
  })

  test('of greedy sampling are those of temperature 1, and greedy takes the most likely token', async () => {
    await start({ stepMs: 0 })
    const sampling = { temperature: 0, max_new_tokens: 50, ignore_eos: true }
    const first = await generate(engine, { input_ids: PROMPT, sampling_params: sampling })
    const second = await generate(engine, { input_ids: PROMPT, sampling_params: sampling })
    expect(second.output_ids).toEqual(first.output_ids)
    expect(error(first)).toBeLessThan(1e-9)
    const topped = await generate(engine, {
      input_ids: PROMPT,
      sampling_params: { ...sampling, temperature: 1, top_k: 1 },
    })
    expect(topped.output_ids).toEqual(first.output_ids)
  })

  test('sampled tokens follow the distribution', async () => {
    await start({ stepMs: 0, capacity: 64 })
    const replies = await Promise.all(
      Array.from({ length: 600 }, () => generate(engine, { input_ids: [5], sampling_params: { max_new_tokens: 1 } })),
    )
    const seen = new Float64Array(16)
    for (const reply of replies) seen[reply.output_ids[0]!]! += 1 / replies.length
    for (let token = 0; token < 16; token++)
      expect(Math.abs(seen[token]! - Math.exp(scoreTokens(OLD, [5], [token])[0]!))).toBeLessThan(0.06)
  })

  test('of a seeded engine repeat, and sampling_seed counts only on a deterministic one', async () => {
    const ask = (seed: number) =>
      generate(engine, {
        input_ids: PROMPT,
        sampling_params: { max_new_tokens: 40, ignore_eos: true, sampling_seed: seed },
      })
    await start({ seed: 9 })
    const first = await ask(1)
    expect((await ask(1)).output_ids).not.toEqual(first.output_ids)
    await engine.close()
    await start({ seed: 9 })
    expect((await ask(2)).output_ids).toEqual(first.output_ids)
    await engine.close()
    await start({ deterministic: true })
    const seeded = await ask(1)
    expect((await ask(1)).output_ids).toEqual(seeded.output_ids)
    expect((await ask(2)).output_ids).not.toEqual(seeded.output_ids)
  })

  test('min_new_tokens keeps the end away', async () => {
    await start({ stepMs: 0 })
    for (let i = 0; i < 20; i++) {
      const reply = await generate(engine, {
        input_ids: PROMPT,
        sampling_params: { min_new_tokens: 30, max_new_tokens: 31 },
      })
      expect(reply.output_ids.slice(0, 30)).not.toContain(EOS)
    }
  })
})

describe('a weight update', () => {
  test('while idle changes weights, labels and spans, but not /server_info', async () => {
    await start()
    await generate(engine, { input_ids: PROMPT, sampling_params: { max_new_tokens: 5 } })
    expect(await update()).toMatchObject({
      status: 200,
      json: {
        success: true,
        message: 'Succeeded to update model weights. Weight version updated to 2.',
        num_paused_requests: 0,
      },
    })
    expect(engine.weights).toEqual(NEW)
    expect(engine.weightVersion).toBe('2')
    expect((await call(engine, '/model_info')).json).toMatchObject({ weight_version: '2', model_path: folder })
    expect((await call(engine, '/server_info')).json).toMatchObject({ weight_version: '1' })
    const reply = await generate(engine, { input_ids: PROMPT, sampling_params: { max_new_tokens: 50 } })
    expect(reply.meta_info.weight_version).toBe('2')
    expect(reply.meta_info.cached_tokens).toBe(0)
    expect(error(reply)).toBeLessThan(1e-9)
  })

  test('that forgets the flush poisons NEW requests with a cached prompt', async () => {
    await start()
    await generate(engine, { input_ids: PROMPT, sampling_params: { max_new_tokens: 5 } })
    expect((await update({ flush_cache: false })).status).toBe(200)
    const reply = await generate(engine, {
      input_ids: PROMPT,
      sampling_params: { max_new_tokens: 50, ignore_eos: true },
    })
    expect(reply.meta_info.cached_tokens).toBe(PROMPT.length - 1)
    expect(reply.meta_info.weight_versions).toEqual([{ version: '2', start: 0, end: 50 }])
    expect(error(reply)).toBeGreaterThan(0.01)
  })

  test('between abort and resume is exact on both sides', async () => {
    await start()
    const first = await stream(engine, { input_ids: PROMPT, sampling_params: LONG })
    await until('some tokens', () => first.events.length > 10)
    await call(engine, '/pause_generation', {})
    const part = await first.ended
    expect(part.meta_info.finish_reason).toMatchObject({ type: 'abort', message: 'Aborted' })
    await update()
    await call(engine, '/continue_generation', {})
    const context = [...PROMPT, ...part.output_ids]
    const rest = await generate(engine, {
      input_ids: context,
      sampling_params: { max_new_tokens: 50, ignore_eos: true },
    })
    expect(error(part)).toBeLessThan(1e-9)
    expect(error(rest, context)).toBeLessThan(1e-9)
  })

  test('under retract recomputes: exact on both sides of the seam, in one stream', async () => {
    await start()
    const running = await stream(engine, { input_ids: PROMPT, sampling_params: { ...LONG, max_new_tokens: 100 } })
    await until('some tokens', () => running.events.length > 10)
    await call(engine, '/pause_generation', { mode: 'retract' })
    expect(engine.counters).toMatchObject({ running: 0, waiting: 1, retractions: 1 })
    expect((await update()).status).toBe(200)
    await call(engine, '/continue_generation', {})
    const reply = await running.ended
    expect(reply.output_ids).toHaveLength(100)
    const versions = reply.meta_info.weight_versions!
    expect(versions.map((span) => span.version)).toEqual(['1', '2'])
    expect(error(reply)).toBeLessThan(1e-9)
    expect(running.events.slice(0, -1).every((event) => event.meta_info.weight_versions === undefined)).toBe(true)
  })

  test('under retract without a flush mixes old cache and new weights', async () => {
    await start()
    const running = await stream(engine, { input_ids: PROMPT, sampling_params: { ...LONG, max_new_tokens: 100 } })
    await until('some tokens', () => running.events.length > 10)
    await call(engine, '/pause_generation', { mode: 'retract' })
    await update({ flush_cache: false })
    await call(engine, '/continue_generation', {})
    expect(error(await running.ended)).toBeGreaterThan(0.01)
  })

  test('in place mixes too, and cannot flush: 400, and the weights changed all the same', async () => {
    await start()
    const running = await stream(engine, { input_ids: PROMPT, sampling_params: { ...LONG, max_new_tokens: 100 } })
    await until('some tokens', () => running.events.length > 10)
    await call(engine, '/pause_generation', { mode: 'in_place' })
    const answer = await update()
    expect(answer.status).toBe(400)
    expect(answer.text).toMatch(/Weights were updated, but the cache was not flushed/)
    expect(engine.weights).toEqual(NEW)
    expect((await call(engine, '/model_info')).json).toMatchObject({ weight_version: '1' })
    await call(engine, '/continue_generation', {})
    const reply = await running.ended
    expect(reply.meta_info.weight_version).toBe('2')
    expect(reply.meta_info.weight_versions!.map((span) => span.version)).toEqual(['1', '2'])
    expect(error(reply)).toBeGreaterThan(0.01)
  })

  test('from a bad folder is 400 and keeps the old weights', async () => {
    await start()
    const answer = await update({ model_path: join(folder, 'nowhere') })
    expect(answer).toMatchObject({ status: 400, json: { success: false } })
    expect(answer.text).toMatch(/Failed to get weights iterator/)
    expect(engine.weights).toBe(OLD)
    await saveWeights(join(folder, 'larger'), createTinyWeights({ vocabularySize: 20 }))
    expect((await update({ model_path: join(folder, 'larger') })).status).toBe(400)
    expect((await update({ weight_version: 2 })).status).toBe(400)
    expect(engine.weightVersion).toBe('1')
  })

  test('of a server that is not paused waits for running requests and holds new ones', async () => {
    await start()
    const running = await stream(engine, { input_ids: PROMPT, sampling_params: { ...LONG, max_new_tokens: 60 } })
    await until('tokens', () => running.events.length > 1)
    const updating = update()
    // The update holds new requests from the moment it has arrived.
    const label = call(engine, '/model_info')
    expect((await label).json).toMatchObject({ weight_version: '1' })
    const late = await stream(engine, { input_ids: PROMPT, sampling_params: { max_new_tokens: 5 } })
    const old = await running.ended
    expect((await updating).status).toBe(200)
    expect(old.meta_info.weight_versions).toEqual([{ version: '1', start: 0, end: 60 }])
    expect(error(old)).toBeLessThan(1e-9)
    const reply = await late.ended
    expect(error(reply)).toBeLessThan(1e-9)
  })

  test('that aborts all requests does not wait', async () => {
    await start()
    const running = await stream(engine, { input_ids: PROMPT, sampling_params: LONG })
    await until('tokens', () => running.events.length > 1)
    expect((await update({ abort_all_requests: true })).status).toBe(200)
    expect((await running.ended).meta_info.finish_reason!.type).toBe('abort')
  })

  test('of the label alone aborts everything unless told not to', async () => {
    await start()
    const running = await stream(engine, { input_ids: PROMPT, sampling_params: { ...LONG, max_new_tokens: 60 } })
    await until('tokens', () => running.events.length > 1)
    const answer = await call(engine, '/update_weight_version', { new_version: '8', abort_all_requests: false })
    expect(answer.json).toEqual({ success: true, message: 'Weight version updated to 8', new_version: '8' })
    const reply = await running.ended
    expect(reply.meta_info.weight_versions!.map((span) => span.version)).toEqual(['1', '8'])
    const other = await stream(engine, { input_ids: PROMPT, sampling_params: LONG })
    await until('tokens', () => other.events.length > 1)
    await call(engine, '/update_weight_version', { new_version: '9' })
    expect((await other.ended).meta_info.finish_reason!.type).toBe('abort')
  })
})
