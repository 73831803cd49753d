/**
 * What a streamed attempt costs the client beside a bare undici request: 64 attempts of 100 tokens at once against an embedded
 * engine in a process of its own. Three clients, each sending the same body and reading the same bytes:
 *
 *     bare        pool.request, for await over the body, lines split by hand, JSON.parse of every event, token ids and log-probabilities
 *                 collected: without these it would be no client of rollouts
 *     driver      the SGLang driver alone: the same, and deltas, versions, errors and ends told apart
 *     supervisor  all of it: queue, policy, machines, ledger, completion, streams
 *
 * Servers: `paced` writes each token when it is sampled, one read a token, as a real engine does; `free` runs as fast as it can, so
 * that many events come in one read and fixed costs show most. Both stream forms, deltas and cumulative (decision 25).
 *
 * Each client first makes 2,048 attempts that are not counted: V8 optimises code of which there is more later (the supervisor's after some
 * 2,000 attempts, the bare client's after 300), and a trainer makes millions.
 *
 * usage: node --expose-gc test/bench/http-overhead.mjs [--quick] [--rounds N]   (more rounds where neighbours are busy)
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { Pool } from 'undici'
import { realClock } from '../../dist/src/clock.js'
import { createSglangDriver } from '../../dist/src/engines/sglang.js'
import { generateBody } from '../../dist/src/engines/sglang-request.js'
import { createSupervisor } from '../../dist/src/index.js'
import { describeMachine, format, formatSpread, interleave, quick, save, spread, table } from './harness.mjs'

const AT_ONCE = 64
const TOKENS = 100
const ATTEMPTS = quick ? 128 : 256
const { values: chosen } = parseArgs({ options: { quick: { type: 'boolean' }, rounds: { type: 'string' } } })
const ROUNDS = chosen.rounds === undefined ? (quick ? 1 : 5) : Number(chosen.rounds)
/** A round is 256 attempts. */
const WARM_UP = quick ? 1 : 8
const PACED = { stepMs: 4, perSequenceMs: 0 }
const FREE = { stepMs: 0, perSequenceMs: 0 }
const LONG = 16_000
const CONTEXT = 20_000
/** @typedef {'bare' | 'driver' | 'supervisor'} ClientName */
const CLIENTS = /** @type {const} */ (['bare', 'driver', 'supervisor'])

const servers = {
  'deltas, paced': { ...PACED, incremental: true },
  'deltas, free': { ...FREE, incremental: true },
  'cumulative, paced': { ...PACED, incremental: false },
  'cumulative, free': { ...FREE, incremental: false },
}

const prompt = Array.from({ length: 16 }, (_, index) => 1 + (index % 8))

/** @param {number} maxTokens @returns {import('../../dist/src/rollout/task.js').CheckedSampling} */
function samplingOf(maxTokens) {
  return {
    maxTokens,
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
}

/** @param {object} options */
async function startServer(options) {
  const settings = JSON.stringify({ ...options, capacity: AT_ONCE, contextLength: CONTEXT })
  const child = spawn(process.execPath, [new URL('engine-process.mjs', import.meta.url).pathname, settings], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const [url] = /** @type {[string]} */ (await once(createInterface(child.stdout), 'line'))
  return { url, close: () => child.stdin.end() }
}

/**
 * Runs `count` attempts, `atOnce` at a time.
 * @param {number} count
 * @param {number} atOnce
 * @param {() => Promise<void>} attempt
 */
async function lanes(count, atOnce, attempt) {
  let left = count
  const lane = async () => {
    while (left-- > 0) await attempt()
  }
  await Promise.all(Array.from({ length: Math.min(atOnce, count) }, lane))
}

/**
 * @typedef {object} Client
 * @property {(count: number, atOnce: number, tokens: number) => Promise<void>} run
 * @property {() => Promise<void>} close
 */

/** @param {string} url @param {boolean} deltas @returns {Client} */
function bareClient(url, deltas) {
  const pool = new Pool(url, { connections: AT_ONCE, pipelining: 1, headersTimeout: 0, bodyTimeout: 0 })
  const headers = { 'content-type': 'application/json' }
  let lastId = 0
  async function attempt(/** @type {number} */ tokens) {
    const body = generateBody({ requestId: `bare-${++lastId}`, prompt, sampling: samplingOf(tokens) }, deltas)
    const reply = await pool.request({ method: 'POST', path: '/generate', headers, body })
    if (reply.statusCode !== 200) throw new Error(`status ${reply.statusCode}: ${await reply.body.text()}`)
    reply.body.setEncoding('utf8')
    let rest = ''
    /** @type {any} */
    let last = null
    /** @type {number[]} */
    const ids = []
    /** @type {number[]} */
    const logprobs = []
    const collect = () => {
      for (const [logprob, id] of last.meta_info.output_token_logprobs) {
        ids.push(id)
        logprobs.push(logprob)
      }
    }
    for await (const text of reply.body) {
      rest += text
      let start = 0
      for (let end = rest.indexOf('\n\n'); end >= 0; end = rest.indexOf('\n\n', start)) {
        const data = rest.slice(start + 6, end)
        if (data !== '[DONE]') {
          last = JSON.parse(data)
          if (deltas) collect()
        }
        start = end + 2
      }
      rest = rest.slice(start)
    }
    if (!deltas) collect()
    if (ids.length !== tokens || logprobs.length !== tokens) throw new Error('tokens are missing')
  }
  return {
    run: (count, atOnce, tokens) => lanes(count, atOnce, () => attempt(tokens)),
    close: () => pool.close(),
  }
}

/** @param {string} url @returns {Promise<Client>} */
async function driverClient(url) {
  const driver = createSglangDriver({ id: 'server', url, apiKey: undefined, clock: realClock })
  await driver.probe()
  let lastId = 0
  async function attempt(/** @type {number} */ tokens) {
    const request = { requestId: `driver-${String(++lastId).padStart(9, '0')}`, prompt, sampling: samplingOf(tokens) }
    let received = 0
    for await (const chunk of driver.generate(request, new AbortController().signal)) received += chunk.tokenIds.length
    if (received !== tokens) throw new Error('tokens are missing')
  }
  return {
    run: (count, atOnce, tokens) => lanes(count, atOnce, () => attempt(tokens)),
    close: () => driver.close(),
  }
}

/** @param {string} url @returns {Promise<Client>} */
async function supervisorClient(url) {
  const supervisor = createSupervisor({ instances: [{ url, capacity: AT_ONCE }] })
  await supervisor.start()
  return {
    async run(count, _atOnce, tokens) {
      const { completed } = supervisor.getSnapshot().conservation.ended
      for (let index = 0; index < count; index++)
        supervisor.submit({ prompt, sampling: { maxTokens: tokens, ignoreEos: true } })
      await supervisor.drainAll()
      if (supervisor.getSnapshot().conservation.ended.completed !== completed + count) throw new Error('samples failed')
    },
    close: () => supervisor.close(),
  }
}

/** Client CPU of the three, and what the other two need over the bare one, round by round. */
async function compare(/** @type {string} */ server, /** @type {Record<ClientName, Client>} */ clients) {
  const run = (/** @type {Client} */ client) => () => client.run(ATTEMPTS, AT_ONCE, TOKENS)
  const found = await interleave(
    { bare: run(clients.bare), driver: run(clients.driver), supervisor: run(clients.supervisor) },
    ROUNDS,
    WARM_UP,
  )
  const bare = found.bare.map(({ cpuMs }) => cpuMs)
  return CLIENTS.map((client) => {
    const cpu = found[client].map(({ cpuMs }) => (cpuMs * 1000) / ATTEMPTS)
    const overhead = found[client].map(({ cpuMs }, round) => cpuMs / (bare[round] ?? Number.NaN) - 1)
    return { server, client, cpuUs: spread(cpu), overhead: spread(overhead) }
  })
}

/** One stream of 16,000 tokens and sixteen of 1,000, through the driver alone. */
async function compareLong(/** @type {string} */ server, /** @type {Client} */ driver) {
  const found = await interleave(
    { one: () => driver.run(1, 1, LONG), sixteen: () => driver.run(16, 16, LONG / 16) },
    ROUNDS,
  )
  const one = spread(found.one.map(({ cpuMs }) => cpuMs))
  const sixteen = spread(found.sixteen.map(({ cpuMs }) => cpuMs))
  return { server, one, sixteen, ratio: one.median / sixteen.median }
}

const rows = []
const long = []
for (const [name, options] of Object.entries(servers)) {
  const server = await startServer(options)
  const clients = {
    bare: bareClient(server.url, options.incremental),
    driver: await driverClient(server.url),
    supervisor: await supervisorClient(server.url),
  }
  rows.push(...(await compare(name, clients)))
  if (options.stepMs === 0) long.push(await compareLong(name, clients.driver))
  await Promise.all(Object.values(clients).map((client) => client.close()))
  server.close()
}

const percent = (/** @type {number} */ value) => `${value >= 0 ? '+' : ''}${format(value * 100, 0)} %`
console.log(describeMachine())
table(
  `http-overhead: ${ATTEMPTS} attempts of ${TOKENS} tokens, ${AT_ONCE} at once; client CPU, median (min to max) of ${ROUNDS} interleaved rounds (target: supervisor at most +25 %)`,
  ['server', 'client', 'us an attempt', 'us a token', 'over bare'],
  rows.map((row) => [
    row.server,
    row.client,
    formatSpread(row.cpuUs, 0),
    format(row.cpuUs.median / TOKENS, 2),
    row.client === 'bare'
      ? '-'
      : `${percent(row.overhead.median)} (${percent(row.overhead.min)} to ${percent(row.overhead.max)})`,
  ]),
)
table(
  'one long stream against sixteen short ones, driver alone, client CPU in ms (target: no more)',
  ['server', 'one of 16,000 tokens', '16 of 1,000 tokens', 'ratio'],
  long.map((row) => [row.server, formatSpread(row.one, 0), formatSpread(row.sixteen, 0), format(row.ratio, 2)]),
)
save('http-overhead', { target: { overhead: 0.25 }, attempts: ATTEMPTS, tokens: TOKENS, rows, long })
