// Drives a real vLLM through the package's own driver: node vllm-driver.mjs [--dist DIR] URL MODELS
// (./install vllm DIR && ./models DIR && ./start vllm DIR 8101; then npm run build). Everything is done twice: over the generate route,
// and over /v1/completions, through a front that refuses the generate route as a server without --enable-scale-out does.
// Prints every step and what came of it; exits with 1 at the first broken promise.
import assert from 'node:assert/strict'
import http from 'node:http'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'

const { values, positionals } = parseArgs({
  options: { dist: { type: 'string', default: new URL('../../../dist', import.meta.url).pathname } },
  allowPositionals: true,
})
const load = (path) => import(pathToFileURL(`${values.dist}/src/${path}`).href)
const { engineFactory } = await load('engines/index.js')
const { realClock } = await load('clock.js')
const [url = 'http://127.0.0.1:8101', models = '/tmp/engines/models'] = positionals

const defaults = {
  maxTokens: 32,
  minTokens: 0,
  temperature: 1,
  topP: 1,
  topK: -1,
  minP: 0,
  stop: [],
  stopTokenIds: [],
  ignoreEos: true,
  seed: null,
}
const prompt = [10, 11, 12]
let serial = Date.now()
let version = Number(/\d+$/.exec((await (await fetch(`${url}/weight_info`)).json()).weight_version)?.[0] ?? 0)
let driver

async function step(name, action) {
  const from = performance.now()
  const found = await action()
  console.log(`${name}  (${Math.round(performance.now() - from)} ms)\n  ${JSON.stringify(found)}`)
  return found
}

/** One generation, joined; `onChunk` may act on it while it runs. */
async function generate(
  sampling = {},
  { input = prompt, signal = new AbortController().signal, requestId = `e2e-${serial++}`, onChunk } = {},
) {
  const out = { tokens: [], logprobs: [], text: '', chunks: 0, finishReason: null, versions: null }
  for await (const chunk of driver.generate(
    { requestId, prompt: input, sampling: { ...defaults, ...sampling } },
    signal,
  )) {
    out.tokens.push(...chunk.tokenIds)
    out.logprobs.push(...chunk.logprobs)
    out.text += chunk.text ?? ''
    out.chunks++
    out.finishReason = chunk.finishReason
    out.versions = chunk.versions
    await onChunk?.(out, requestId)
  }
  assert.equal(out.tokens.length, out.logprobs.length, 'as many log-probabilities as tokens')
  if (out.versions !== null) assert.equal(out.versions.at(-1)?.end ?? 0, out.tokens.length, 'spans cover the tokens')
  return out
}

const summary = ({ tokens, chunks, finishReason, versions, text }) => ({
  tokens: tokens.length,
  chunks,
  finishReason,
  versions,
  text: text.slice(0, 24),
})

/** A request that is not the driver's. */
async function post(path, body) {
  const headers = { 'content-type': 'application/json' }
  const response = await fetch(url + path, { method: 'POST', headers, body: JSON.stringify(body) })
  return response.json()
}

async function codeOf(promise) {
  const error = await promise.then(
    (value) => assert.fail(`expected an error, found ${JSON.stringify(value)}`),
    (e) => e,
  )
  return { code: error.code, message: error.message }
}

/** Waits until the server's gauges say so. */
async function loadOf(sequences) {
  const from = performance.now()
  for (;;) {
    const { running, waiting } = await driver.load()
    if (running + waiting === sequences) return { running, waiting, afterMs: Math.round(performance.now() - from) }
    assert.ok(performance.now() - from < 30_000, `load becomes ${sequences}, is ${running} + ${waiting}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

async function drive(base, spans) {
  driver = engineFactory('vllm')({ id: 'real', url: base, apiKey: undefined, clock: realClock })
  const probe = await step('probe', () => driver.probe())
  assert.equal(probe.engine, 'vllm')
  assert.ok(probe.capacity === 8 && probe.vocabularySize === 320 && probe.contextLength === 2048)
  assert.equal(probe.capabilities.versions, spans ? 'spans' : 'label')
  assert.equal(probe.capabilities.logprobs, 'raw')
  await step('load', () => driver.load())
  await step('tokenize', () => driver.tokenize('hello'))
  await step('tokenize chat', () => driver.tokenize([{ role: 'user', content: 'hello' }]))

  await step('generate 32 tokens', async () => {
    const out = await generate()
    assert.equal(out.tokens.length, 32)
    assert.equal(out.finishReason, 'length')
    assert.equal(out.versions !== null, spans)
    return summary(out)
  })
  await step('greedy twice is the same, whatever the prompt is given as, and equals what is not streamed', async () => {
    const one = await generate({ temperature: 0, maxTokens: 16 })
    const two = await generate({ temperature: 0, maxTokens: 16 }, { input: Int32Array.from(prompt) })
    assert.deepEqual(two.tokens, one.tokens)
    const whole = await post('/v1/completions', {
      prompt,
      max_tokens: 16,
      temperature: 0,
      ignore_eos: true,
      logprobs: 0,
      return_token_ids: true,
      skip_special_tokens: false,
    })
    const [choice] = whole.choices
    assert.deepEqual(
      one.tokens,
      choice.token_ids,
      'deltas of tokens join to the tokens of an answer that is not streamed',
    )
    assert.equal(one.text, choice.text, 'deltas of text join to its text')
    for (const [i, value] of one.logprobs.entries()) {
      assert.ok(Math.abs(value - choice.logprobs.token_logprobs[i]) < 1e-4, 'log-probabilities')
    }
    return { tokens: one.tokens.slice(0, 8), logprobs: one.logprobs.slice(0, 3) }
  })
  await step('cut in the middle and resumed from its tokens, greedy is as if it had not been', async () => {
    const whole = await generate({ temperature: 0, maxTokens: 16 })
    const first = await generate({ temperature: 0, maxTokens: 7 })
    const rest = await generate({ temperature: 0, maxTokens: 9 }, { input: [...prompt, ...first.tokens] })
    assert.deepEqual([...first.tokens, ...rest.tokens], whole.tokens)
    return { tokens: whole.tokens.length }
  })
  await step('log-probabilities are of the distribution before temperature', async () => {
    const hot = await generate({ temperature: 0.4, topK: 1, maxTokens: 8 })
    const plain = await generate({ temperature: 0, maxTokens: 8 })
    assert.deepEqual(hot.tokens, plain.tokens)
    for (const [i, value] of hot.logprobs.entries()) assert.ok(Math.abs(value - plain.logprobs[i]) < 1e-4)
    return { logprobs: hot.logprobs.slice(0, 3) }
  })
  await step('stop id', async () => {
    const stopTokenIds = Array.from({ length: 160 }, (_, i) => i + 160)
    const out = await generate({ ignoreEos: false, stopTokenIds, maxTokens: 200 })
    assert.equal(out.finishReason, 'stop')
    assert.ok(stopTokenIds.includes(out.tokens.at(-1)))
    return summary(out)
  })
  await step('stop text', async () => {
    const out = await generate({ stop: ['a', 'e', 'i', '1'], maxTokens: 400 })
    assert.equal(out.finishReason, 'stop')
    assert.match(out.text, /[aei1]$/)
    return summary(out)
  })
  await step('text as prompt', async () => summary(await generate({ maxTokens: 4 }, { input: 'hello' })))
  await step('8 at once', async () => {
    const all = await Promise.all(Array.from({ length: 8 }, () => generate({ maxTokens: 50 })))
    for (const out of all) assert.equal(out.tokens.length, 50)
    return { tokens: all.reduce((sum, out) => sum + out.tokens.length, 0), chunks: all.map((out) => out.chunks) }
  })
  await step('abort by id, seen in the gauges (R4)', async () => {
    const requestId = `e2e-${serial++}`
    const ending = generate({ maxTokens: 1900 }, { requestId })
    const busy = await loadOf(1)
    await post('/abort_requests', { request_ids: [requestId] })
    await new Promise((resolve) => setTimeout(resolve, 200))
    const { running } = await driver.load()
    assert.equal(running, 1, 'the id as it was sent ends nothing')
    await driver.abort(requestId)
    const out = await ending
    assert.equal(out.finishReason, 'abort')
    assert.ok(out.tokens.length > 0 && out.tokens.length < 1900)
    return { ...summary(out), busy, quiet: await loadOf(0) }
  })
  await step('abort of a request that waits for a slot', async () => {
    const ids = Array.from({ length: 9 }, () => `e2e-${serial++}`)
    const all = ids.map((requestId) => generate({ maxTokens: 1500 }, { requestId }))
    const busy = await loadOf(9)
    await driver.abort(ids[8])
    const out = await all[8]
    assert.equal(out.finishReason, 'abort')
    for (const id of ids) await driver.abort(id)
    await Promise.all(all)
    return { ...summary(out), busy, quiet: await loadOf(0) }
  })
  await step('abort of an unknown id', () => driver.abort('nobody').then(() => 'no error'))
  await step('abort by signal closes the socket', async () => {
    const controller = new AbortController()
    const failed = codeOf(generate({ maxTokens: 1900 }, { signal: controller.signal }))
    const busy = await loadOf(1)
    controller.abort()
    const error = await failed
    assert.equal(error.code, 'CANCELLED')
    return { ...error, busy, quiet: await loadOf(0) }
  })
  for (const [name, sampling, input] of [
    ['negative length', { maxTokens: -4, minTokens: -4 }, prompt],
    ['prompt too long', {}, Array(5000).fill(5)],
    ['empty prompt', {}, []],
    ['id outside the vocabulary (R8)', {}, [10, 99_999]],
  ]) {
    await step(`refused: ${name}`, async () => {
      const error = await codeOf(generate(sampling, { input }))
      assert.equal(error.code, 'REQUEST_REJECTED')
      return error
    })
  }

  await step('update to A, whatever it had', () => driver.updateWeights({ version: ++version, path: `${models}/A` }))
  const before = await generate({ temperature: 0, maxTokens: 12 })
  const up = ++version
  await step(`update A -> B, version ${up}`, async () => {
    await driver.updateWeights({ version: up, path: `${models}/B` })
    assert.equal(await driver.weightVersion(), String(up))
    return { version: up, paused: (await driver.probe()).paused }
  })
  await step('new tokens are of the new weights, also after a prompt that was cached', async () => {
    const after = await generate({ temperature: 0, maxTokens: 12 })
    assert.notDeepEqual(after.tokens, before.tokens)
    if (spans) assert.deepEqual(after.versions, [{ version: String(up), start: 0, end: 12 }])
    return summary(after)
  })
  await step('an update while requests run changes nothing', async () => {
    const requestId = `e2e-${serial++}`
    const ending = generate({ maxTokens: 1900 }, { requestId })
    await loadOf(1)
    const error = await codeOf(driver.updateWeights({ version: up + 1, path: `${models}/A` }))
    assert.equal(error.code, 'BUSY')
    assert.equal(await driver.weightVersion(), String(up))
    await driver.abort(requestId)
    return { ...error, ...summary(await ending) }
  })
  await step('frozen, updated by others, and on: the seam is where they changed', async () => {
    const requestId = `e2e-${serial++}`
    let frozen = false
    const out = await generate(
      { maxTokens: 1000 },
      {
        requestId,
        async onChunk({ tokens }) {
          if (frozen || tokens.length < 10) return
          frozen = true
          await post('/pause?mode=keep', {})
          await post('/update_weight_version', { new_version: '77' })
          await post('/reset_prefix_cache?reset_running_requests=true', {})
          await post('/resume', {})
        },
      },
    )
    assert.equal(out.tokens.length, 1000)
    if (spans)
      assert.deepEqual(
        out.versions.map((span) => span.version),
        [String(up), '77'],
      )
    await post('/update_weight_version', { new_version: String(up) })
    return summary(out)
  })
  version = up + 1
  await step('update from nowhere fails, and no version is claimed for what is left', async () => {
    const error = await codeOf(driver.updateWeights({ version, path: '/nope', frozen: false }))
    assert.equal(error.code, 'ENGINE_ERROR')
    const label = await driver.weightVersion()
    assert.match(label, /^unfinished/)
    const { paused, advice } = await driver.probe()
    assert.equal(paused, false)
    return { ...error, label, advice: advice.at(-1) }
  })
  await step(`update B -> A, version ${version}, heals it`, async () => {
    await driver.updateWeights({ version, path: `${models}/A` })
    const healed = await generate({ temperature: 0, maxTokens: 12 })
    assert.deepEqual(healed.tokens, before.tokens, 'the tokens of A')
    return { label: await driver.weightVersion(), ...summary(healed) }
  })
  await step('a paused server is seen and resumed', async () => {
    await post('/pause?mode=wait', {})
    const paused = (await driver.probe()).paused
    await driver.resume()
    assert.deepEqual([paused, (await driver.probe()).paused], [true, false])
    return { paused }
  })
  await driver.close()
  assert.equal((await codeOf(driver.load())).code, 'CLOSED')
}

/** What a server without --enable-scale-out is to its clients. */
function withoutScaleOut() {
  const { hostname, port } = new URL(url)
  const front = http.createServer((request, response) => {
    if (request.url.startsWith('/inference/')) {
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
      response.writeHead(answer.statusCode, answer.headers)
      answer.pipe(response)
    })
    behind.on('error', () => response.destroy())
    response.on('close', () => behind.destroy())
    request.pipe(behind)
  })
  return new Promise((resolve) => front.listen(0, '127.0.0.1', () => resolve(front)))
}

console.log('# over /inference/v1/generate')
await drive(url, true)
console.log('# over /v1/completions')
const front = await withoutScaleOut()
await drive(`http://127.0.0.1:${front.address().port}`, false)
front.close()
front.closeAllConnections()
console.log('all kept')
