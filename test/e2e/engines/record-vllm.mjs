// Records what a real vLLM answers, for the unit tests to replay: node record-vllm.mjs URL NAME [case ...]
// Writes test/engines/fixtures/vllm-NAME.json. NAME says how the server was started (README.md). Plain node:http, no driver code:
// a recording must not depend on what it is to test. `updateBad` is last: the next generation after it kills the engine.
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import { fileURLToPath } from 'node:url'

const [url, name, ...only] = process.argv.slice(2)
const file = fileURLToPath(new URL(`../../engines/fixtures/vllm-${name}.json`, import.meta.url))
const recorded = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : {}
const models = process.env.MODELS ?? '/tmp/engines/models'

/** Sends one request; `onData` may act on what has arrived so far. */
function send(method, path, body, onData) {
  return new Promise((resolve, reject) => {
    const headers = body === undefined ? {} : { 'content-type': 'application/json' }
    const request = http.request(url + path, { method, headers, agent: false }, (response) => {
      let text = ''
      response.setEncoding('utf8')
      response.on('data', (part) => {
        text += part
        onData?.(text)
      })
      response.on('end', () =>
        resolve({
          method,
          path,
          status: response.statusCode,
          type: response.headers['content-type'] ?? null,
          body: text,
        }),
      )
      response.on('error', reject)
    })
    request.on('error', reject)
    request.end(body === undefined ? undefined : JSON.stringify(body))
  })
}

let serial = Date.now()
const ids = [10, 11, 12]
const GENERATE = '/inference/v1/generate'
const COMPLETIONS = '/v1/completions'
const get = (path) => send('GET', path)
const post = (path, body = {}, onData) => send('POST', path, body, onData)
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

function generate(sampling, { prompt = ids, onData, id = `record-${serial++}`, more = {} } = {}) {
  const sampling_params = {
    logprobs: 0,
    ignore_eos: true,
    skip_special_tokens: false,
    include_stop_str_in_output: true,
    ...sampling,
  }
  return post(
    GENERATE,
    { request_id: id, token_ids: prompt, stream: true, output_mode: 'text', ...more, sampling_params },
    onData,
  )
}

function complete(sampling, { prompt = ids, onData, id = `record-${serial++}` } = {}) {
  const body = {
    logprobs: 0,
    ignore_eos: true,
    skip_special_tokens: false,
    include_stop_str_in_output: true,
    ...sampling,
  }
  return post(COMPLETIONS, { request_id: id, prompt, stream: true, return_token_ids: true, ...body }, onData)
}

/** Acts once, when three events have come. */
function once(action) {
  let done = false
  return (text) => {
    if (done || text.split('\n\n').length < 4) return
    done = true
    action()
  }
}

/** A running generation, aborted after `act` was done with it. */
function aborted(start, act) {
  const id = `record-${serial++}`
  return start({ max_tokens: 400 }, { id, onData: once(() => act(id)) })
}

/** Of ten requests on eight slots, the last, aborted while it waits. */
async function abortedInQueue(start, idOf) {
  const names = Array.from({ length: 10 }, () => `record-${serial++}`)
  const streams = names.map((id) => start({ max_tokens: 1500 }, { id }))
  await pause(1500)
  await post('/abort_requests', { request_ids: [idOf(names[9])] })
  const last = await streams[9]
  await post('/abort_requests')
  await Promise.all(streams)
  return last
}

const gauges = ({ body }) =>
  body
    .split('\n')
    .filter((line) => /num_requests_(running|waiting)/.test(line))
    .join('\n')
const withGauges = async () => {
  const answer = await get('/metrics')
  return { ...answer, body: `${gauges(answer)}\n` }
}

const cases = {
  health: () => get('/health'),
  version: () => get('/version'),
  models: () => get('/v1/models'),
  weightInfo: () => get('/weight_info'),
  isPaused: () => get('/is_paused'),
  metrics: withGauges,
  serverInfo: async () => {
    const answer = await get('/server_info?config_format=json')
    const { model_config: model, scheduler_config, parallel_config: parallel } = JSON.parse(answer.body).vllm_config
    const { max_model_len, logprobs_mode, max_logprobs, skip_tokenizer_init, served_model_name } = model
    const model_config = { max_model_len, logprobs_mode, max_logprobs, skip_tokenizer_init, served_model_name }
    const parallel_config = { data_parallel_size: parallel.data_parallel_size }
    return { ...answer, body: JSON.stringify({ vllm_config: { model_config, scheduler_config, parallel_config } }) }
  },
  notFound: () => get('/nope'),
  askGenerate: () => post(GENERATE, { token_ids: [], output_mode: '?', sampling_params: {} }),
  vocabulary: () => post(COMPLETIONS, { prompt: [1], max_tokens: 1, logit_bias: { 2147483647: 0 } }),
  tokenize: () => post('/tokenize', { prompt: 'hello' }),
  tokenizeChat: () => post('/tokenize', { messages: [{ role: 'user', content: 'hi' }] }),
  tokenizeBad: () => post('/tokenize', { prompt: 3 }),
  generate: () => generate({ max_tokens: 10 }),
  generateTokens: () => generate({ max_tokens: 6 }, { more: { output_mode: 'tokens' } }),
  generateHot: () => generate({ max_tokens: 6, temperature: 2, seed: 7 }),
  generateGreedy: () => generate({ max_tokens: 6, temperature: 0 }),
  generateStopId: () => generate({ max_tokens: 400, stop_token_ids: [...Array(100).keys()].map((i) => i + 100) }),
  generateStopText: () => generate({ max_tokens: 400, stop: ['a', 'e', '4', '6'] }),
  generateUsage: () => generate({ max_tokens: 3 }, { more: { stream_options: { include_usage: true } } }),
  generateTooLong: () => generate({ max_tokens: 2 }, { prompt: Array(5000).fill(5) }),
  generateNegative: () => generate({ max_tokens: -2 }),
  generateUnknown: () => generate({ max_tokens: 2, foo: 1 }),
  generateEmpty: () => generate({ max_tokens: 2 }, { prompt: [] }),
  generateBadId: () => generate({ max_tokens: 2 }, { prompt: [10, 99999] }),
  generateAborted: () => aborted(generate, (id) => post('/abort_requests', { request_ids: [`generate-tokens-${id}`] })),
  generateQueued: () => abortedInQueue(generate, (id) => `generate-tokens-${id}`),
  complete: () => complete({ max_tokens: 10 }),
  completeText: () => complete({ max_tokens: 4 }, { prompt: 'hello' }),
  completeStopText: () => complete({ max_tokens: 400, stop: ['a', 'e', '4', '6'] }),
  completeTooLong: () => complete({ max_tokens: 2 }, { prompt: Array(5000).fill(5) }),
  completeTooMany: () => complete({ max_tokens: 3000 }),
  completeNegative: () => complete({ max_tokens: -2 }),
  completeEmpty: () => complete({ max_tokens: 2 }, { prompt: [] }),
  completeModel: () => post(COMPLETIONS, { model: 'nope', prompt: ids, max_tokens: 2 }),
  completeAborted: () => aborted(complete, (id) => post('/abort_requests', { request_ids: [`cmpl-${id}-0`] })),
  completeQueued: () => abortedInQueue(complete, (id) => `cmpl-${id}-0`),
  abortUnknown: () => post('/abort_requests', { request_ids: ['nobody'] }),
  abortUnknownScaleOut: () => post('/inference/v1/abort_requests', { request_ids: ['nobody'] }),
  abortNoBody: () => send('POST', '/abort_requests'),
  /** Ten on eight slots, gauges in between. */
  metricsBusy: async () => {
    const streams = Array.from({ length: 10 }, () => generate({ max_tokens: 1500 }))
    await pause(2000)
    const answer = await withGauges()
    await post('/abort_requests')
    await Promise.all(streams)
    return answer
  },
  pauseBad: () => post('/pause?mode=foo'),
  pause: () => post('/pause?mode=wait'),
  pausedIs: () => get('/is_paused'),
  /** A request that arrives while paused, and what the gauges say of it. */
  pausedMetrics: async () => {
    const id = `record-${serial++}`
    const held = generate({ max_tokens: 4 }, { id })
    await pause(700)
    const answer = await withGauges()
    await post('/abort_requests', { request_ids: [`generate-tokens-${id}`] })
    recorded.generateHeldAborted = await Promise.race([held, pause(1000).then(() => null)])
    return answer
  },
  pausedVocabulary: () => cases.vocabulary(),
  pausedFlush: () => post('/reset_prefix_cache'),
  resume: () => post('/resume'),
  resumeTwice: () => post('/resume'),
  flush: () => post('/reset_prefix_cache'),
  flushBusy: async () => {
    const id = `record-${serial++}`
    let answer = null
    await generate(
      { max_tokens: 400 },
      {
        id,
        onData: once(async () => {
          answer = await post('/reset_prefix_cache')
          await post('/abort_requests')
        }),
      },
    )
    return answer
  },
  pausedAbort: async () => {
    const last = await aborted(generate, () => post('/pause?mode=abort'))
    await post('/resume')
    return last
  },
  update: () => post('/collective_rpc', { method: 'reload_weights', kwargs: { weights_path: `${models}/B` } }),
  updateVersion: () => post('/update_weight_version', { new_version: '7' }),
  updateVersionBad: () => post('/update_weight_version', { new_version: 7 }),
  weightInfoAfterUpdate: () => get('/weight_info'),
  generateAfterUpdate: () => generate({ max_tokens: 4 }),
  /** Frozen in the middle, new weights, KV recomputed, then on: two spans. */
  keptOverUpdate: () =>
    aborted(generate, async (id) => {
      await post('/pause?mode=keep')
      await post('/collective_rpc', { method: 'reload_weights', kwargs: { weights_path: `${models}/A` } })
      recorded.flushKept = await post('/reset_prefix_cache?reset_running_requests=true')
      await post('/update_weight_version', { new_version: '8' })
      await post('/resume')
      await pause(200)
      await post('/abort_requests', { request_ids: [`generate-tokens-${id}`] })
    }),
  rpcUnknown: () => post('/collective_rpc', { method: 'nope' }),
  updateBad: () => post('/collective_rpc', { method: 'reload_weights', kwargs: { weights_path: '/nope' } }),
  updateAfterBad: () => post('/collective_rpc', { method: 'reload_weights', kwargs: { weights_path: `${models}/A` } }),
  generateAfterBad: () => generate({ max_tokens: 4 }),
  generateDead: () => generate({ max_tokens: 4 }),
}

for (const each of only.length > 0 ? only : Object.keys(cases)) {
  const from = performance.now()
  try {
    recorded[each] = await cases[each]()
    const answer = recorded[each]
    const ms = Math.round(performance.now() - from)
    console.log(each, ms, 'ms', answer?.status, answer?.body.length, JSON.stringify(answer?.body.slice(-260)))
  } catch (error) {
    console.log(each, String(error))
  }
  writeFileSync(file, `${JSON.stringify(recorded, null, 1)}\n`)
}
