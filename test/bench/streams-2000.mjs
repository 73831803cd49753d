/**
 * F5: 2,000 concurrent streams of 500 tokens at 5 tokens/s over 4 engines in processes of their own. Nothing may time out and no circuit may
 * open, although every stream is silent for 200 ms between two tokens and lives for 100 s. Prints CPU time and memory of the supervisor's
 * process; ends with status 1 where a sample was not completed at its first attempt.
 *
 * usage: node test/bench/streams-2000.mjs [--quick] [--profile=sglang]
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { createSupervisor } from '../../dist/src/index.js'
import { describeMachine, format, quick, save, table } from './harness.mjs'

const ENGINES = 4
const STREAMS = quick ? 200 : 2000
const TOKENS = quick ? 50 : 500
const STEP_MS = 200
const profile =
  process.argv.find((argument) => argument.startsWith('--profile='))?.slice('--profile='.length) ?? 'sglang'

/** @param {number} seed */
async function startServer(seed) {
  const settings = { profile, capacity: STREAMS / ENGINES, stepMs: STEP_MS, perSequenceMs: 0, incremental: true, seed }
  const program = new URL('engine-process.mjs', import.meta.url).pathname
  const child = spawn(process.execPath, [program, JSON.stringify(settings)], { stdio: ['pipe', 'pipe', 'inherit'] })
  const [url] = /** @type {[string]} */ (await once(createInterface(child.stdout), 'line'))
  return { url, close: () => child.stdin.end() }
}

const servers = await Promise.all(Array.from({ length: ENGINES }, (_, index) => startServer(index + 1)))
const supervisor = createSupervisor({
  instances: servers.map(({ url }) => ({
    url,
    engine: /** @type {import('../../dist/src/index.js').EngineName} */ (profile),
  })),
})
await supervisor.start()

let opened = 0
let mostRunning = 0
supervisor.events$.subscribe((event) => {
  if (event.type === 'instance.state' && /unhealthy|suspected/.test(event.state)) opened++
})
/** @type {number[]} */
const memory = []
const sampling = setInterval(() => {
  memory.push(process.memoryUsage().rss / 2 ** 20)
  const running = supervisor.getSnapshot().instances.reduce((sum, instance) => sum + instance.running, 0)
  mostRunning = Math.max(mostRunning, running)
}, 500)

const task = { prompt: [1, 2, 3], sampling: { maxTokens: TOKENS, ignoreEos: true } }
const cpuBefore = process.cpuUsage()
const startedAt = performance.now()
const groups = await Promise.all(Array.from({ length: STREAMS }, () => supervisor.submit(task).result))
const wallMs = performance.now() - startedAt
const { user, system } = process.cpuUsage(cpuBefore)
const cpuMs = (user + system) / 1000
clearInterval(sampling)

const completions = groups.flatMap((group) => group.completions)
const whole = completions.filter(
  ({ outcome, tokenIds }) => outcome === 'completed' && tokenIds.length === TOKENS,
).length
const again = completions.filter(({ segments }) => segments.length !== 1).length
const tokens = completions.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0)
const result = {
  profile,
  streams: STREAMS,
  tokens,
  whole,
  again,
  opened,
  mostRunning,
  wallS: wallMs / 1000,
  cpuS: cpuMs / 1000,
  cpuUsPerToken: (cpuMs * 1000) / tokens,
  coreShare: cpuMs / wallMs,
  rssMiB: Math.max(...memory),
}
console.log(describeMachine())
table(
  `streams-2000 (F5): ${STREAMS} streams of ${TOKENS} tokens at ${1000 / STEP_MS} tokens/s over ${ENGINES} ${profile} engines`,
  [
    'completed',
    'at once',
    'tried again',
    'circuits opened',
    'wall s',
    'CPU s',
    'of a core',
    'CPU us a token',
    'peak MiB',
  ],
  [
    [
      String(whole),
      String(mostRunning),
      String(again),
      String(opened),
      format(result.wallS),
      format(result.cpuS),
      `${format(result.coreShare * 100, 0)} %`,
      format(result.cpuUsPerToken),
      format(result.rssMiB, 0),
    ],
  ],
)
save('streams-2000', result)
await supervisor.close()
for (const server of servers) server.close()
if (whole !== STREAMS || again > 0 || opened > 0) process.exitCode = 1
