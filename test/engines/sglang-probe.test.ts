/**
 * What a probe learns of an SGLang server (sglang-probe.ts), from routes that answer as a real one did, not at all, or with nonsense.
 */
import { describe, expect, test } from 'vitest'
import { createSglangDriver } from '../../src/engines/sglang.ts'
import { options, recorded, refusal, serve } from './fake-server.ts'
import { replaying } from './replay-sglang.ts'

describe('a probe', () => {
  const info = (change: object) => ({
    body: JSON.stringify({ ...JSON.parse(recorded('sglang-cumulative')('serverInfo').body), ...change }),
  })

  test.each([
    [
      'what its scheduler allows, per rank',
      { internal_states: [{ effective_max_running_requests_per_dp: 12 }, {}], dp_size: 2, max_running_requests: 99 },
      {},
      24,
    ],
    [
      'the sum of its load report',
      { internal_states: [], max_running_requests: null },
      { body: '{"loads":[{"max_running_requests":5},{"max_running_requests":6}]}' },
      11,
    ],
    ['what the operator set', { internal_states: null, max_running_requests: 7 }, { status: 404 }, 7],
    [
      'null where nothing says',
      { internal_states: [{ effective_max_running_requests_per_dp: null }], max_running_requests: null },
      { body: '{"loads":null}' },
      null,
    ],
    ['null where it makes no sense', { internal_states: [{}], max_running_requests: 'many' }, { body: '[]' }, null],
  ])('takes as capacity %s (D1)', async (_, server, loads, capacity) => {
    const { driver } = await replaying('cumulative', {
      'GET /server_info': info(server),
      'GET /v1/loads?include=core': loads,
    })
    expect((await driver.probe()).capacity).toBe(capacity)
  })

  test('takes the label from the route that keeps it true', async () => {
    const { driver } = await replaying('cumulative', {
      'GET /server_info': info({ weight_version: 'default' }),
      'GET /model_info': 'modelInfoAfterUpdate',
    })
    expect((await driver.probe()).weightVersion).toBe('7')
    expect(await driver.weightVersion()).toBe('7')
  })

  test('does with /server_info alone', async () => {
    const { driver } = await replaying('cumulative', {
      'GET /model_info': null,
      'GET /v1/loads?include=core': null,
      'GET /v1/models': null,
      'GET /ready': null,
      'POST /v1/completions': null,
    })
    expect(await driver.probe()).toMatchObject({
      capacity: 8,
      weightVersion: null,
      vocabularySize: null,
      contextLength: null,
      paused: false,
      capabilities: { loadReport: false },
    })
  })

  test('sees a pause, and sends a paused server nothing that it would hold', async () => {
    const { driver, server } = await replaying('cumulative', { 'GET /ready': 'pausedReady' })
    expect(await driver.probe()).toMatchObject({ paused: true, vocabularySize: null })
    expect(server.requests.filter(({ line }) => line.startsWith('POST'))).toEqual([])
  })

  test('asks for the vocabulary once, with a request that no release runs', async () => {
    const { driver, server } = await replaying('cumulative')
    await driver.probe()
    await driver.probe()
    const asked = server.requests.filter(({ line }) => line === 'POST /v1/completions')
    expect(asked).toHaveLength(1)
    expect(JSON.parse(asked[0]?.body ?? '')).toMatchObject({
      json_schema: '{}',
      regex: '.',
      logit_bias: { 2147483647: 0 },
    })
  })

  test('advises what to start the server with, flags by name', async () => {
    const { driver } = await replaying('cumulative', {
      'GET /server_info': info({ max_running_requests: null, version: '0.5.9' }),
    })
    const { advice, capabilities } = await driver.probe()
    for (const flag of ['--incremental-streaming-output', '--max-running-requests', '--enable-deterministic-inference'])
      expect(advice.join('\n')).toContain(flag)
    expect(capabilities.versions).toBe('label')
    expect(capabilities.pause).toEqual(['abort'])
    const good = info({ incremental_streaming_output: true, enable_deterministic_inference: true })
    expect((await (await replaying('cumulative', { 'GET /server_info': good })).driver.probe()).advice).toEqual([])
  })

  test('of something else says what it looks like (F18)', async () => {
    const models = { body: '{"object":"list","data":[{"id":"x","owned_by":"vllm"}]}' }
    const { driver } = await replaying('cumulative', { 'GET /server_info': null, 'GET /v1/models': models })
    expect(await refusal(driver.probe())).toMatchObject({
      code: 'WRONG_PROTOCOL',
      message: expect.stringContaining('"vllm"'),
    })
    const page = await serve((_, response) => response.setHeader('content-type', 'text/html').end('<h1>It works!</h1>'))
    expect(await refusal(createSglangDriver(options(page.url)).probe())).toMatchObject({
      code: 'WRONG_PROTOCOL',
      message: expect.stringContaining('It works!'),
    })
  })

  test.each([
    [401, 'INSTANCE_FAULT'],
    [500, 'ENGINE_ERROR'],
    [503, 'BUSY'],
  ])('answered with %i is %s', async (status, code) => {
    const { driver } = await replaying('cumulative', {
      'GET /server_info': { status, body: '{"error":"Unauthorized"}' },
    })
    expect(await refusal(driver.probe())).toMatchObject({ code, status })
  })
})
