// Drives a real SGLang through the package's own driver: node sglang-driver.mjs [--dist DIR] URL MODELS
// (./install sglang DIR && ./models DIR && ./start sglang DIR 8301, once more with --incremental-streaming-output; then npm run build).
// Prints every step and what came of it; exits with 1 at the first broken promise.
import assert from 'node:assert/strict'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'

const { values, positionals } = parseArgs({
  options: { dist: { type: 'string', default: new URL('../../../dist', import.meta.url).pathname } },
  allowPositionals: true,
})
const load = (path) => import(pathToFileURL(`${values.dist}/src/${path}`).href)
const { engineFactory } = await load('engines/index.js')
const { realClock } = await load('clock.js')
const [url = 'http://127.0.0.1:8301', models = '/tmp/engines/models'] = positionals

const driver = engineFactory('sglang')({ id: 'real', url, apiKey: undefined, clock: realClock })
const defaults = {
  maxTokens: 64,
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
  assert.equal(out.versions?.at(-1)?.end ?? 0, out.tokens.length, 'spans cover the tokens')
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
  return (await fetch(url + path, { method: 'POST', headers, body: JSON.stringify(body) })).json()
}

async function codeOf(promise) {
  const error = await promise.then(
    () => assert.fail('expected an error'),
    (e) => e,
  )
  return { code: error.code, message: error.message }
}

/** Waits until the server says so; its report lags up to a second and more. */
async function loadOf(sequences) {
  const from = performance.now()
  for (;;) {
    const { running, waiting } = await driver.load()
    if (running + waiting === sequences) return { running, waiting, afterMs: Math.round(performance.now() - from) }
    assert.ok(performance.now() - from < 20_000, `load becomes ${sequences}`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

const probe = await step('probe', () => driver.probe())
assert.equal(probe.engine, 'sglang')
assert.ok(probe.capacity > 0 && probe.vocabularySize === 320 && probe.contextLength === 4096)
await step('load', () => driver.load())
await step('tokenize', () => driver.tokenize('hello'))
await step('tokenize chat', () => driver.tokenize([{ role: 'user', content: 'hello' }]))

await step('generate 64 tokens', async () => {
  const out = await generate()
  assert.equal(out.tokens.length, 64)
  assert.equal(out.finishReason, 'length')
  return summary(out)
})
await step('greedy twice is the same, whatever the prompt is given as', async () => {
  const one = await generate({ temperature: 0, maxTokens: 32 })
  const two = await generate({ temperature: 0, maxTokens: 32 }, { input: Int32Array.from(prompt) })
  assert.deepEqual(two.tokens, one.tokens)
  const sampling_params = {
    max_new_tokens: 32,
    temperature: 0,
    ignore_eos: true,
    skip_special_tokens: false,
    no_stop_trim: true,
  }
  const whole = await post('/generate', { input_ids: prompt, sampling_params })
  assert.deepEqual(
    one.tokens,
    whole.output_ids,
    'deltas of tokens join to the tokens of an answer that is not streamed',
  )
  assert.equal(one.text, whole.text, 'deltas of text join to its text')
  return { tokens: one.tokens.slice(0, 8) }
})
await step('stop id', async () => {
  const stopTokenIds = Array.from({ length: 160 }, (_, i) => i + 160)
  const out = await generate({ ignoreEos: false, stopTokenIds, maxTokens: 400 })
  assert.equal(out.finishReason, 'stop')
  assert.ok(stopTokenIds.includes(out.tokens.at(-1)))
  return summary(out)
})
await step('no token at all', async () => summary(await generate({ maxTokens: 0 })))
await step(`${probe.capacity} at once`, async () => {
  const all = await Promise.all(Array.from({ length: probe.capacity }, () => generate({ maxTokens: 100 })))
  for (const out of all) assert.equal(out.tokens.length, 100)
  return { tokens: all.reduce((sum, out) => sum + out.tokens.length, 0), chunks: all.map((out) => out.chunks) }
})
await step('2000 tokens', async () => {
  const cpu = process.cpuUsage()
  const out = await generate({ maxTokens: 2000 })
  const { user, system } = process.cpuUsage(cpu)
  assert.equal(out.tokens.length, 2000)
  return { chunks: out.chunks, clientCpuMs: Math.round((user + system) / 1000) }
})
await step('abort by id, seen in the load', async () => {
  const requestId = `e2e-${serial++}`
  const ending = generate({ maxTokens: 4000 }, { requestId })
  const busy = await loadOf(1)
  await driver.abort(requestId)
  const out = await ending
  assert.equal(out.finishReason, 'abort')
  assert.ok(out.tokens.length > 0 && out.tokens.length < 4000)
  return { ...summary(out), busy, quiet: await loadOf(0) }
})
await step('abort of an unknown id', () => driver.abort('nobody').then(() => 'no error'))
await step('abort by signal closes the socket', async () => {
  const controller = new AbortController()
  const failed = codeOf(generate({ maxTokens: 4000 }, { signal: controller.signal }))
  const busy = await loadOf(1)
  controller.abort()
  const error = await failed
  assert.equal(error.code, 'CANCELLED')
  return { ...error, busy, quiet: await loadOf(0) }
})
await step('leaving the loop closes the socket', async () => {
  for await (const chunk of driver.generate(
    { requestId: `e2e-${serial++}`, prompt, sampling: { ...defaults, maxTokens: 3000 } },
    new AbortController().signal,
  )) {
    assert.ok(chunk)
    break
  }
  return { quiet: await loadOf(0) }
})
await step('refused: negative length', async () => codeOf(generate({ maxTokens: -4, minTokens: -4 })))
await step('refused: too long', async () => codeOf(generate({}, { input: Array(5000).fill(5) })))
await step('refused: empty prompt', async () => codeOf(generate({}, { input: [] })))

await step('update A -> B, version 7', async () => {
  await driver.updateWeights({ version: 7, path: `${models}/B` })
  const version = await driver.weightVersion()
  assert.equal(version, '7')
  return { version }
})
await step('new tokens carry 7', async () => {
  const out = await generate()
  assert.deepEqual(out.versions, [{ version: '7', start: 0, end: 64 }])
  return summary(out)
})
await step('an update while requests run changes nothing', async () => {
  const requestId = `e2e-${serial++}`
  const ending = generate({ maxTokens: 4000 }, { requestId })
  await loadOf(1)
  const error = await codeOf(driver.updateWeights({ version: 8, path: `${models}/A` }))
  assert.equal(error.code, 'BUSY')
  assert.equal(await driver.weightVersion(), '7')
  await driver.abort(requestId)
  return { ...error, ...summary(await ending) }
})
await step('update from nowhere fails and changes nothing', async () => {
  const error = await codeOf(driver.updateWeights({ version: 8, path: '/nope', frozen: false }))
  assert.equal(await driver.weightVersion(), '7')
  return error
})
await step('a paused server is seen and resumed', async () => {
  await post('/pause_generation', {})
  const before = (await driver.probe()).paused
  await driver.resume()
  const after = (await driver.probe()).paused
  assert.deepEqual([before, after], [true, false])
  return { before, after }
})
await step('update B -> A, version 9', () =>
  driver.updateWeights({ version: 9, path: `${models}/A` }).then(() => driver.weightVersion()),
)
await driver.close()
assert.equal((await codeOf(driver.load())).code, 'CLOSED')
console.log('all kept')
