/**
 * A real SGLang beyond the conformance suite: what only it does, with both forms of its streams.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { EngineDriver } from '../../../src/engines/driver.ts'
import { createSupervisor } from '../../../src/index.ts'
import {
  cancelled,
  counterMoves,
  driverOf,
  errorOf,
  generate,
  loadOf,
  PROMPT,
  post,
  stopsShortOf,
  until,
} from './drive.ts'
import { checkpoint, describeEngine, type RealServer, startServer } from './servers.ts'

describeEngine('sglang', 'its driver', () => {
  describe.each([
    ['cumulative streams', []],
    ['deltas', ['--incremental-streaming-output']],
  ])('%s', (_, flags) => {
    let server: RealServer
    let driver: EngineDriver
    beforeAll(async () => {
      server = await startServer('sglang', { flags })
      driver = driverOf('sglang', server.url)
      await driver.probe()
    })
    afterAll(async () => {
      await driver?.close()
      server?.stop()
    })

    it('joins to what the server answers when it does not stream, tokens and text', async () => {
      const out = await generate(driver, { temperature: 0 })
      const sampling_params = { max_new_tokens: 32, temperature: 0, ignore_eos: true, skip_special_tokens: false }
      const whole = await post(server.url, '/generate', {
        input_ids: PROMPT,
        sampling_params: { ...sampling_params, no_stop_trim: true },
      })
      expect(whole.json).toMatchObject({ output_ids: out.tokens, text: out.text })
      const typed = await generate(driver, { temperature: 0 }, { prompt: Int32Array.from(PROMPT) })
      expect(typed.tokens).toEqual(out.tokens)
    })

    it('a budget of no token yields none', async () => {
      const out = await generate(driver, { maxTokens: 0 })
      expect(out.tokens).toEqual([])
    })

    it('2000 tokens arrive whole', async () => {
      const out = await generate(driver, { maxTokens: 2_000 })
      expect(out.tokens).toHaveLength(2_000)
    })

    it('R7: leaving the loop closes the socket, and the server counts 0', async () => {
      const controller = new AbortController()
      const how = { signal: controller.signal, onChunk: () => controller.abort() }
      await stopsShortOf(driver, 3_000, async () => {
        expect((await errorOf(generate(driver, { maxTokens: 3_000 }, how))).code).toBe('CANCELLED')
      })
    })

    it('F6: the counter of tokens moves while a request runs, and not after', () => counterMoves(driver, 3_000))

    it('F2: an update while requests run changes nothing and says so', async () => {
      const before = await driver.weightVersion()
      const running = generate(driver, { maxTokens: 3_000 })
      await loadOf(driver, 1)
      const error = await errorOf(driver.updateWeights({ version: 8, path: checkpoint('B'), frozen: false }))
      expect(error.code).toBe('BUSY')
      expect(await driver.weightVersion()).toBe(before)
      await post(server.url, '/abort_request', { rid: '', abort_all: true })
      expect((await running).finishReason).toBe('abort')
    })
  })
})

describeEngine('sglang', 'under the supervisor', () => {
  let server: RealServer
  beforeAll(async () => {
    server = await startServer('sglang')
  })
  afterAll(() => server?.stop())

  it('F4, R8, R9: a bad sample fails alone, is never sent where it would end the server, and the server stays in work', async () => {
    const supervisor = createSupervisor({ instances: [{ url: server.url, engine: 'sglang' }] })
    await supervisor.start()
    expect(() => supervisor.submit({ prompt: [4, 9_999] })).toThrow(/9999|vocabulary/)
    const long = await supervisor.submit({ prompt: Array<number>(5_000).fill(5) }).result
    expect(long.completions[0]).toMatchObject({ outcome: 'failed', error: { code: 'REQUEST_REJECTED' } })
    const good = await supervisor.submit({ prompt: [4, 5], samples: 9, sampling: { maxTokens: 8 } }).result
    expect(good.complete).toBe(true)
    expect(supervisor.getSnapshot().instances[0]?.state).toMatch(/^(idle|serving)/)
    await supervisor.close()
  })

  it('R5: in a versioned fleet a restarted server is stale until it has the weights again', async () => {
    const supervisor = createSupervisor({ instances: [{ url: server.url, engine: 'sglang' }] })
    await supervisor.start()
    await supervisor.updateWeights({ version: 3, path: checkpoint('B') })
    await server.restart()
    const { completions } = await supervisor.submit({ prompt: [...PROMPT], sampling: { maxTokens: 8 } }).result
    expect(completions[0]).toMatchObject({ outcome: 'completed', versions: [{ version: 3, start: 0 }] })
    await supervisor.close()
  })

  it('F3: a cancelled task is settled at once, and the server counts 0', async () => {
    const driver = driverOf('sglang', server.url)
    const supervisor = createSupervisor({ instances: [{ url: server.url, engine: 'sglang' }] })
    await supervisor.start()
    await cancelled(supervisor, driver, 1_500)
    await until('the slots are free', () => supervisor.getSnapshot().instances[0]?.running === 0)
    await supervisor.close()
    await driver.close()
  })

  it('R10: an update that says it failed and yet changed the weights leaves the server untrusted until it has ours again', async () => {
    const supervisor = createSupervisor({ instances: [{ url: server.url, engine: 'sglang' }] })
    const states: string[] = []
    supervisor.events$.subscribe((event) => void (event.type === 'instance.state' && states.push(event.state)))
    await supervisor.start()
    await supervisor.updateWeights({ version: 10, path: checkpoint('A') })
    const driver = driverOf('sglang', server.url)
    const long = { prompt: [...PROMPT], sampling: { maxTokens: 1_500, ignoreEos: true } }
    const running = supervisor.submit(long)
    await loadOf(driver, 1)
    // What a stranger might do: freeze without giving the cache back, and update.
    await post(server.url, '/pause_generation', { mode: 'in_place' })
    const update = { model_path: checkpoint('B'), weight_version: '11', flush_cache: true, abort_all_requests: false }
    expect((await post(server.url, '/update_weights_from_disk', update)).status).toBe(400)
    expect(await driver.weightVersion()).toBe('10')
    await post(server.url, '/continue_generation', {})
    // Its tokens say so themselves: of 10 and of 11, although the server calls its weights 10.
    const [mixed] = (await running.result).completions
    expect(mixed?.versions.map(({ version }) => version)).toEqual([10, 11])
    const [next] = (await supervisor.submit({ ...long, sampling: { maxTokens: 8 } }).result).completions
    expect(next).toMatchObject({ outcome: 'completed', versions: [{ version: 10, start: 0 }] })
    expect(states.some((state) => state.startsWith('stale'))).toBe(true)
    await supervisor.close()
    await driver.close()
  })
})

describeEngine('sglang', 'with a bounded queue', () => {
  it('R9: a full queue, said inside a stream of status 200, means busy: every sample completes elsewhere or later', async () => {
    const server = await startServer('sglang', { flags: ['--max-running-requests', '2', '--max-queued-requests', '1'] })
    // More than it takes, as where others use it too.
    const supervisor = createSupervisor({ instances: [{ url: server.url, engine: 'sglang', capacity: 6 }] })
    await supervisor.start()
    const sampling = { maxTokens: 64, ignoreEos: true }
    const { completions } = await supervisor.submit({ prompt: [...PROMPT], samples: 12, sampling }).result
    const ends = completions.flatMap(({ segments }) => segments.map(({ reason }) => reason))
    expect(completions.every(({ outcome, tokenIds }) => outcome === 'completed' && tokenIds.length === 64)).toBe(true)
    expect(ends).toContain('busy')
    expect(supervisor.getSnapshot().instances[0]?.state).toMatch(/^serving/)
    await supervisor.close()
    server.stop()
  })
})
