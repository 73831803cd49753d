/**
 * What a probe learns of a vLLM server (vllm-probe.ts), from routes that answer as a real one did, not at all, or with nonsense.
 */
import { describe, expect, test } from 'vitest'
import { createVllmDriver } from '../../src/engines/vllm.ts'
import { options, refusal, serve } from './fake-server.ts'
import { replaying, said } from './replay-vllm.ts'

const INFO = 'GET /server_info?config_format=json'
/** Outside dev mode there are no control routes. */
const plain = { [INFO]: null, 'GET /weight_info': null, 'GET /is_paused': null }

function info(change: Record<string, object>) {
  const { vllm_config } = JSON.parse(said('serverInfo').body)
  for (const [section, values] of Object.entries(change)) vllm_config[section] = { ...vllm_config[section], ...values }
  return { [INFO]: { body: JSON.stringify({ vllm_config }) } }
}

describe('a probe', () => {
  test('says all there is to know (D1)', async () => {
    const { driver } = await replaying('generate')
    expect(await driver.probe()).toMatchObject({
      engine: 'vllm',
      engineVersion: '0.32.0',
      capacity: 8,
      weightVersion: 'default',
      vocabularySize: 320,
      contextLength: 2048,
      paused: false,
      capabilities: {
        tokenIds: true,
        logprobs: 'raw',
        abortById: true,
        versions: 'spans',
        updateWeights: true,
        loadReport: true,
        pause: ['abort', 'keep'],
        release: false,
      },
    })
  })

  test('without --enable-scale-out finds the completions route, which has no spans', async () => {
    const { driver } = await replaying('completions')
    const { capabilities, advice } = await driver.probe()
    expect(capabilities).toMatchObject({ tokenIds: true, versions: 'label', abortById: true, updateWeights: true })
    expect(advice.join('\n')).toContain('--enable-scale-out')
  })

  test('outside dev mode declares what is missing, and trusts no label', async () => {
    const { driver } = await replaying('completions', plain)
    const { capacity, weightVersion, contextLength, vocabularySize, capabilities, advice } = await driver.probe()
    expect({ capacity, weightVersion, contextLength, vocabularySize }).toEqual({
      capacity: null,
      weightVersion: null,
      contextLength: 2048,
      vocabularySize: 320,
    })
    expect(capabilities).toMatchObject({ abortById: false, versions: 'none', updateWeights: false, logprobs: 'raw' })
    expect(capabilities).toMatchObject({ pause: [], release: false })
    for (const flag of ['VLLM_SERVER_DEV_MODE=1', '--enable-scale-out', '--logprobs-mode processed_logprobs'])
      expect(advice.join('\n')).toContain(flag)
    const scaleOut = await replaying('generate', plain)
    expect((await scaleOut.driver.probe()).capabilities).toMatchObject({ abortById: true, versions: 'none' })
  })

  test.each([
    ['processed_logprobs', 'sampled', 0],
    ['raw_logprobs', 'raw', 1],
    ['raw_logits', 'none', 1],
    ['processed_logits', 'none', 1],
  ])('with --logprobs-mode %s has log-probabilities that are %s (decision 20)', async (mode, basis, advised) => {
    const { driver } = await replaying('generate', info({ model_config: { logprobs_mode: mode } }))
    const { capabilities, advice } = await driver.probe()
    expect(capabilities.logprobs).toBe(basis)
    expect(advice).toHaveLength(advised)
  })

  test('gives its memory away only with --enable-sleep-mode, and keeps requests only where they are computed anew', async () => {
    const sleepy = await replaying('generate', info({ model_config: { enable_sleep_mode: true } }))
    expect((await sleepy.driver.probe()).capabilities).toMatchObject({ release: true })
    const old = await replaying('generate', { 'GET /version': { body: '{"version":"0.31.4"}' } })
    expect((await old.driver.probe()).capabilities).toMatchObject({ pause: ['abort'] })
  })

  test('counts the slots of every data-parallel rank, and invents none', async () => {
    const ranks = info({ scheduler_config: { max_num_seqs: 12 }, parallel_config: { data_parallel_size: 2 } })
    expect((await (await replaying('generate', ranks)).driver.probe()).capacity).toBe(24)
    const none = await replaying('generate', info({ scheduler_config: { max_num_seqs: 'many' } }))
    expect((await none.driver.probe()).capacity).toBeNull()
  })

  test('sees a pause, statistics that are off, and an update that did not end', async () => {
    const { driver } = await replaying('generate', {
      'GET /is_paused': 'pausedIs',
      'GET /metrics': { body: 'python_gc 1\n' },
    })
    await refusal(driver.updateWeights({ version: 3, path: '/w', frozen: false }, AbortSignal.abort()))
    const { paused, capabilities, advice } = await driver.probe()
    expect({ paused, loadReport: capabilities.loadReport }).toEqual({ paused: true, loadReport: false })
    expect(advice.join('\n')).toContain('--disable-log-stats')
    const broken = await replaying('generate', { 'POST /collective_rpc': 'updateBad' })
    await refusal(broken.driver.updateWeights({ version: 3, path: '/w', frozen: false }))
    expect((await broken.driver.probe()).advice.join('\n')).toContain('did not end')
  })

  test('asks nothing that a release could run', async () => {
    const { driver, server } = await replaying('generate')
    await driver.probe()
    const asked = server.requests.filter(({ line }) => /generate|completions/.test(line))
    expect(asked.map(({ body }) => JSON.parse(body))).toEqual([
      { token_ids: [], output_mode: '?', sampling_params: {} },
      { prompt: [1], max_tokens: 1, logit_bias: { 2147483647: 0 } },
    ])
    await driver.probe()
    expect(server.requests.filter(({ body }) => body.includes('logit_bias'))).toHaveLength(1)
  })

  test('of something else says what it looks like (F18)', async () => {
    const models = { body: '{"object":"list","data":[{"id":"x","owned_by":"sglang"}]}' }
    const { driver } = await replaying('generate', { 'GET /version': null, 'GET /v1/models': models })
    expect(await refusal(driver.probe())).toMatchObject({
      code: 'WRONG_PROTOCOL',
      message: expect.stringContaining('"sglang"'),
    })
    const page = await serve((_, response) => response.setHeader('content-type', 'text/html').end('<h1>It works!</h1>'))
    expect(await refusal(createVllmDriver(options(page.url)).probe())).toMatchObject({
      code: 'WRONG_PROTOCOL',
      message: expect.stringContaining('It works!'),
    })
  })

  test.each([
    [{ 'GET /v1/models': { status: 401, body: '{"error":"Unauthorized"}' } }, 'INSTANCE_FAULT'],
    [{ 'GET /v1/models': { status: 500, body: '' } }, 'ENGINE_ERROR'],
    [{ 'GET /health': { status: 503, body: '' } }, 'ENGINE_ERROR'],
  ])('answered with %o is %s (R6)', async (changed, code) => {
    const { driver } = await replaying('generate', changed)
    expect(await refusal(driver.probe())).toMatchObject({ code })
  })
})
