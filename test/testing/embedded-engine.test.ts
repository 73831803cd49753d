/**
 * The engine under its wire protocol: slots, queue, speed, life and death.
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

describe('options', () => {
  test('are refused in one error that names every problem', async () => {
    const bad = { profile: 'tgi', capacity: 0, stepMs: Number.NaN, slow: 0, port: 70_000, incremental: 'yes', speed: 3 }
    const error: unknown = await startEmbeddedEngine(bad as unknown as EmbeddedEngineOptions).catch((e: unknown) => e)
    expect(error).toMatchObject({ code: 'INVALID_OPTIONS' })
    const { problems } = error as { problems: { path: string; expected: string }[] }
    expect(problems.map(({ path }) => path).sort()).toEqual(Object.keys(bad).sort())
    expect(problems.find(({ path }) => path === 'profile')!.expected).toMatch(/one of sglang/)
  })

  test('a port that is taken is refused by number', async () => {
    await start()
    await expect(startEmbeddedEngine({ port: engine.port })).rejects.toThrow(
      new RegExp(`${engine.port} .*EADDRINUSE.*another port`),
    )
  })
})

describe('slots', () => {
  test('never runs more than its capacity, serves the queue in order, and loses nobody', async () => {
    await start({ capacity: 3, stepMs: 0.2 })
    const ended: number[] = []
    await Promise.all(
      Array.from({ length: 20 }, async (_, i) => {
        const reply = await generate(engine, {
          rid: `r${i}`,
          input_ids: [i % 10],
          sampling_params: { max_new_tokens: 10, ignore_eos: true },
        })
        expect(reply.output_ids).toHaveLength(10)
        ended.push(i)
      }),
    )
    expect(ended).toHaveLength(20)
    expect(engine.counters).toMatchObject({
      maxRunning: 3,
      running: 0,
      waiting: 0,
      requests: 20,
      tokensGenerated: 200,
      tokensDelivered: 200,
    })
  })

  test('says what it runs and what waits', async () => {
    await start({ capacity: 2 })
    const streams = await Promise.all(
      [1, 2, 3, 4, 5].map((i) => stream(engine, { input_ids: [i], sampling_params: LONG })),
    )
    await until('2 running, 3 waiting', () => engine.counters.running === 2 && engine.counters.waiting === 3)
    expect((await call(engine, '/v1/loads?include=core')).json).toMatchObject({
      loads: [{ num_running_reqs: 2, num_waiting_reqs: 3, max_running_requests: 2 }],
    })
    const metrics = (await call(engine, '/metrics')).text
    expect(metrics).toMatch(/^sglang:num_running_reqs\{.*\} 2$/m)
    expect(metrics).toMatch(/^sglang:num_queue_reqs\{.*\} 3$/m)
    expect((await call(engine, '/server_info')).json).toMatchObject({
      internal_states: [{ effective_max_running_requests_per_dp: 2 }],
    })
    for (const one of streams) one.leave()
    await until('empty', () => engine.counters.running === 0 && engine.counters.waiting === 0)
  })

  test('are freed at once when the client of a stream, of a plain request or of a queued one leaves', async () => {
    await start({ capacity: 2 })
    const running = await stream(engine, { input_ids: PROMPT, sampling_params: LONG })
    const controller = new AbortController()
    const plain = fetch(`${engine.url}/generate`, {
      method: 'POST',
      body: JSON.stringify({ input_ids: PROMPT, sampling_params: LONG }),
      signal: controller.signal,
    })
    plain.catch(() => {})
    await until('both run', () => engine.counters.running === 2)
    const queued = await stream(engine, { input_ids: PROMPT, sampling_params: LONG })
    await until('one waits', () => engine.counters.waiting === 1)
    queued.leave()
    await until('none waits', () => engine.counters.waiting === 0)
    running.leave()
    await until('one runs', () => engine.counters.running === 1)
    controller.abort()
    await until('none runs', () => engine.counters.running === 0)
    expect(engine.counters.disconnects).toBe(3)
    expect(engine.counters.aborted).toBe(3)
  })

  test('a step takes longer with a larger batch and on a slow engine', async () => {
    await start({ stepMs: 2, perSequenceMs: 0 })
    const time = async () => {
      const from = performance.now()
      await generate(engine, { input_ids: PROMPT, sampling_params: { max_new_tokens: 20, ignore_eos: true } })
      return performance.now() - from
    }
    // Only lower bounds: a busy machine is late, never early.
    expect(await time()).toBeGreaterThan(38)
    engine.setSlow(4)
    expect(await time()).toBeGreaterThan(150)
    expect(() => engine.setSlow(0)).toThrow(/factor/)
  })
})

describe('the prefix cache', () => {
  test('is used for repeated prompts and continued contexts, and flushed on request', async () => {
    await start({ stepMs: 0 })
    const ask = (input_ids: number[]) =>
      generate(engine, { input_ids, sampling_params: { max_new_tokens: 8, ignore_eos: true } })
    const first = await ask([1, 2, 3, 4])
    expect(first.meta_info.cached_tokens).toBe(0)
    expect((await ask([1, 2, 3, 4])).meta_info.cached_tokens).toBe(3)
    expect((await ask([1, 2, 3, 4, ...first.output_ids])).meta_info.cached_tokens).toBe(11)
    expect((await call(engine, '/flush_cache', {})).status).toBe(200)
    expect((await ask([1, 2, 3, 4])).meta_info.cached_tokens).toBe(0)
  })

  test('is not flushed while something runs', async () => {
    await start()
    const running = await stream(engine, { input_ids: PROMPT, sampling_params: LONG })
    await until('it runs', () => engine.counters.running === 1)
    expect((await call(engine, '/flush_cache', {})).status).toBe(400)
    running.leave()
    await until('it stopped', () => engine.counters.running === 0)
    expect((await call(engine, '/flush_cache')).status).toBe(200)
  })
})

describe('the end', () => {
  test('a token id outside the vocabulary kills the server and cuts every client', async () => {
    await start()
    const victim = await stream(engine, { input_ids: PROMPT, sampling_params: LONG })
    await until('it runs', () => engine.counters.running === 1)
    await expect(generate(engine, { input_ids: [3, 16] })).rejects.toThrow()
    await expect(victim.ended).rejects.toThrow()
    expect(engine.counters.died).toBe(true)
    await expect(fetch(`${engine.url}/ping`)).rejects.toThrow()
  })

  test('close cuts every client, leaves no handle, and may be called twice', async () => {
    const handles = () =>
      process.getActiveResourcesInfo().filter((name) => /TCPServerWrap|Timeout|Immediate/.test(name))
    const before = handles()
    await start({ stepMs: 50, realDelays: true })
    const open = await stream(engine, { input_ids: PROMPT, sampling_params: LONG })
    await call(engine, '/pause_generation', { mode: 'in_place' })
    const held = await stream(engine, { input_ids: PROMPT, sampling_params: LONG })
    await Promise.all([engine.close(), engine.close()])
    await expect(open.ended).rejects.toThrow()
    await expect(held.ended).rejects.toThrow()
    expect(engine.counters).toMatchObject({ running: 0, waiting: 0 })
    expect(handles().filter((name) => name === 'TCPServerWrap')).toEqual(
      before.filter((name) => name === 'TCPServerWrap'),
    )
  })
})
