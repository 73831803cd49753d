// Holds, updates, flushes and releases a real server through the package's own driver: node hold-driver.mjs sglang|vllm URL MODELS PYTHON
// (./install, ./models, ./start as for the other drivers; PYTHON is that of the engine's environment, which recomputes log-probabilities).
// Tokens are checked with the package's own fidelity checker against transformers. Exits with 1 at the first broken promise.
import assert from 'node:assert/strict'
import { pathToFileURL } from 'node:url'
import { completionOf, startScorer, told } from './hold-tools.mjs'

const dist = new URL('../../../dist', import.meta.url).pathname
const load = (path) => import(pathToFileURL(`${dist}/src/${path}`).href)
const { engineFactory } = await load('engines/index.js')
const { realClock } = await load('clock.js')
const { createFidelityChecker } = await load('testing/index.js')
const [engine = 'sglang', url = 'http://127.0.0.1:8301', models = '/tmp/engines/models', python] = process.argv.slice(2)
const isSglang = engine === 'sglang'
/** Tokens before something happens, and in all: a vLLM without a GPU on a busy machine was seen to make four a second. */
const [some, many] = isSglang ? [60, 400] : [15, 90]

const driver = engineFactory(engine)({ id: 'real', url, apiKey: undefined, clock: realClock })
const sampling = {
  maxTokens: 1500,
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
/** Which checkpoint each version is. */
const checkpoints = new Map([])
const scorer = startScorer(python ?? `/tmp/engines/${engine}/bin/python`)
const newChecker = () =>
  createFidelityChecker({
    score: (version, prompt, tokens) => scorer.score(`${models}/${checkpoints.get(version)}`, prompt, tokens),
  })
/** ONLY=release takes the steps whose names match, and what they need is theirs. */
const only = new RegExp(process.env.ONLY ?? '')
async function step(name, action) {
  if (!only.test(name)) return undefined
  const from = performance.now()
  const found = await action()
  console.log(`${name}  (${Math.round(performance.now() - from)} ms)\n  ${JSON.stringify(found ?? null)}`)
  return found
}

let serial = Date.now()
/** One generation that can be watched: `tokens` grow, `ended` resolves. */
function begin(prompt, maxTokens = sampling.maxTokens) {
  const requestId = `hold-${serial++}`
  const out = { requestId, prompt, tokens: [], logprobs: [], versions: null, finishReason: null, accepted: false }
  const onAccepted = () => {
    out.accepted = true
  }
  out.ended = (async () => {
    const request = { requestId, prompt, sampling: { ...sampling, maxTokens }, onAccepted }
    for await (const chunk of driver.generate(request, new AbortController().signal)) {
      out.tokens.push(...chunk.tokenIds)
      out.logprobs.push(...chunk.logprobs)
      out.versions = chunk.versions
      out.finishReason = chunk.finishReason
    }
    return out
  })().catch((error) => {
    out.error = error
    return out
  })
  return out
}
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
async function until(what, condition, ms = 120_000) {
  const giveUpAt = performance.now() + ms
  while (!(await condition())) {
    assert.ok(performance.now() < giveUpAt, `expected ${what} within ${ms} ms`)
    await sleep(10)
  }
}
async function fidelityOf(...outs) {
  const checker = newChecker()
  await checker.check(outs[0].prompt, completionOf(outs))
  return told(checker.report)
}
const shortPrompt = [10, 11, 12]
const longPrompt = Array.from({ length: 300 }, (_, index) => (index * 7) % 300)
let version = Number((await driver.weightVersion())?.match(/\d+/)?.[0] ?? 0)
async function update(checkpoint, frozen) {
  checkpoints.set(++version, checkpoint)
  await driver.updateWeights({ version, path: `${models}/${checkpoint}`, frozen })
  return version
}
const codeOf = (promise) =>
  promise.then(
    (value) => `no error: ${JSON.stringify(value ?? null)}`,
    ({ code, message }) => `${code}: ${message.slice(0, 220)}`,
  )
/** Loads weights as somebody would who forgets the caches. */
async function loadOnly(checkpoint) {
  checkpoints.set(++version, checkpoint)
  const post = async (path, body) => {
    const headers = { 'content-type': 'application/json' }
    return (await fetch(url + path, { method: 'POST', headers, body: JSON.stringify(body) })).text()
  }
  const path = `${models}/${checkpoint}`
  if (isSglang)
    return post('/update_weights_from_disk', { model_path: path, weight_version: String(version), flush_cache: false })
  await post('/collective_rpc', { method: 'reload_weights', kwargs: { weights_path: path } })
  return post('/update_weight_version', { new_version: String(version) })
}

try {
  const { capabilities, weightVersion, paused } = await driver.probe()
  assert.deepEqual(capabilities.pause, ['abort', 'keep'])
  await step('probe', () => Promise.resolve({ capabilities, weightVersion, paused }))
  await step('resume of a server that is not held, twice', async () => {
    await driver.resume()
    await driver.resume()
    return (await driver.probe()).paused
  })
  await step('update to A', () => update('A', false))

  await step('pause abort ends what runs; a new request waits at the server, and runs after resume', async () => {
    const running = [begin(shortPrompt), begin(longPrompt)]
    await until('tokens', () => running.every((out) => out.tokens.length > 5))
    const from = performance.now()
    await driver.pause('abort')
    const pausedMs = Math.round(performance.now() - from)
    const ended = await Promise.all(running.map((out) => out.ended))
    for (const out of ended) assert.equal(out.finishReason, 'abort')
    const held = begin(shortPrompt, 20)
    await sleep(1000)
    const found = {
      pausedMs,
      tokens: ended.map((out) => out.tokens.length),
      paused: (await driver.probe()).paused,
      load: await driver.load(),
      heldAccepted: held.accepted,
      heldTokens: held.tokens.length,
    }
    assert.equal(held.tokens.length, 0)
    await driver.resume()
    await held.ended
    assert.equal(held.tokens.length, 20)
    return { ...found, after: held.finishReason, fidelity: await fidelityOf(ended[1]) }
  })
  await step('a second pause abort over a request that is held', async () => {
    await driver.pause('abort')
    const held = begin(shortPrompt, 20)
    await sleep(300)
    await driver.pause('abort')
    await sleep(300)
    const endedWhileHeld = held.finishReason !== null || held.error !== undefined
    await driver.resume()
    await held.ended
    return { endedWhileHeld, finishReason: held.finishReason, tokens: held.tokens.length }
  })
  await step('abort of a request that is held', async () => {
    await driver.pause('abort')
    const held = begin(shortPrompt, 20)
    await sleep(300)
    await driver.abort(held.requestId)
    await sleep(300)
    const endedWhileHeld = held.finishReason !== null || held.error !== undefined
    await driver.resume()
    await held.ended
    return { endedWhileHeld, finishReason: held.finishReason, tokens: held.tokens.length, error: held.error?.code }
  })

  await step('what runs makes the counter of tokens move', async () => {
    const out = begin(shortPrompt, many)
    await until('tokens', () => out.tokens.length > some)
    const first = await driver.load()
    await sleep(500)
    const from = performance.now()
    const second = await driver.load()
    const loadMs = Math.round(performance.now() - from)
    await out.ended
    assert.ok(second.generatedTokens > first.generatedTokens)
    return { first, second, loadMs, after: await driver.load() }
  })

  await step('flush and update are refused while requests run', async () => {
    const out = begin(shortPrompt)
    await until('tokens', () => out.tokens.length > 5)
    const flush = await codeOf(driver.flush(false))
    const refused = await codeOf(driver.updateWeights({ version: version + 1, path: `${models}/B`, frozen: false }))
    assert.match(flush, /BUSY/)
    assert.match(refused, /BUSY/)
    assert.equal(await driver.weightVersion(), String(version))
    await driver.abort(out.requestId)
    await out.ended
    return { flush, refused, fidelity: await fidelityOf(out) }
  })

  await step('abort, update A -> B, continued with prompt and partial tokens: exact on both sides', async () => {
    const out = begin(longPrompt)
    await until('tokens', () => out.tokens.length > some)
    await driver.abort(out.requestId)
    await out.ended
    await driver.pause('abort')
    await update('B', false)
    await driver.resume()
    const rest = begin([...longPrompt, ...out.tokens], 100)
    await rest.ended
    const fidelity = await fidelityOf(out, rest)
    assert.ok(fidelity.exact)
    return fidelity
  })
  await step('keep, update B -> A frozen, resume: exact on both sides (R3)', async () => {
    const outs = [begin(longPrompt, many), begin(shortPrompt, many)]
    await until('tokens', () => outs.every((out) => out.tokens.length > some))
    const from = performance.now()
    await driver.pause('keep')
    const pausedMs = Math.round(performance.now() - from)
    await sleep(500)
    const still = outs.map((out) => out.tokens.length)
    await sleep(1000)
    assert.deepEqual(
      outs.map((out) => out.tokens.length),
      still,
    )
    const frozen = {
      load: await driver.load(),
      paused: (await driver.probe()).paused,
      flush: await codeOf(driver.flush(false)),
    }
    await update('A', true)
    await driver.resume()
    const ended = await Promise.all(outs.map((out) => out.ended))
    for (const out of ended) assert.equal(out.tokens.length, many)
    const fidelity = [await fidelityOf(ended[0]), await fidelityOf(ended[1])]
    for (const each of fidelity) assert.ok(each.exact && each.positions.seams.tokens === 1)
    return { pausedMs, still, frozen, versions: ended[0].versions, fidelity }
  })
  await step('an update that is not for frozen requests, over frozen ones', async () => {
    const out = begin(shortPrompt, many)
    await until('tokens', () => out.tokens.length > some / 3)
    await driver.pause('keep')
    checkpoints.set(version + 1, 'B')
    const answer = await codeOf(driver.updateWeights({ version: version + 1, path: `${models}/B`, frozen: false }))
    version = Number(await driver.weightVersion())
    await driver.resume()
    await out.ended
    return { answer, versions: out.versions, fidelity: await fidelityOf(out) }
  })
  await step('abort of one that is frozen, then pause abort over the others', async () => {
    const outs = [begin(shortPrompt), begin(longPrompt)]
    await until('tokens', () => outs.every((out) => out.tokens.length > some / 3))
    await driver.pause('keep')
    await driver.abort(outs[0].requestId)
    await sleep(500)
    const atOnce = outs[0].finishReason
    const from = performance.now()
    await driver.pause('abort')
    const pausedMs = Math.round(performance.now() - from)
    await sleep(200)
    const byPause = outs[1].finishReason
    await driver.resume()
    await Promise.all(outs.map((out) => out.ended))
    return { atOnce, pausedMs, byPause, after: outs.map((out) => out.finishReason), load: await driver.load() }
  })

  await step('keep, other weights, no flush: seen by the checker (R2, R3)', async () => {
    await update('A', false)
    const out = begin(longPrompt, many)
    await until('tokens', () => out.tokens.length > some)
    // As somebody would who takes the wrong mode: each of the two gives the KV back in the one that the driver takes.
    const headers = { 'content-type': 'application/json' }
    const pause = isSglang ? '/pause_generation' : '/pause?mode=keep&clear_cache=false'
    await fetch(url + pause, { method: 'POST', headers, body: '{"mode":"in_place"}' })
    const beforeLoad = isSglang ? 'not asked' : await codeOf(driver.flush(false))
    await loadOnly('B')
    await driver.resume()
    await out.ended
    const fidelity = await fidelityOf(out)
    assert.ok(!fidelity.exact)
    return { beforeLoad, versions: out.versions, fidelity }
  })
  await step('a cached prompt under other weights is seen by the checker, and flush() ends it (R2)', async () => {
    await update('A', false)
    await begin(longPrompt, 20).ended
    await loadOnly('B')
    const poisoned = begin(longPrompt, 50)
    await poisoned.ended
    const before = await fidelityOf(poisoned)
    await driver.flush(false)
    const clean = begin(longPrompt, 50)
    await clean.ended
    const after = await fidelityOf(clean)
    assert.ok(!before.exact && after.exact)
    return { before, after }
  })
  await step('an update from nowhere, held', async () => {
    await driver.pause('abort')
    const error = await codeOf(driver.updateWeights({ version: version + 1, path: '/nope', frozen: false }))
    const says = await driver.weightVersion()
    await update('A', false)
    await driver.resume()
    const out = begin(longPrompt, 50)
    await out.ended
    return { error, says, fidelity: await fidelityOf(out) }
  })
  await step('release and reclaim, as far as they go without a GPU', async () => {
    await driver.pause('abort')
    const never = await codeOf(driver.reclaim())
    const release = await codeOf(driver.release())
    const again = release.startsWith('no error') ? await codeOf(driver.release()) : 'not tried'
    const found = { paused: (await driver.probe()).paused, load: await codeOf(driver.load()) }
    const reclaim = await codeOf(driver.reclaim())
    const twice = await codeOf(driver.reclaim())
    const stillHeld = (await driver.probe()).paused
    await driver.resume()
    const out = begin(longPrompt, 50)
    await out.ended
    return { never, release, again, ...found, reclaim, twice, stillHeld, fidelity: await fidelityOf(out) }
  })
  console.log('all kept')
} finally {
  await driver.resume().catch(() => {})
  await driver.close()
  scorer.end()
}
