// Records what a real SGLang answers, for the unit tests to replay: node record-sglang.mjs URL NAME [case ...]
// Writes test/engines/fixtures/sglang-NAME.json. NAME says how the server was started (README.md). Plain node:http, no driver code:
// a recording must not depend on what it is to test.
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import { fileURLToPath } from 'node:url'

const [url, name, ...only] = process.argv.slice(2)
const file = fileURLToPath(new URL(`../../engines/fixtures/sglang-${name}.json`, import.meta.url))
const recorded = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : {}

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
function generate(sampling, { prompt = [10, 11, 12], onData, rid = `record-${serial++}` } = {}) {
  const sampling_params = {
    temperature: 1,
    ignore_eos: true,
    skip_special_tokens: false,
    no_stop_trim: true,
    ...sampling,
  }
  return send(
    'POST',
    '/generate',
    { rid, input_ids: prompt, stream: true, return_logprob: true, sampling_params },
    onData,
  )
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

const post = (path, body = {}) => send('POST', path, body)
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

/** A running generation, aborted after `act` was done with it. */
async function aborted(act) {
  const rid = `record-${serial++}`
  return generate({ max_new_tokens: 400, stream_interval: 16 }, { rid, onData: once(() => act(rid)) })
}

const cases = {
  serverInfo: async () => {
    const answer = await send('GET', '/server_info')
    const all = JSON.parse(answer.body)
    const keys = [
      'model_path',
      'context_length',
      'max_running_requests',
      'max_queued_requests',
      'dp_size',
      'tp_size',
      'stream_interval',
      'weight_version',
    ]
    keys.push(
      'incremental_streaming_output',
      'enable_deterministic_inference',
      'status',
      'max_total_num_tokens',
      'max_req_input_len',
      'version',
      'launch_command',
    )
    const small = Object.fromEntries(keys.map((key) => [key, all[key]]))
    small.internal_states = all.internal_states.map((s) => ({
      effective_max_running_requests_per_dp: s.effective_max_running_requests_per_dp,
    }))
    return { ...answer, body: JSON.stringify(small) }
  },
  modelInfo: async () => {
    const answer = await send('GET', '/model_info')
    const { embedding, ...small } = JSON.parse(answer.body)
    return { ...answer, body: JSON.stringify(small) }
  },
  loads: () => send('GET', '/v1/loads?include=core'),
  models: () => send('GET', '/v1/models'),
  ready: () => send('GET', '/ready'),
  notFound: () => send('GET', '/nope'),
  vocabulary: () =>
    post('/v1/completions', {
      prompt: [1],
      max_tokens: 1,
      logit_bias: { 2147483647: 0 },
      json_schema: '{}',
      regex: '.',
    }),
  tokenize: () => post('/tokenize', { prompt: 'hello' }),
  tokenizeChat: () => post('/tokenize', { messages: [{ role: 'user', content: 'hi' }] }),
  generate: () => generate({ max_new_tokens: 10, stream_interval: 4 }),
  generateEveryToken: () => generate({ max_new_tokens: 6 }),
  stopId: () =>
    generate({
      max_new_tokens: 400,
      ignore_eos: false,
      stop_token_ids: [...Array(100).keys()].map((i) => i + 100),
      stream_interval: 4,
    }),
  stopString: () => generate({ max_new_tokens: 400, stop: ['a', 'e', '4', '6', '<pad>'], stream_interval: 4 }),
  badSampling: () => generate({ max_new_tokens: -2 }),
  unknownSampling: () => generate({ max_new_tokens: 2, foo: 1 }),
  tooLong: () => generate({ max_new_tokens: 2 }, { prompt: Array(5000).fill(5) }),
  emptyPrompt: () => generate({ max_new_tokens: 2 }, { prompt: [] }),
  abortRunning: () => aborted((rid) => post('/abort_request', { rid })),
  abortUnknown: () => post('/abort_request', { rid: 'nobody' }),
  abortRetracted: () =>
    aborted(async (rid) => {
      await post('/pause_generation', { mode: 'retract' })
      await post('/abort_request', { rid })
      await pause(300)
      await post('/continue_generation')
    }),
  abortQueued: async () => {
    const rids = Array.from({ length: 10 }, () => `record-${serial++}`)
    const streams = rids.map((rid) => generate({ max_new_tokens: 2000, stream_interval: 64 }, { rid }))
    await pause(400)
    await post('/abort_request', { rid: rids[9] })
    const last = await streams[9]
    for (const rid of rids) await post('/abort_request', { rid })
    await Promise.all(streams)
    return last
  },
  queueFull: async () => {
    const rids = Array.from({ length: 4 }, () => `record-${serial++}`)
    const streams = []
    for (const rid of rids) {
      streams.push(generate({ max_new_tokens: 2000, stream_interval: 64 }, { rid }))
      await pause(150)
    }
    for (const rid of rids) await post('/abort_request', { rid })
    return (await Promise.all(streams)).find((s) => s.body.includes('"status_code":503'))
  },
  pausedReady: async () => {
    await post('/pause_generation', { mode: 'retract' })
    const answer = await send('GET', '/ready')
    await post('/continue_generation')
    return answer
  },
  pause: () => post('/pause_generation', { mode: 'retract' }),
  resume: () => post('/continue_generation'),
  flush: () => post('/flush_cache'),
  updateBad: () =>
    post('/update_weights_from_disk', {
      model_path: '/nope',
      weight_version: '9',
      flush_cache: true,
      abort_all_requests: false,
    }),
  update: () =>
    post('/update_weights_from_disk', {
      model_path: process.env.MODEL_B ?? '/tmp/engines/models/B',
      weight_version: '7',
      flush_cache: true,
      abort_all_requests: false,
    }),
  modelInfoAfterUpdate: () => cases.modelInfo(),
  generateAfterUpdate: () => generate({ max_new_tokens: 4 }),
  /** Frozen in the middle, new weights, then on: two spans. */
  keptOverUpdate: () =>
    aborted(async (rid) => {
      await post('/pause_generation', { mode: 'retract' })
      await post('/update_weights_from_disk', {
        model_path: process.env.MODEL_A ?? '/tmp/engines/models/A',
        weight_version: '8',
        flush_cache: true,
        abort_all_requests: false,
      })
      await post('/continue_generation')
      await pause(150)
      await post('/abort_request', { rid })
    }),
}

for (const each of only.length > 0 ? only : Object.keys(cases).filter((c) => c !== 'queueFull')) {
  recorded[each] = await cases[each]()
  console.log(
    each,
    recorded[each]?.status,
    recorded[each]?.body.length,
    JSON.stringify(recorded[each]?.body.slice(-160)),
  )
}
writeFileSync(file, `${JSON.stringify(recorded, null, 2)}\n`)
