/**
 * What `rollout-supervisor run` costs beside a bare client that does the same job: 100,000 short prompts from one JSONL file to another
 * over two embedded engines in processes of their own, 64 sequences each. Both read lines, stream every token, and write one JSON line a
 * completion with tokens and log-probabilities. CPU is that of this process, where both clients run; memory is read while `run` works.
 *
 *     bare    node:readline, pool.request, for await over the body, JSON.parse of every event, JSON.stringify, 128 lanes
 *     run     the command as it is, output file, lock, duplicate check and resume memory included
 *
 * usage: node test/bench/run-cli.mjs [--quick]
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createReadStream, createWriteStream, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { Readable } from 'node:stream'
import { Pool } from 'undici'
import { runCommand } from '../../dist/src/cli/command.js'
import { describeMachine, format, interleave, quick, save, spread, table } from './harness.mjs'

const PROMPTS = quick ? 2_000 : 100_000
const TOKENS = 8
const CAPACITY = 64
const ENGINES = 2
const ROUNDS = 1

async function startServer() {
  const settings = JSON.stringify({ capacity: CAPACITY, stepMs: 0, perSequenceMs: 0, incremental: true })
  const child = spawn(process.execPath, [new URL('engine-process.mjs', import.meta.url).pathname, settings], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const [url] = /** @type {[string]} */ (await once(createInterface(child.stdout), 'line'))
  return { url, close: () => child.stdin.end() }
}

const folder = mkdtempSync(join(tmpdir(), 'rollout-supervisor-bench-'))
const input = join(folder, 'prompts.jsonl')
const line = (/** @type {number} */ index) =>
  `${JSON.stringify({ id: `prompt-${index}`, promptTokenIds: [index % 10, 11, 12, 13], sampling: { ignoreEos: true }, meta: { index } })}\n`
writeFileSync(input, Array.from({ length: PROMPTS }, (_, index) => line(index)).join(''))
const servers = await Promise.all(Array.from({ length: ENGINES }, startServer))
let files = 0
const freshOutput = () => join(folder, `${++files}.jsonl`)

async function bare() {
  const pools = servers.map(
    ({ url }) => new Pool(url, { connections: CAPACITY, pipelining: 1, headersTimeout: 0, bodyTimeout: 0 }),
  )
  const headers = { 'content-type': 'application/json' }
  const output = createWriteStream(freshOutput())
  const lines = createInterface({ input: createReadStream(input) })[Symbol.asyncIterator]()
  let written = 0
  async function lane(/** @type {Pool} */ pool) {
    for (let next = await lines.next(); next.done !== true; next = await lines.next()) {
      const { id, promptTokenIds, meta } = JSON.parse(next.value)
      const body = JSON.stringify({
        input_ids: promptTokenIds,
        sampling_params: { max_new_tokens: TOKENS, ignore_eos: true },
        return_logprob: true,
        stream: true,
      })
      const reply = await pool.request({ method: 'POST', path: '/generate', headers, body })
      reply.body.setEncoding('utf8')
      let [rest, text] = ['', '']
      const tokenIds = []
      const logprobs = []
      for await (const part of reply.body) {
        rest += part
        let start = 0
        for (let end = rest.indexOf('\n\n'); end >= 0; end = rest.indexOf('\n\n', start)) {
          const data = rest.slice(start + 6, end)
          start = end + 2
          if (data === '[DONE]') continue
          const event = JSON.parse(data)
          text += event.text
          tokenIds.push(...event.output_ids)
          for (const [logprob] of event.meta_info.output_token_logprobs) logprobs.push(logprob)
        }
        rest = rest.slice(start)
      }
      if (tokenIds.length !== TOKENS) throw new Error(`${id}: ${tokenIds.length} tokens`)
      output.write(`${JSON.stringify({ id, text, tokenIds, logprobs, meta })}\n`)
      written += 1
    }
  }
  await Promise.all(pools.flatMap((pool) => Array.from({ length: CAPACITY }, () => lane(pool))))
  await new Promise((resolve) => output.end(() => resolve(null)))
  await Promise.all(pools.map((pool) => pool.close()))
  if (written !== PROMPTS) throw new Error(`${written} lines`)
  return null
}

async function run() {
  const config = join(folder, 'config.json')
  const instances = servers.map(({ url }) => ({ url, engine: 'sglang' }))
  writeFileSync(config, JSON.stringify({ instances, maxTokens: TOKENS }))
  /** @type {string[]} */
  const out = []
  const quiet = { isTTY: false, columns: () => 80, drained: async () => {} }
  const io = {
    stdout: { ...quiet, write: (/** @type {string} */ text) => void out.push(text) },
    stderr: { ...quiet, write: (/** @type {string} */ text) => void process.stderr.write(text) },
    stdin: () => Readable.from([]),
    env: {},
    onSignal: () => () => {},
    exit: () => {},
  }
  /** @type {number[]} */
  const heap = []
  const timer = setInterval(() => heap.push(process.memoryUsage().heapUsed), 1_000)
  const code = await runCommand(['run', input, '--config', config, '--output', freshOutput(), '--json', '--quiet'], io)
  clearInterval(timer)
  const summary = JSON.parse(out.join(''))
  if (code !== 0 || summary.tokens !== PROMPTS * TOKENS) throw new Error(out.join(''))
  return heap
}

const found = await interleave({ bare: () => bare(), run: () => run() }, ROUNDS)
for (const server of servers) server.close()
rmSync(folder, { recursive: true })

const heap = found.run.at(-1)?.value ?? []
const rows = /** @type {const} */ (['bare', 'run']).map((client) => {
  const cpuUs = spread(found[client].map(({ cpuMs }) => (cpuMs * 1000) / PROMPTS))
  return {
    client,
    cpuUs,
    perToken: cpuUs.median / TOKENS,
    wallS: spread(found[client].map((each) => each.wallMs / 1000)),
  }
})
const over = (rows[1]?.cpuUs.median ?? Number.NaN) / (rows[0]?.cpuUs.median ?? Number.NaN) - 1
/** Largest heap of each quarter of the run, in MB: flat where memory does not grow with the input. */
const quarters = [0, 1, 2, 3].map((quarter) => {
  const part = heap.slice((quarter * heap.length) / 4, ((quarter + 1) * heap.length) / 4)
  return Math.max(...part) / 2 ** 20
})
console.log(describeMachine())
table(
  `run-cli: ${format(PROMPTS, 0)} prompts of 4 tokens, ${TOKENS} tokens each, ${ENGINES * CAPACITY} at once`,
  ['client', 'CPU us a sample', 'CPU us a token', 'seconds', 'over bare'],
  rows.map(({ client, cpuUs, perToken, wallS }) => [
    client,
    format(cpuUs.median, 0),
    format(perToken, 1),
    format(wallS.median, 1),
    client === 'bare' ? '-' : `${over >= 0 ? '+' : ''}${format(over * 100, 0)} %`,
  ]),
)
console.log(`\nlargest heap in each quarter of the run: ${quarters.map((mb) => format(mb, 0)).join(', ')} MB`)
save('run-cli', { prompts: PROMPTS, tokens: TOKENS, rows, over, heapMbByQuarter: quarters })
