// Drives a real llama-server through the package's own driver: node llama-server-driver.mjs [--dist DIR] URL
// (./install llama-server DIR && ./start llama-server DIR 8201; then npm run build). Its own slots must be all that it has: nobody else uses it.
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
const { createSupervisor } = await load('index.js')
const [url = 'http://127.0.0.1:8201'] = positionals

const driver = engineFactory('llama-server')({ id: 'real', url, apiKey: undefined, clock: realClock })
const defaults = {
  maxTokens: 32,
  minTokens: 0,
  temperature: 1,
  topP: 1,
  topK: -1,
  minP: 0,
  stop: [],
  stopTokenIds: [],
  ignoreEos: false,
  seed: null,
}
const TEXT = 'The capital of France is'

async function step(name, action) {
  const from = performance.now()
  const found = await action()
  console.log(`${name}  (${Math.round(performance.now() - from)} ms)\n  ${JSON.stringify(found)}`)
  return found
}

/** One generation, joined; `onChunk` may act on it while it runs. */
async function generate(
  sampling = {},
  { input = prompt, signal = new AbortController().signal, by = driver, onChunk } = {},
) {
  const out = { tokens: [], logprobs: [], text: '', chunks: 0, finishReason: null }
  const request = { requestId: 'e2e', prompt: input, sampling: { ...defaults, ...sampling } }
  for await (const chunk of by.generate(request, signal)) {
    out.tokens.push(...chunk.tokenIds)
    out.logprobs.push(...chunk.logprobs)
    out.text += chunk.text ?? ''
    out.chunks++
    out.finishReason = chunk.finishReason
    await onChunk?.(out)
  }
  assert.equal(out.tokens.length, out.logprobs.length, 'as many log-probabilities as tokens')
  return out
}

const summary = ({ tokens, chunks, finishReason, text }) => ({
  tokens: tokens.length,
  chunks,
  finishReason,
  text: text.slice(0, 40),
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

/** Waits until the server says so. */
async function loadOf(sequences) {
  const from = performance.now()
  for (;;) {
    const { running, waiting } = await driver.load()
    if (running + waiting === sequences) return { running, waiting, afterMs: Math.round(performance.now() - from) }
    assert.ok(performance.now() - from < 20_000, `load becomes ${sequences}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

/** Log-probabilities of all next tokens at this temperature, from the logits that the server shows. */
async function distribution(input, temperature) {
  const asked = { prompt: input, n_predict: 1, temperature: 0, n_probs: 1_000_000, cache_prompt: true }
  const { completion_probabilities: entries } = await post('/completion', asked)
  const scaled = entries[0].top_logprobs.map(({ id, logprob }) => [id, logprob / temperature])
  const max = Math.max(...scaled.map(([, value]) => value))
  const sum = max + Math.log(scaled.reduce((total, [, value]) => total + Math.exp(value - max), 0))
  return new Map(scaled.map(([id, value]) => [id, value - sum]))
}

const probe = await step('probe', () => driver.probe())
assert.equal(probe.engine, 'llama-server')
assert.ok(probe.capacity > 0 && probe.vocabularySize > 0 && probe.contextLength > 0)
await step('load', () => driver.load())
const prompt = await step('tokenize', () => driver.tokenize(TEXT))
await step('tokenize chat', async () => {
  const ids = await driver.tokenize([{ role: 'user', content: 'Say hi.' }])
  const { tokens_evaluated: own } = await post('/completion', {
    prompt: (await post('/apply-template', { messages: [{ role: 'user', content: 'Say hi.' }] })).prompt,
    n_predict: 1,
  })
  assert.equal(ids.length, own, 'as many as the server makes of it')
  return { ids }
})

await step('generate 32 tokens', async () => {
  const out = await generate({ seed: 5 })
  assert.ok(out.tokens.length === 32 || out.finishReason !== 'length')
  return summary(out)
})
await step('greedy is what the server answers when it does not stream', async () => {
  const one = await generate({ temperature: 0, maxTokens: 24 })
  const two = await generate({ temperature: 0, maxTokens: 24 }, { input: Int32Array.from(prompt) })
  assert.deepEqual(two.tokens, one.tokens)
  const whole = await post('/completion', { prompt, n_predict: 24, temperature: 0, return_tokens: true })
  assert.deepEqual(one.tokens, whole.tokens)
  assert.equal(one.text, whole.content)
  return summary(one)
})
for (const temperature of [1, 0.5, 1.5]) {
  await step(`log-probabilities at temperature ${temperature} are of the distribution sampled from`, async () => {
    const out = await generate({ temperature, maxTokens: 6, seed: 11 })
    let largest = 0
    for (let i = 0; i < out.tokens.length; i++) {
      const expected = (await distribution([...prompt, ...out.tokens.slice(0, i)], temperature)).get(out.tokens[i])
      largest = Math.max(largest, Math.abs(expected - out.logprobs[i]))
    }
    assert.ok(largest < 0.02, `largest difference ${largest}`)
    return { ...summary(out), logprobs: out.logprobs.map((each) => Number(each.toFixed(4))), largest }
  })
}
await step('resumed from its tokens it goes on as if it had not been interrupted', async () => {
  const whole = await generate({ temperature: 0, maxTokens: 16 })
  const first = await generate({ temperature: 0, maxTokens: 7 })
  const rest = await generate({ temperature: 0, maxTokens: 9 }, { input: [...prompt, ...first.tokens] })
  assert.deepEqual([...first.tokens, ...rest.tokens], whole.tokens)
  return { largest: Math.max(...rest.logprobs.map((each, i) => Math.abs(each - whole.logprobs[i + 7]))) }
})
await step('the same seed samples the same tokens', async () => {
  const [one, two] = [await generate({ seed: 2 ** 40 + 3 }), await generate({ seed: 2 ** 40 + 3 })]
  return { same: JSON.stringify(one.tokens) === JSON.stringify(two.tokens), ...summary(one) }
})
await step('a stop id ends the sample, and its slot is free', async () => {
  const { tokens } = await generate({ temperature: 0, maxTokens: 24 })
  const out = await generate({ temperature: 0, maxTokens: 500, stopTokenIds: [tokens[5]] })
  assert.equal(out.finishReason, 'stop')
  assert.deepEqual(out.tokens, tokens.slice(0, tokens.indexOf(tokens[5]) + 1))
  return { ...summary(out), quiet: await loadOf(0) }
})
await step('a stop string ends the sample, and stays in its text', async () => {
  const { text } = await generate({ temperature: 0, maxTokens: 24 })
  const stop = text.slice(8, 13)
  const out = await generate({ temperature: 0, maxTokens: 24, stop: [stop] })
  assert.equal(out.finishReason, 'stop')
  assert.ok(out.text.endsWith(stop))
  return { stop, ...summary(out) }
})
await step('the end of the sequence is a token of the sample', async () => {
  const input = await driver.tokenize([{ role: 'user', content: 'Say hi.' }])
  const out = await generate({ temperature: 0, maxTokens: 200 }, { input })
  assert.equal(out.finishReason, 'stop')
  const { content } = await post('/detokenize', { tokens: out.tokens.slice(-1) })
  return { ...summary(out), last: out.tokens.at(-1), means: content }
})
await step('a character of several tokens interrupts before it, with every token before it', async () => {
  const input = await driver.tokenize(`Repeat: ${'\u{1F469} \u{10348} '.repeat(12)}`)
  const asked = { prompt: input, n_predict: 12, temperature: 0 }
  const whole = await post('/completion', { ...asked, return_tokens: true })
  const out = await generate({ temperature: 0, maxTokens: 12 }, { input })
  assert.deepEqual(out.tokens, whole.tokens.slice(0, out.tokens.length), 'a beginning of the tokens')
  return { ...summary(out), whole: whole.tokens, received: out.tokens }
})
await step(`${probe.capacity * 2} at once`, async () => {
  const running = Promise.all(Array.from({ length: probe.capacity * 2 }, () => generate({ maxTokens: 24 })))
  const busy = await driver.load()
  const all = await running
  return { busy, tokens: all.map((out) => `${out.tokens.length} ${out.finishReason}`) }
})
await step('abort by signal closes the socket', async () => {
  const controller = new AbortController()
  const failed = codeOf(generate({ maxTokens: 900, ignoreEos: true }, { signal: controller.signal }))
  const busy = await loadOf(1)
  controller.abort()
  const error = await failed
  assert.equal(error.code, 'CANCELLED')
  return { ...error, busy, quiet: await loadOf(0) }
})
await step('refused: too long', async () => codeOf(generate({}, { input: Array(probe.contextLength + 5).fill(5) })))
await step('refused: id outside the vocabulary', async () => codeOf(generate({}, { input: [probe.vocabularySize] })))
await step('refused: empty prompt', async () => codeOf(generate({}, { input: [] })))
await step('refused: minTokens', async () => codeOf(generate({ minTokens: 2 })))
await step('refused: new weights', async () => codeOf(driver.updateWeights({ version: 1, path: '/x', frozen: false })))
await step('a connection that was idle', async () => {
  await new Promise((resolve) => setTimeout(resolve, 7000))
  return summary(await generate({ maxTokens: 4 }))
})

await step('the OpenAI driver on the same server: text and chat without ids', async () => {
  const openai = engineFactory('openai')({ id: 'openai', url, apiKey: undefined, clock: realClock })
  const found = await openai.probe()
  const text = await generate({ temperature: 0 }, { by: openai, input: TEXT })
  const chat = await generate({ temperature: 0 }, { by: openai, input: [{ role: 'user', content: 'Say hi.' }] })
  assert.ok(text.text !== '' && chat.text !== '' && text.tokens.length === 0)
  await openai.close()
  return { capabilities: found.capabilities, text: summary(text), chat: summary(chat) }
})

for (const engine of ['llama-server', 'openai']) {
  await step(`the supervisor over it as ${engine}: text and chat, 6 samples each, then a cancel`, async () => {
    const supervisor = createSupervisor({ instances: [{ url, engine }] })
    await supervisor.start()
    const sampling = { maxTokens: 24, temperature: 0.8 }
    const groups = await Promise.all([
      supervisor.submit({ prompt: TEXT, samples: 6, sampling }).result,
      supervisor.submit({ prompt: [{ role: 'user', content: 'Say hi.' }], samples: 6, sampling }).result,
    ])
    const completions = groups.flatMap((group) => group.completions)
    for (const each of completions) {
      assert.equal(each.outcome, 'completed', String(each.error))
      assert.equal(each.tokenIds.length, each.logprobs.length)
      if (engine === 'llama-server') assert.ok(each.tokenIds.length > 0)
    }
    const long = supervisor.submit({ prompt: TEXT, samples: 3, sampling: { maxTokens: 900 } })
    await new Promise((resolve) => setTimeout(resolve, 500))
    long.cancel()
    await long.result
    const quiet = await loadOf(0)
    const interrupted = completions.filter(({ segments }) => segments.length > 1).length
    await supervisor.close()
    return { samples: completions.length, interrupted, text: completions[0].text.slice(0, 40), quiet }
  })
}
await driver.close()
assert.equal((await codeOf(driver.load())).code, 'CLOSED')
console.log('all kept')
