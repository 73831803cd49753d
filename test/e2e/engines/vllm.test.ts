/**
 * A real vLLM beyond the conformance suite: both of its generation routes, the second through a front that refuses the first as a server without
 * `--enable-scale-out` does.
 */
import { once } from 'node:events'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { EngineDriver } from '../../../src/engines/driver.ts'
import { createSupervisor } from '../../../src/index.ts'
import { cancelled, counterMoves, driverOf, errorOf, generate, loadOf, PROMPT, post, stopsShortOf } from './drive.ts'
import { checkpoint, describeEngine, type RealServer, startServer } from './servers.ts'

describeEngine('vllm', 'its driver', () => {
  let server: RealServer
  let front: http.Server
  beforeAll(async () => {
    server = await startServer('vllm')
    front = await withoutScaleOut(server.url)
  })
  afterAll(() => {
    front?.close()
    front?.closeAllConnections()
    server?.stop()
  })

  describe.each([
    ['/inference/v1/generate', 'spans'],
    ['/v1/completions', 'label'],
  ] as const)('over %s', (_, versions) => {
    let driver: EngineDriver
    beforeAll(async () => {
      const url = versions === 'spans' ? server.url : `http://127.0.0.1:${(front.address() as AddressInfo).port}`
      driver = driverOf('vllm', url)
    })
    afterAll(() => driver?.close())

    it('says what it can', async () => {
      const probe = await driver.probe()
      expect(probe).toMatchObject({ engine: 'vllm', capacity: 8, vocabularySize: 320, contextLength: 2_048 })
      expect(probe.capabilities).toMatchObject({ versions, logprobs: 'raw' })
    })

    it('joins to what the server answers when it does not stream: tokens, text, log-probabilities', async () => {
      const out = await generate(driver, { temperature: 0 })
      const whole = await post(server.url, '/v1/completions', {
        prompt: PROMPT,
        max_tokens: 32,
        temperature: 0,
        ignore_eos: true,
        logprobs: 0,
        return_token_ids: true,
        skip_special_tokens: false,
      })
      const [choice] = (
        whole.json as {
          choices: { token_ids: number[]; text: string; logprobs: { token_logprobs: number[] } }[]
        }
      ).choices
      expect({ tokens: out.tokens, text: out.text }).toEqual({ tokens: choice!.token_ids, text: choice!.text })
      for (const [i, value] of out.logprobs.entries()) expect(value).toBeCloseTo(choice!.logprobs.token_logprobs[i]!, 4)
      if (versions === 'label') expect(out.versions).toBeNull()
    })

    it('R4: an abort by the id as it was sent ends nothing; the driver knows the form that does', async () => {
      const requestId = `e2e-r4-${Date.now()}`
      let ended = false
      await stopsShortOf(driver, 1_900, async () => {
        const running = generate(driver, { maxTokens: 1_900 }, { requestId })
        void running.then(() => {
          ended = true
        })
        await loadOf(driver, 1)
        // The id that the server knows contains ours; ours alone it accepts and ignores.
        await post(server.url, '/abort_requests', { request_ids: [requestId] })
        await new Promise((resolve) => setTimeout(resolve, 200))
        expect(ended).toBe(false)
        await driver.abort(requestId)
        expect((await running).finishReason).toBe('abort')
      })
    })

    it('F6: the counter of tokens moves while a request runs, and not after', () => counterMoves(driver, 1_900))

    it('F2: an update while requests run changes nothing and says so', async () => {
      const before = await driver.weightVersion()
      const controller = new AbortController()
      const running = errorOf(generate(driver, { maxTokens: 1_900 }, { signal: controller.signal }))
      await loadOf(driver, 1)
      const error = await errorOf(driver.updateWeights({ version: 8, path: checkpoint('B'), frozen: false }))
      expect(error.code).toBe('BUSY')
      expect(await driver.weightVersion()).toBe(before)
      controller.abort()
      await running
      await loadOf(driver, 0)
    })

    it('text goes in as it is', async () => {
      const out = await generate(driver, { maxTokens: 4 }, { prompt: 'hello' })
      expect(out.tokens).toHaveLength(4)
    })
  })
})

describeEngine('vllm', 'under the supervisor', () => {
  let server: RealServer
  beforeAll(async () => {
    server = await startServer('vllm')
  })
  afterAll(() => server?.stop())
  const fleet = () => createSupervisor({ instances: [{ url: server.url, engine: 'vllm' }] })

  it('F4, R8: a bad sample fails alone, and the server stays in work', async () => {
    const supervisor = fleet()
    await supervisor.start()
    expect(() => supervisor.submit({ prompt: [4, 9_999] })).toThrow(/9999|vocabulary/)
    const long = await supervisor.submit({ prompt: Array<number>(5_000).fill(5) }).result
    expect(long.completions[0]).toMatchObject({ outcome: 'failed', error: { code: 'REQUEST_REJECTED' } })
    const good = await supervisor.submit({ prompt: [4, 5], samples: 9, sampling: { maxTokens: 8 } }).result
    expect(good.complete).toBe(true)
    await supervisor.close()
  })

  it('its log-probabilities are of before temperature: another than 1 is refused unless that is accepted (decision 20)', async () => {
    const supervisor = fleet()
    await supervisor.start()
    const task = { prompt: [...PROMPT], sampling: { maxTokens: 4, temperature: 0.5 } }
    const { completions } = await supervisor.submit(task).result
    expect(completions[0]).toMatchObject({ outcome: 'failed', error: { code: 'INVALID_TASK' } })
    // Of an evaluation nobody trains on them.
    const evaluated = await supervisor.evaluate([task, { ...task, sampling: { maxTokens: 4, temperature: 0 } }])
    for (const { completions: found } of evaluated)
      expect(found[0]).toMatchObject({ outcome: 'completed', logprobBasis: 'raw' })
    await supervisor.close()
  })

  it('F3, R4: a cancelled task is settled at once, and the server counts 0', async () => {
    const driver = driverOf('vllm', server.url)
    const supervisor = fleet()
    await supervisor.start()
    await cancelled(supervisor, driver, 1_900)
    await supervisor.close()
    await driver.close()
  })

  it('R5: in a versioned fleet a restarted server is stale until it has the weights again', async () => {
    const supervisor = fleet()
    await supervisor.start()
    await supervisor.updateWeights({ version: 3, path: checkpoint('B') })
    await server.restart()
    const { completions } = await supervisor.submit({ prompt: [...PROMPT], sampling: { maxTokens: 8 } }).result
    expect(completions[0]).toMatchObject({ outcome: 'completed', versions: [{ version: 3, start: 0 }] })
    await supervisor.close()
  })
})

/** What a server without --enable-scale-out is to its clients. */
async function withoutScaleOut(url: string): Promise<http.Server> {
  const { hostname, port } = new URL(url)
  const front = http.createServer((request, response) => {
    if (request.url?.startsWith('/inference/')) {
      const error = {
        message: 'Scale-out endpoints are disabled.',
        type: 'PermissionDeniedError',
        param: null,
        code: 403,
      }
      request.resume()
      response.writeHead(403, { 'content-type': 'application/json' }).end(JSON.stringify({ error }))
      return
    }
    const { method, headers, url: path } = request
    const behind = http.request({ hostname, port, method, path, headers, agent: false }, (answer) => {
      response.writeHead(answer.statusCode ?? 502, answer.headers)
      answer.pipe(response)
    })
    behind.on('error', () => response.destroy())
    response.on('close', () => behind.destroy())
    request.pipe(behind)
  })
  front.listen(0, '127.0.0.1')
  await once(front, 'listening')
  return front
}
