/**
 * Figures on a real server: node numbers.mjs ENGINE URL [--pairs 10] [--samples N]. The package must be built, and nobody else on the server.
 *
 *   1. tokens/s of the whole supervisor over a bare undici client that sends the same requests and reads the bytes, in interleaved pairs, and
 *      side by side on half of the slots each
 *   2. slots busy at full load with a waiting queue, by the server's own count
 *   3. time from cancel, pause and evaluation request to the server's own count 0 (of rollouts)
 *
 * Prints tables on stderr and one JSON object on stdout.
 */
import { parseArgs } from 'node:util'
import { Pool } from 'undici'
import { realClock } from '../../../dist/src/clock.js'
import { engineFactory } from '../../../dist/src/engines/index.js'
import { completionBody } from '../../../dist/src/engines/llama-server-request.js'
import { generateBody as sglangBody } from '../../../dist/src/engines/sglang-request.js'
import { generateBody as vllmBody } from '../../../dist/src/engines/vllm-request.js'
import { createSupervisor } from '../../../dist/src/index.js'

const { values, positionals } = parseArgs({
  options: {
    pairs: { type: 'string', default: '10' },
    samples: { type: 'string' },
    tries: { type: 'string', default: '5' },
  },
  allowPositionals: true,
})
const [engine, url] = positionals
const TOKENS = 256
const PROMPT = [10, 11, 12]
/** Student's t for 95 % and 9 degrees of freedom; other numbers of pairs are close enough. */
const T = 2.262

const driver = engineFactory(engine)({ id: 'count', url, apiKey: undefined, clock: realClock })
const { capacity, capabilities, engineVersion } = await driver.probe()
const samples = Number(values.samples ?? capacity * 4)
const sampling = {
  maxTokens: TOKENS,
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
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const cpuOf = (from) => {
  const { user, system } = process.cpuUsage(from)
  return (user + system) / 1000
}

/** Whether the server sends deltas decides how its driver asks (decision 25). */
const deltas =
  engine === 'sglang' && (await (await fetch(`${url}/server_info`)).json()).incremental_streaming_output === true
const asIs = (requestId) => ({ requestId, prompt: PROMPT, sampling })
const BARE = {
  sglang: (id) => ['/generate', sglangBody(asIs(id), deltas)],
  vllm: (id) => ['/inference/v1/generate', vllmBody(asIs(id), true)],
  'llama-server': (id) => ['/completion', completionBody(asIs(id))],
}

async function bare(round, connections = capacity, count = samples) {
  const pool = new Pool(url, { connections, pipelining: 1, headersTimeout: 0, bodyTimeout: 0 })
  const [from, cpu] = [performance.now(), process.cpuUsage()]
  let left = count
  await Promise.all(
    Array.from({ length: connections }, async () => {
      while (left-- > 0) {
        const [path, body] = BARE[engine](`bare-${Date.now()}-${round}-${left}`)
        const headers = { 'content-type': 'application/json' }
        // It closes a connection that has carried a stream: who uses it again must be ready to send twice, as the supervisor is.
        const reset = engine === 'llama-server'
        const answer = await pool.request({ method: 'POST', path, body, headers, reset })
        for await (const _ of answer.body);
      }
    }),
  )
  const result = { tokensPerS: (count * TOKENS) / ((performance.now() - from) / 1000), cpuMs: cpuOf(cpu) }
  await pool.close()
  return result
}

const supervisor = createSupervisor({ instances: [{ url, engine, logprobBasis: 'raw' }] })
await supervisor.start()
const { seed: _, ...asked } = sampling
const task = (count, more = {}) => ({ prompt: PROMPT, samples: count, sampling: asked, ...more })

async function supervised(by = supervisor, count = samples) {
  const [from, cpu] = [performance.now(), process.cpuUsage()]
  const { completions } = await by.submit(task(count)).result
  const tokens = completions.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0)
  return { tokensPerS: tokens / ((performance.now() - from) / 1000), cpuMs: cpuOf(cpu) }
}

/** Mean running over capacity while samples wait, counted by the server. */
async function busySlots() {
  const rollout = supervisor.submit(task(capacity * 6))
  const seen = []
  let ended = false
  void rollout.result.then(() => {
    ended = true
  })
  while (!ended) {
    const { waiting } = supervisor.getSnapshot().conservation
    const { running } = await driver.load()
    // From the moment the server has counted them all, while there is something to fill a freed slot with.
    if (waiting > 0 && (seen.length > 0 || running === capacity)) seen.push(running / capacity)
    await pause(20)
  }
  return { share: seen.reduce((sum, value) => sum + value, 0) / seen.length, looks: seen.length }
}

async function countOf(running) {
  for (;;) {
    const load = await driver.load()
    if (load.running + load.waiting === running) return
    await pause(5)
  }
}

async function full() {
  const rollout = supervisor.submit({
    ...task(capacity * 2),
    sampling: { ...asked, maxTokens: 512 },
  })
  await countOf(capacity)
  return rollout
}

/** Milliseconds from `act` until the server counts none; then `undo`. */
async function quietAfter(act, undo = () => {}) {
  const rollout = await full()
  const from = performance.now()
  const acted = act(rollout)
  await countOf(0)
  const ms = performance.now() - from
  await acted
  await undo()
  rollout.cancel()
  await rollout.result
  await countOf(0)
  return ms
}

/** From the request of an evaluation that wants every slot: until its first token, and until no rollout runs. */
async function evaluationAfter() {
  const rollout = await full()
  let rollouts = capacity
  const from = performance.now()
  const found = { freeMs: 0, firstTokenMs: 0 }
  const subscription = supervisor.events$.subscribe((event) => {
    if (event.type === 'sample.released' && event.kind === 'rollout' && --rollouts === 0)
      found.freeMs = performance.now() - from
  })
  const groups = await supervisor.evaluate([task(capacity, { sampling: { ...asked, maxTokens: 16 } })], {
    interrupt: 'resume',
  })
  const first = Math.min(
    ...groups[0].completions.map(
      ({ segments, timings }) => timings.waitedMs + (segments[0].firstTokenAt - segments[0].placedAt),
    ),
  )
  found.firstTokenMs = first
  subscription.unsubscribe()
  rollout.cancel()
  await rollout.result
  await countOf(0)
  return found
}

function ratioOf(list) {
  const ratios = list.map(({ bare: one, supervisor: two }) => two.tokensPerS / one.tokensPerS)
  const mean = ratios.reduce((sum, value) => sum + value, 0) / ratios.length
  const squares = ratios.reduce((sum, value) => sum + (value - mean) ** 2, 0)
  const half = (T * Math.sqrt(squares / Math.max(1, ratios.length - 1))) / Math.sqrt(ratios.length)
  return { mean, interval95: [mean - half, mean + half] }
}

const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)]
async function times(count, run) {
  const all = []
  for (let i = 0; i < count; i++) all.push(await run(i))
  return all
}

// Neither pays for what is compiled, or cached by the server, at the first time.
await bare('warm')
await supervised()
const pairs = await times(Number(values.pairs), async (i) => {
  const first = i % 2 === 0 ? await bare(i) : await supervised()
  const second = i % 2 === 0 ? await supervised() : await bare(i)
  const pair = i % 2 === 0 ? { bare: first, supervisor: second } : { bare: second, supervisor: first }
  console.error(
    `pair ${i + 1}: bare ${pair.bare.tokensPerS.toFixed(0)}, supervisor ${pair.supervisor.tokensPerS.toFixed(0)} tokens/s`,
  )
  return pair
})
/**
 * On half of the slots each, at the same time: whatever else the machine does, both suffer it. Not where ending a request is hanging up:
 * there the supervisor gives a slot back when the server counts fewer, and would count the bare client's.
 */
const halves = createSupervisor({ instances: [{ url, engine, capacity: capacity / 2, logprobBasis: 'raw' }] })
await halves.start()
const beside = await times(capabilities.abortById ? Number(values.pairs) : 0, async (i) => {
  const [one, two] = await Promise.all([
    bare(`beside-${i}`, capacity / 2, samples / 2),
    supervised(halves, samples / 2),
  ])
  console.error(`side by side ${i + 1}: ${((100 * two.tokensPerS) / one.tokensPerS).toFixed(1)} %`)
  return { bare: one, supervisor: two }
})
await halves.close()
const { mean, interval95 } = ratioOf(pairs)
const side = beside.length > 0 ? ratioOf(beside) : null
const busy = await busySlots()
const tries = Number(values.tries)
const cancelMs = await times(tries, () => quietAfter((rollout) => rollout.cancel()))
const pauseMs = await times(tries, () =>
  quietAfter(
    () => supervisor.pause({ mode: 'abort' }),
    () => supervisor.resume(),
  ),
)
const evaluation = await times(tries, evaluationAfter)
await supervisor.close()
await driver.close()

const spread = (list) => ({ median: Math.round(median(list)), largest: Math.round(Math.max(...list)) })
const result = {
  engine,
  engineVersion,
  capacity,
  abortById: capabilities.abortById,
  samples,
  tokens: TOKENS,
  throughput: {
    pairs: pairs.length,
    bareTokensPerS: Math.round(median(pairs.map(({ bare: each }) => each.tokensPerS))),
    supervisorTokensPerS: Math.round(median(pairs.map(({ supervisor: each }) => each.tokensPerS))),
    ratio: mean,
    interval95,
    sideBySide: side,
    clientCpuMs: {
      bare: median(pairs.map(({ bare: each }) => each.cpuMs)),
      supervisor: median(pairs.map(({ supervisor: each }) => each.cpuMs)),
    },
  },
  busySlots: busy,
  cancelToZeroMs: spread(cancelMs),
  pauseToZeroMs: spread(pauseMs),
  evaluationToNoRolloutMs: spread(evaluation.map(({ freeMs }) => freeMs)),
  evaluationToFirstTokenMs: spread(evaluation.map(({ firstTokenMs }) => firstTokenMs)),
}
const percent = (value) => `${(100 * value).toFixed(1)} %`
const said = (ratio, [from, to]) => `${percent(ratio)} (95 %: ${percent(from)} to ${percent(to)})`
console.error(`${engine} ${engineVersion}, ${capacity} slots, ${samples} samples of ${TOKENS} tokens
  tokens/s, supervisor over bare undici  ${said(result.throughput.ratio, interval95)}, ${pairs.length} pairs
  the same, side by side                 ${side === null ? '-' : said(side.mean, side.interval95)}
  slots busy by the server's own count   ${percent(busy.share)} of slot-time, ${busy.looks} looks
  cancel to count 0                      ${result.cancelToZeroMs.median} ms, at most ${result.cancelToZeroMs.largest}
  pause (abort) to count 0               ${result.pauseToZeroMs.median} ms, at most ${result.pauseToZeroMs.largest}
  evaluation to no rollout running       ${result.evaluationToNoRolloutMs.median} ms, at most ${result.evaluationToNoRolloutMs.largest}
  evaluation to its first token          ${result.evaluationToFirstTokenMs.median} ms, at most ${result.evaluationToFirstTokenMs.largest}`)
console.log(JSON.stringify(result))
