/**
 * Pauses and new weights of an embedded vLLM: what is exact, and what an update that forgets a step poisons (real-engines.md).
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
import { createTinyWeights, saveWeights, scoreTokens } from '../../src/testing/tiny-policy.ts'
import { call, largestDifference, until } from './client.ts'
import { ask as askOf, GENERATE, PROMPT, type Sent } from './vllm-client.ts'

const OLD = createTinyWeights({ seed: 1 })
const NEW = createTinyWeights({ seed: 2, scale: 0.8 })

let folder = ''
let engine: EmbeddedEngine

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'embedded-'))
  await saveWeights(folder, NEW)
})
afterAll(() => rm(folder, { recursive: true, force: true }))
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

/** Largest difference between what was reported and what the weights of each span say. */
function error({ tokenIds, logprobs, last }: Sent, temperature = 1): number {
  expect(logprobs).toHaveLength(tokenIds.length)
  let largest = 0
  for (const { version, start: from, end } of last?.weight_versions ?? []) {
    const scores = scoreTokens(version === '1' ? OLD : NEW, PROMPT, tokenIds, temperature)
    largest = Math.max(largest, largestDifference(logprobs.slice(from, end), scores.slice(from, end)))
  }
  return largest
}

describe('a pause', () => {
  test('aborts, and holds what comes later, which can be aborted and is in no gauge', async () => {
    await start()
    const first = ask(GENERATE)
    await running()
    expect((await post('/pause')).json).toEqual({ status: 'paused' })
    expect((await first).last?.finish_reason).toBe('abort')
    expect((await get('/is_paused')).json).toEqual({ is_paused: true })
    const held = ask(GENERATE, {}, { request_id: 'held' })
    await until('it is held', () => engine.counters.waiting === 1)
    expect((await get('/metrics')).text).toContain('num_requests_waiting{engine="0",model_name="tiny-policy"} 0.0')
    await post('/abort_requests', { request_ids: ['generate-tokens-held'] })
    expect((await held).last).toMatchObject({ finish_reason: 'abort', token_ids: [] })
    const later = ask(GENERATE, { max_tokens: 3 })
    await until('it is held', () => engine.counters.waiting === 1)
    expect((await post('/resume')).json).toEqual({ status: 'resumed' })
    expect((await later).tokenIds).toHaveLength(3)
  })

  test('waits for what runs, and not for what waits', async () => {
    await start({ capacity: 1 })
    const first = ask(GENERATE, { max_tokens: 1500 })
    await running()
    const second = ask(GENERATE, { max_tokens: 5 })
    await until('it waits', () => engine.counters.waiting === 1)
    await post('/pause?mode=wait')
    expect(engine.counters).toMatchObject({ running: 0, waiting: 1 })
    expect((await first).tokenIds).toHaveLength(1500)
    await post('/resume')
    expect((await second).tokenIds).toHaveLength(5)
  })

  test('keeps what runs, counts it as running, and takes its cache; an abort ends it all the same', async () => {
    await start()
    const kept = ask(GENERATE, { max_tokens: 300 })
    const ended = ask(GENERATE, {}, { request_id: 'ended' })
    await running()
    await post('/pause?mode=keep')
    const { tokensGenerated } = engine.counters
    await post('/abort_requests', { request_ids: ['generate-tokens-ended'] })
    expect((await ended).last?.finish_reason).toBe('abort')
    expect(engine.counters).toMatchObject({ running: 0, waiting: 1, tokensGenerated })
    expect((await get('/metrics')).text).toContain('num_requests_running{engine="0",model_name="tiny-policy"} 1.0')
    expect((await post('/reset_prefix_cache')).json).toEqual({ success: true })
    await post('/resume')
    expect((await kept).tokenIds).toHaveLength(300)
  })
})

describe('new weights', () => {
  const reload = (path = folder) =>
    post('/collective_rpc', { method: 'reload_weights', kwargs: { weights_path: path } })
  const label = () => post('/update_weight_version', { new_version: '2' })

  test('are exact for a new request when the cache was emptied, and poison one that was cached when not', async () => {
    await start({ stepMs: 0 })
    await ask(GENERATE, { max_tokens: 1 })
    expect((await reload()).json).toEqual({ results: [null] })
    expect((await label()).json).toEqual({ success: true, new_version: '2' })
    expect((await get('/weight_info')).json).toEqual({ weight_version: '2' })
    expect(error(await ask(GENERATE, { max_tokens: 30 }))).toBeGreaterThan(0.01)
    expect((await post('/reset_prefix_cache')).json).toEqual({ success: true })
    expect(error(await ask(GENERATE, { max_tokens: 30 }))).toBeLessThan(1e-9)
  })

  test.each([
    ['taken by the pause', '', '', true],
    ['recomputed', '&clear_cache=false', '?reset_running_requests=true', true],
    ['kept', '&clear_cache=false', '', false],
  ])('under a frozen request whose cache is %s', async (_, how, query, exact) => {
    await start()
    const kept = ask(GENERATE, { max_tokens: 400 })
    await running()
    await post(`/pause?mode=keep${how}`)
    await reload()
    expect((await post(`/reset_prefix_cache${query}`)).json).toEqual({ success: exact })
    await label()
    await post('/resume')
    const out = await kept
    expect(out.last?.weight_versions?.map(({ version }) => version)).toEqual(['1', '2'])
    expect(out.tokenIds).toHaveLength(400)
    if (exact) expect(error(out)).toBeLessThan(1e-9)
    else expect(error(out)).toBeGreaterThan(0.01)
  })

  test('that do not load break the model: the next generation kills the engine, unless others are loaded first (R6)', async () => {
    await start()
    expect(await reload('/nope')).toMatchObject({ status: 500 })
    expect((await reload()).status).toBe(200)
    expect((await ask(GENERATE, { max_tokens: 3 })).tokenIds).toHaveLength(3)
    await reload('/nope')
    const dying = await ask(GENERATE)
    expect(dying).toMatchObject({ status: 200, done: true, error: { code: 500, type: 'InternalServerError' } })
    // Its front lives on for half a second.
    const [next, health] = await Promise.all([ask(GENERATE), get('/health')])
    expect([next.status, health.status]).toEqual([500, 503])
    await until('it has ended', () => engine.counters.died)
  })
})
