/**
 * The SGLang driver against what a real server said, in both forms of its streams, and against what it said when things went wrong.
 */
import { describe, expect, test } from 'vitest'
import type { EngineDriver } from '../../src/engines/driver.ts'
import { join, never, recorded, refusal, sampling } from './fake-server.ts'
import { forms, recordedOr, replaying } from './replay-sglang.ts'

const generate = (driver: EngineDriver, more = {}) =>
  join(driver.generate({ requestId: 'r-1', prompt: [10, 11, 12], sampling: { ...sampling, ...more } }, never))

/** Ids, log-probabilities and text of a recorded stream, read the slow way. */
function truth(form: (typeof forms)[number], name: string) {
  const metas = recorded(`sglang-${form}`)(name)
    .body.split('\n\n')
    .filter((each) => each.startsWith('data: {'))
    .map((each) => JSON.parse(each.slice(6)))
  const triples: [number, number][] =
    form === 'cumulative'
      ? metas.at(-1).meta_info.output_token_logprobs
      : metas.flatMap((each) => each.meta_info.output_token_logprobs)
  const text: string = form === 'cumulative' ? metas.at(-1).text : metas.map((each) => each.text).join('')
  return {
    tokenIds: triples.map(([, id]) => id),
    logprobs: triples.map(([value]) => value),
    text,
    versions: metas.at(-1).meta_info.weight_versions,
  }
}

describe.each(forms)('against what a real server said, %s', (form) => {
  test.each([
    ['generate', 'length'],
    ['generateEveryToken', 'length'],
    ['stopId', 'stop'],
    ['stopString', 'stop'],
    ['abortRunning', 'abort'],
    ['keptOverUpdate', 'abort'],
    ['generateAfterUpdate', 'length'],
  ])('%s yields every token once, with its log-probability and version (I8)', async (name, finishReason) => {
    const { driver } = await replaying(form, { 'POST /generate': name })
    const out = await generate(driver)
    const expected = truth(form, name)
    expect(out.error).toBeNull()
    expect(out.last?.finishReason).toBe(finishReason)
    expect({ tokenIds: out.tokenIds, logprobs: out.logprobs, text: out.text, versions: out.last?.versions }).toEqual(
      expected,
    )
    expect(out.last?.versions?.at(-1)?.end).toBe(out.tokenIds.length)
  })

  test('an abort of a retracted request takes nothing back and repeats nothing (F12)', async () => {
    const { driver } = await replaying(form, { 'POST /generate': 'abortRetracted' })
    const out = await generate(driver)
    const last = JSON.parse(
      recordedOr(recorded(`sglang-${form}`), 'abortRetracted')
        .body.split('\n\n')
        .filter((e) => e.startsWith('data: {'))
        .at(-1)
        ?.slice(6) ?? '',
    )
    expect(out.tokenIds).toEqual(last.meta_info.output_token_logprobs.map((triple: unknown[]) => triple[1]))
    expect(out.text).toBe(last.text)
    expect(out.last?.finishReason).toBe('abort')
  })

  test.each([['badSampling'], ['tooLong'], ['emptyPrompt'], ['unknownSampling']])(
    '%s is REQUEST_REJECTED, with what the server said',
    async (name) => {
      const { driver } = await replaying(form, { 'POST /generate': recordedOr(recorded(`sglang-${form}`), name) })
      const { error } = await generate(driver)
      expect(error).toMatchObject({ code: 'REQUEST_REJECTED', status: 400, instance: 'a' })
      expect(error?.message).toMatch(/max_new_tokens|longer|empty|unknown field/)
    },
  )

  test('its probe says all there is to know', async () => {
    const { driver } = await replaying(form)
    expect(await driver.probe()).toMatchObject({
      engine: 'sglang',
      engineVersion: '0.5.23',
      capacity: form === 'cumulative' ? 8 : 2,
      vocabularySize: 320,
      contextLength: 4096,
      paused: false,
      capabilities: {
        tokenIds: true,
        logprobs: 'sampled',
        abortById: true,
        versions: 'spans',
        updateWeights: true,
        loadReport: true,
        pause: ['abort', 'keep'],
        release: false,
      },
    })
  })
})

test('a full queue, said inside a 200 stream, is BUSY', async () => {
  const { driver } = await replaying('deltas', { 'POST /generate': 'queueFull' })
  expect((await generate(driver)).error).toMatchObject({ code: 'BUSY', status: 503, retryable: true })
})

test('an abort in the queue is an interruption without tokens (F12)', async () => {
  const { driver } = await replaying('cumulative', { 'POST /generate': 'abortQueued' })
  expect(await generate(driver)).toMatchObject({ error: null, tokenIds: [], last: { finishReason: 'abort' } })
})

describe('a request', () => {
  test('spells out every default, and asks a cumulative server for a bounded number of events', async () => {
    const { driver, server } = await replaying('cumulative')
    await join(
      driver.generate(
        {
          requestId: 'r-1',
          prompt: Int32Array.of(10, 11),
          sampling: { ...sampling, maxTokens: 6400, stop: ['x'], stopTokenIds: [2], seed: 77 },
        },
        never,
      ),
    )
    expect(JSON.parse(server.requests[0]?.body ?? '')).toEqual({
      rid: 'r-1',
      input_ids: [10, 11],
      stream: true,
      return_logprob: true,
      logprob_start_len: -1,
      top_logprobs_num: 0,
      sampling_params: {
        n: 1,
        max_new_tokens: 6400,
        min_new_tokens: 0,
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
        no_stop_trim: true,
        sampling_seed: 77,
        stream_interval: 100,
      },
    })
  })

  test('to a server that sends deltas leaves the interval to it', async () => {
    const { driver, server } = await replaying('deltas')
    await driver.probe()
    await generate(driver)
    expect(server.requests.at(-1)?.body).not.toContain('stream_interval')
  })

  test('takes text as text, and refuses chat messages that nobody tokenized', async () => {
    const { driver, server } = await replaying('cumulative')
    await join(driver.generate({ requestId: 'r-1', prompt: 'say "hi"', sampling }, never))
    expect(JSON.parse(server.requests[0]?.body ?? '')).toMatchObject({ text: 'say "hi"' })
    expect(() =>
      driver.generate({ requestId: 'r-2', prompt: [{ role: 'user', content: 'hi' }], sampling }, never),
    ).toThrow(expect.objectContaining({ code: 'REQUEST_REJECTED', message: expect.stringContaining('tokenize()') }))
  })
})

describe('the control routes', () => {
  test('abort names the request, and an unknown one is no error', async () => {
    const { driver, server } = await replaying('cumulative')
    await driver.abort('r-9')
    expect(server.requests).toMatchObject([{ line: 'POST /abort_request', body: '{"rid":"r-9"}' }])
  })

  test('load sums the ranks', async () => {
    const loads = {
      body: '{"loads":[{"num_running_reqs":3,"num_waiting_reqs":1},{"num_running_reqs":4,"num_waiting_reqs":0}]}',
    }
    const { driver } = await replaying('cumulative', { 'GET /v1/loads?include=core': loads })
    expect(await driver.load()).toEqual({ running: 7, waiting: 1 })
    const counted = [
      { num_running_reqs: 1, decode_moments: [10, 11, 12, 13, 14, 600] },
      { num_running_reqs: 0, decode_moments: null },
    ]
    const ranks = await replaying('cumulative', {
      'GET /v1/loads?include=core': { body: JSON.stringify({ loads: counted }) },
    })
    expect(await ranks.driver.load()).toEqual({ running: 1, waiting: 0, generatedTokens: 600 })
  })

  test.each([
    ['abort', '{"mode":"abort"}'],
    ['keep', '{"mode":"retract"}'],
  ] as const)('is held in mode %s, and opened', async (mode, body) => {
    const { driver, server } = await replaying('cumulative')
    await driver.pause?.(mode)
    await driver.resume()
    expect(server.requests).toMatchObject([
      { line: 'POST /pause_generation', body },
      { line: 'POST /continue_generation', body: '{}' },
    ])
  })

  test('a release that cannot be held is open', async () => {
    const { driver } = await replaying('cumulative', { 'POST /continue_generation': null })
    await driver.resume()
    const failing = await replaying('cumulative', { 'POST /continue_generation': { status: 500, body: 'no' } })
    expect(await refusal(failing.driver.resume())).toMatchObject({ code: 'ENGINE_ERROR' })
  })

  test('a flush that the server refuses, or has no route for, has failed (R2)', async () => {
    for (const frozen of [false, true]) {
      const { driver, server } = await replaying('cumulative')
      await driver.flush?.(frozen)
      expect(server.requests.map(({ line }) => line)).toEqual(['POST /flush_cache'])
    }
    const busy = { status: 400, body: 'Timed out waiting for idle state.' }
    const full = await replaying('cumulative', { 'POST /flush_cache': busy, 'POST /flush_cache?timeout=5': busy })
    expect(await refusal(full.driver.flush!(false))).toMatchObject({ code: 'BUSY' })
    const without = await replaying('cumulative', { 'POST /flush_cache': null })
    expect(await refusal(without.driver.flush!(false))).toMatchObject({ code: 'INSTANCE_FAULT' })
  })

  test.each([true, false])(
    'gives its memory away when it is quiet; weights are there again with a backup: %s',
    async (backup) => {
      const { driver, server } = await replaying('cumulative', {
        'GET /server_info': { body: `{"enable_weights_cpu_backup":${backup}}` },
        'POST /release_memory_occupation': { status: 200, body: 'null' },
        'POST /resume_memory_occupation': { status: 200, body: 'null' },
      })
      // What was never given away is not taken back: that ends the server.
      expect(await driver.reclaim?.()).toEqual({ weightsKept: true })
      expect(server.requests.splice(0)).toMatchObject([{ line: 'GET /server_info' }])
      await driver.release?.()
      await driver.release?.()
      expect(await driver.reclaim?.()).toEqual({ weightsKept: backup })
      expect(server.requests.map(({ line }) => line)).toEqual([
        'POST /flush_cache',
        'GET /server_info',
        'POST /release_memory_occupation',
        'POST /flush_cache',
        'GET /server_info',
        'GET /server_info',
        'POST /resume_memory_occupation',
      ])
      const busy = { status: 400, body: 'Timed out waiting for idle state.' }
      const full = await replaying('cumulative', { 'POST /flush_cache': busy, 'POST /flush_cache?timeout=5': busy })
      expect(await refusal(full.driver.release!())).toMatchObject({ code: 'BUSY' })
      expect(full.server.requests.map(({ line }) => line)).not.toContain('POST /release_memory_occupation')
    },
  )

  test('memory that a server refused to give away is asked for again, and not taken back', async () => {
    const { driver, server } = await replaying('cumulative', {
      'GET /server_info': { body: '{}' },
      'POST /release_memory_occupation': { status: 404, body: 'Not Found' },
    })
    for (let time = 0; time < 2; time++)
      expect(await refusal(driver.release!())).toMatchObject({ code: 'INSTANCE_FAULT' })
    expect(await driver.reclaim?.()).toEqual({ weightsKept: true })
    const lines = server.requests.map(({ line }) => line)
    expect(lines.filter((line) => line === 'POST /release_memory_occupation')).toHaveLength(2)
    expect(lines).not.toContain('POST /resume_memory_occupation')
  })

  test('tokenize', async () => {
    const { driver, server } = await replaying('cumulative')
    expect(await driver.tokenize?.('hello')).toEqual([74, 71, 78, 78, 81])
    expect(server.requests.at(-1)?.body).toBe('{"prompt":"hello"}')
    await driver.tokenize?.([{ role: 'user', content: 'hi' }])
    expect(server.requests.at(-1)?.body).toBe('{"messages":[{"role":"user","content":"hi"}]}')
  })

  test('an update labels, flushes, and checks both', async () => {
    const { driver, server } = await replaying('cumulative', { 'GET /model_info': 'modelInfoAfterUpdate' })
    await driver.updateWeights({ version: 7, path: '/w/7', frozen: false })
    expect(server.requests.map(({ line }) => line)).toEqual([
      'POST /flush_cache',
      'POST /update_weights_from_disk',
      'POST /flush_cache',
      'GET /model_info',
    ])
    expect(JSON.parse(server.requests[1]?.body ?? '')).toEqual({
      model_path: '/w/7',
      weight_version: '7',
      flush_cache: true,
      abort_all_requests: false,
    })
  })

  test.each([
    ['that the server refused', { 'POST /update_weights_from_disk': 'updateBad' }, 'Failed to get weights iterator'],
    [
      'that was no success',
      { 'POST /update_weights_from_disk': { body: '{"success":false,"message":"half"}' } },
      'half',
    ],
    ['whose label did not change', { 'GET /model_info': { body: '{"weight_version":"6"}' } }, '"6"'],
  ])('an update %s fails and says so', async (_, changed, message) => {
    const { driver } = await replaying('cumulative', { 'GET /model_info': 'modelInfoAfterUpdate', ...changed })
    expect(await refusal(driver.updateWeights({ version: 7, path: '/w/7', frozen: false }))).toMatchObject({
      code: 'ENGINE_ERROR',
      instance: 'a',
      message: expect.stringContaining(message),
    })
  })

  test('an update of a server that is not quiet changes nothing', async () => {
    const busy = { status: 400, body: 'Timed out waiting for idle state.' }
    const { driver, server } = await replaying('cumulative', {
      'POST /flush_cache': busy,
      'POST /flush_cache?timeout=5': busy,
    })
    expect(await refusal(driver.updateWeights({ version: 7, path: '/w/7', frozen: false }))).toMatchObject({
      code: 'BUSY',
      message: expect.stringContaining('Timed out waiting'),
    })
    expect(server.requests.map(({ line }) => line)).toEqual(['POST /flush_cache', 'POST /flush_cache?timeout=5'])
  })

  test('an update waits for requests that are just ending', async () => {
    const { driver } = await replaying('cumulative', {
      'GET /model_info': 'modelInfoAfterUpdate',
      'POST /flush_cache': { status: 400 },
      'POST /flush_cache?timeout=5': 'flush',
    })
    await driver.updateWeights({ version: 7, path: '/w/7', frozen: false })
  })

  test('nothing works after close', async () => {
    const { driver } = await replaying('cumulative')
    await driver.close()
    expect(await refusal(driver.load())).toMatchObject({ code: 'CLOSED' })
    expect((await generate(driver)).error).toMatchObject({ code: 'CLOSED' })
  })
})
