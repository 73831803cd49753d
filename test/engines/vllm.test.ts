/**
 * The vLLM driver against what a real server said on both of its routes, and against what it said when things went wrong.
 */
import { describe, expect, test } from 'vitest'
import type { EngineDriver } from '../../src/engines/driver.ts'
import { join, never, refusal, sampling } from './fake-server.ts'
import { disabled, probed, replaying, said } from './replay-vllm.ts'

const generate = (driver: EngineDriver, more = {}) =>
  join(driver.generate({ requestId: 'r-1', prompt: [10, 11, 12], sampling: { ...sampling, ...more } }, never))

/** Ids, log-probabilities, text and spans of a recorded stream, read the slow way. */
function truth(name: string) {
  const choices = said(name)
    .body.split('\n\n')
    .filter((each) => each.startsWith('data: {'))
    .flatMap((each) => JSON.parse(each.slice(6)).choices)
  return {
    tokenIds: choices.flatMap((each) => each.token_ids),
    logprobs: choices.flatMap(({ logprobs }) =>
      'content' in logprobs
        ? logprobs.content.map((each: { logprob: number }) => each.logprob)
        : logprobs.token_logprobs,
    ),
    text: choices.map((each) => each.text ?? '').join(''),
    versions: choices.at(-1)?.weight_versions ?? null,
  }
}

describe.each([
  ['generate', 'generate', 'length'],
  ['generate', 'generateTokens', 'length'],
  ['generate', 'generateHot', 'length'],
  ['generate', 'generateStopId', 'stop'],
  ['generate', 'generateStopText', 'stop'],
  ['generate', 'generateUsage', 'length'],
  ['generate', 'generateAborted', 'abort'],
  ['generate', 'pausedAbort', 'abort'],
  ['generate', 'keptOverUpdate', 'abort'],
  ['generate', 'generateAfterUpdate', 'length'],
  ['completions', 'complete', 'length'],
  ['completions', 'completeText', 'length'],
  ['completions', 'completeStopText', 'stop'],
  ['completions', 'completeAborted', 'abort'],
] as const)('over the %s route', (route, name, finishReason) => {
  test(`${name} yields every token once, with its log-probability and version (I8, F12)`, async () => {
    const path = route === 'generate' ? 'POST /inference/v1/generate' : 'POST /v1/completions'
    const { driver } = await probed(route, { [path]: name })
    const out = await generate(driver)
    expect(out.error).toBeNull()
    expect(out.last?.finishReason).toBe(finishReason)
    expect({ tokenIds: out.tokenIds, logprobs: out.logprobs, text: out.text, versions: out.last?.versions }).toEqual(
      truth(name),
    )
    if (route === 'generate') expect(out.last?.versions?.at(-1)?.end).toBe(out.tokenIds.length)
  })
})

test.each([
  ['generate', 'generateQueued'],
  ['generate', 'generateHeldAborted'],
  ['completions', 'completeQueued'],
] as const)('over the %s route %s, aborted before its first token, is an interruption (F12)', async (route, name) => {
  const path = route === 'generate' ? 'POST /inference/v1/generate' : 'POST /v1/completions'
  const { driver } = await probed(route, { [path]: name })
  expect(await generate(driver)).toMatchObject({ error: null, tokenIds: [], last: { finishReason: 'abort' } })
})

test.each([
  ['generate', 'generateNegative', /max_tokens/],
  ['generate', 'generateEmpty', /too_short/],
  ['generate', 'generateTooLong', /longer than the maximum model length/],
  ['generate', 'generateBadId', /out of vocabulary/],
  ['completions', 'completeNegative', /max_tokens/],
  ['completions', 'completeEmpty', /at least one prompt/],
  ['completions', 'completeTooLong', /maximum context length/],
  ['completions', 'completeTooMany', /max_model_len/],
] as const)(
  'over the %s route %s is REQUEST_REJECTED with what the server said, in its stream or before (F4, R9)',
  async (route, name, message) => {
    const path = route === 'generate' ? 'POST /inference/v1/generate' : 'POST /v1/completions'
    const { driver } = await probed(route, { [path]: name })
    expect((await generate(driver)).error).toMatchObject({
      code: 'REQUEST_REJECTED',
      status: 400,
      message: expect.stringMatching(message),
    })
  },
)

test.each([
  ['a route that was switched off', disabled, 'INSTANCE_FAULT'],
  ['an unknown model', said('completeModel'), 'INSTANCE_FAULT'],
  ['a dead engine', said('generateDead'), 'ENGINE_ERROR'],
  ['an engine that dies under the stream', said('generateDying'), 'ENGINE_ERROR'],
  ['a full queue', { status: 503, type: 'application/json', body: '{"error":{"message":"full","code":503}}' }, 'BUSY'],
])('%s is %o', async (_, answer, code) => {
  const { driver } = await probed('generate', { 'POST /inference/v1/generate': answer })
  expect((await generate(driver)).error).toMatchObject({ code })
})

describe('a request', () => {
  const asked = { ...sampling, maxTokens: 6400, stop: ['x'], stopTokenIds: [2], seed: 77 }
  const params = {
    n: 1,
    max_tokens: 6400,
    min_tokens: 0,
    temperature: 1,
    top_p: 1,
    top_k: -1,
    min_p: 0,
    frequency_penalty: 0,
    presence_penalty: 0,
    repetition_penalty: 1,
    stop: ['x'],
    stop_token_ids: [2],
    ignore_eos: false,
    skip_special_tokens: false,
    spaces_between_special_tokens: true,
    include_stop_str_in_output: true,
    logprobs: 0,
    seed: 77,
  }

  test('spells out every default on the generate route, and asks for text where the server has it', async () => {
    const { driver, server } = await probed('generate')
    await join(driver.generate({ requestId: 'r-1', prompt: Int32Array.of(10, 11), sampling: asked }, never))
    expect(JSON.parse(server.requests[0]?.body ?? '')).toEqual({
      request_id: 'r-1',
      token_ids: [10, 11],
      stream: true,
      output_mode: 'text',
      sampling_params: { ...params, detokenize: true },
    })
  })

  test('on a server without a tokenizer asks for ids alone', async () => {
    const { driver, server } = await probed('generate', {
      'POST /tokenize': null,
      'POST /inference/v1/generate': 'generateTokens',
    })
    const out = await generate(driver)
    expect(out.last?.text).toBeNull()
    expect(JSON.parse(server.requests[0]?.body ?? '')).toMatchObject({ sampling_params: { detokenize: false } })
    expect(server.requests[0]?.body).not.toContain('output_mode')
  })

  test('spells out every default on the completions route', async () => {
    const { driver, server } = await probed('completions')
    await join(driver.generate({ requestId: 'r-1', prompt: [10, 11], sampling: asked }, never))
    expect(JSON.parse(server.requests[0]?.body ?? '')).toEqual({
      request_id: 'r-1',
      prompt: [10, 11],
      stream: true,
      return_token_ids: true,
      ...params,
    })
  })

  test('that ignores the end ignores its other tokens too, as on SGLang', async () => {
    const { driver, server } = await probed('generate')
    await generate(driver, { ignoreEos: true, stopTokenIds: [3] })
    expect(JSON.parse(server.requests[0]?.body ?? '')).toMatchObject({
      sampling_params: { ignore_eos: true, stop_token_ids: [] },
    })
  })

  test('takes text over the completions route, and refuses chat messages that nobody tokenized', async () => {
    const { driver, server } = await probed('generate')
    await join(driver.generate({ requestId: 'r-1', prompt: 'say "hi"', sampling }, never))
    expect(server.requests[0]?.line).toBe('POST /v1/completions')
    expect(JSON.parse(server.requests[0]?.body ?? '')).toMatchObject({ prompt: 'say "hi"' })
    expect(() =>
      driver.generate({ requestId: 'r-2', prompt: [{ role: 'user', content: 'hi' }], sampling }, never),
    ).toThrow(expect.objectContaining({ code: 'REQUEST_REJECTED', message: expect.stringContaining('tokenize()') }))
  })
})

describe('the control routes', () => {
  test.each([
    ['generate', 'POST /inference/v1/abort_requests'],
    ['completions', 'POST /abort_requests'],
  ] as const)('abort names every form of the id, over the %s route by %s (R4)', async (route, line) => {
    const { driver, server } = await probed(route)
    await driver.abort('r-9')
    expect(server.requests).toMatchObject([{ line, body: '{"request_ids":["generate-tokens-r-9","cmpl-r-9-0"]}' }])
  })

  test('load sums the ranks, and says when there is nothing to sum', async () => {
    const body = [
      '# TYPE vllm:num_requests_running gauge',
      'vllm:num_requests_running{engine="0",model_name="a}b 9"} 3.0',
      'vllm:num_requests_running{engine="1",model_name="p"} 4.0 1790000000',
      'vllm:num_requests_waiting{engine="0",model_name="p"} 1.0',
      'vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 1.0',
      'vllm:generation_tokens_total{engine="0",model_name="p"} 300.0',
      'vllm:generation_tokens_total{engine="1",model_name="p"} 400.0',
      '',
    ].join('\n')
    const { driver } = await replaying('generate', { 'GET /metrics': { body } })
    expect(await driver.load()).toEqual({ running: 7, waiting: 1, generatedTokens: 700 })
    const silent = await replaying('generate', { 'GET /metrics': { body: 'python_gc 1\n' } })
    expect(await refusal(silent.driver.load())).toMatchObject({
      code: 'WRONG_PROTOCOL',
      message: expect.stringContaining('--disable-log-stats'),
    })
    const busy = await replaying('generate', { 'GET /metrics': 'metricsBusy' })
    expect(await busy.driver.load()).toEqual({ running: 8, waiting: 2 })
  })

  test.each([
    ['abort', 'POST /pause?mode=abort'],
    ['keep', 'POST /pause?mode=keep'],
  ] as const)('is held in mode %s, and opened', async (mode, line) => {
    const { driver, server } = await replaying('generate')
    await driver.pause?.(mode)
    await driver.resume()
    expect(server.requests.map((each) => each.line)).toEqual([line, 'POST /resume'])
  })

  test('outside dev mode cannot be held, and so is open', async () => {
    const { driver } = await replaying('generate', { 'POST /pause?mode=abort': null, 'POST /resume': null })
    await driver.resume()
    expect(await refusal(driver.pause!('abort'))).toMatchObject({
      code: 'ENGINE_ERROR',
      message: expect.stringContaining('VLLM_SERVER_DEV_MODE=1'),
    })
  })

  test('a flush that the server refuses has failed; of frozen requests it takes the cache as well (R2, R3)', async () => {
    const { driver, server } = await replaying('generate', { 'POST /reset_prefix_cache': 'flushBusy' })
    expect(await refusal(driver.flush!(false))).toMatchObject({ code: 'BUSY' })
    await driver.flush?.(true)
    expect(server.requests.at(-1)?.line).toBe('POST /reset_prefix_cache?reset_running_requests=true')
  })

  test('goes to sleep with its weights kept, and wakes', async () => {
    const { driver, server } = await replaying('generate', {
      'POST /sleep?level=1&mode=abort': { status: 200, body: '{"status":"sleeping","level":1}' },
      'POST /wake_up': { status: 200, body: '{"status":"awake","tags":null}' },
    })
    await driver.release?.()
    expect(await driver.reclaim?.()).toEqual({ weightsKept: true })
    expect(server.requests.map(({ line }) => line)).toEqual(['POST /sleep?level=1&mode=abort', 'POST /wake_up'])
    const half = await replaying('generate', {
      'POST /wake_up': { status: 200, body: '{"status":"sleeping","tags":null}' },
    })
    expect(await refusal(half.driver.reclaim!())).toMatchObject({ code: 'ENGINE_ERROR' })
  })

  test('tokenize', async () => {
    const { driver, server } = await replaying('generate')
    expect(await driver.tokenize?.('hello')).toEqual([74, 71, 78, 78, 81])
    expect(server.requests.at(-1)?.body).toBe('{"prompt":"hello"}')
    await driver.tokenize?.([{ role: 'user', content: 'hi' }])
    expect(server.requests.at(-1)?.body).toBe('{"messages":[{"role":"user","content":"hi"}]}')
  })
})

describe('an update', () => {
  const steps = [
    'POST /reset_prefix_cache',
    'POST /update_weight_version',
    'POST /collective_rpc',
    'POST /reset_prefix_cache',
    'POST /update_weight_version',
    'GET /weight_info',
  ]

  test('loads, flushes, labels, and reads the label back', async () => {
    const { driver, server } = await replaying('generate')
    await driver.updateWeights({ version: 7, path: '/w/7', frozen: false })
    expect(server.requests.map(({ line }) => line)).toEqual(steps)
    expect(JSON.parse(server.requests[2]?.body ?? '')).toEqual({
      method: 'reload_weights',
      kwargs: { weights_path: '/w/7' },
    })
    expect(await driver.weightVersion()).toBe('7')
  })

  test('under frozen requests takes their cache as well (R3)', async () => {
    const { driver, server } = await replaying('generate', { 'POST /reset_prefix_cache': 'flushBusy' })
    await driver.updateWeights({ version: 7, path: '/w/7', frozen: true })
    const flushed = server.requests.filter(({ line }) => line.includes('reset_prefix_cache')).map(({ line }) => line)
    expect(flushed).toEqual(['POST /reset_prefix_cache?reset_running_requests=true'])
  })

  test.each([
    ['whose weights do not load', { 'POST /collective_rpc': 'updateBad' }, 'Repo id', 'unfinished-update-to-7'],
    ['outside dev mode', { 'POST /reset_prefix_cache': null }, 'VLLM_SERVER_DEV_MODE=1', 'default'],
    ['that cannot label', { 'POST /update_weight_version': { status: 500, body: 'no' } }, 'weight_version', 'default'],
  ])('%s fails and says so, and leaves no label that is wrong', async (_, changed, message, label) => {
    const { driver } = await replaying('generate', changed)
    expect(await refusal(driver.updateWeights({ version: 7, path: '/w/7', frozen: false }))).toMatchObject({
      code: 'ENGINE_ERROR',
      instance: 'a',
      message: expect.stringContaining(message),
    })
    expect(await driver.weightVersion()).toBe(label)
  })

  test('of a server that is not quiet changes nothing', async () => {
    const { driver, server } = await replaying('generate', { 'POST /reset_prefix_cache': 'flushBusy' })
    expect(await refusal(driver.updateWeights({ version: 7, path: '/w/7', frozen: false }))).toMatchObject({
      code: 'BUSY',
      message: expect.stringContaining('"success":false'),
    })
    expect(server.requests.map(({ line }) => line)).toEqual(steps.slice(0, 1))
  })

  test('cancelled in the middle loads nothing', async () => {
    const controller = new AbortController()
    const { driver, server } = await replaying('generate')
    const updating = refusal(driver.updateWeights({ version: 7, path: '/w/7', frozen: false }, controller.signal))
    controller.abort()
    expect(await updating).toMatchObject({ code: 'CANCELLED' })
    expect(server.requests.map(({ line }) => line)).not.toContain('POST /collective_rpc')
  })
})

test('nothing works after close', async () => {
  const { driver } = await replaying('generate')
  await driver.close()
  expect(await refusal(driver.load())).toMatchObject({ code: 'CLOSED' })
  expect((await generate(driver)).error).toMatchObject({ code: 'CLOSED' })
})
