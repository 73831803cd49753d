// Runs the supervisor over a real vLLM: node vllm-supervisor.mjs [--dist DIR] URL MODELS (as vllm-driver.mjs).
// A group, a cancel proven by the gauge, an update under the supervisor's own eyes, and the rule on log-probabilities (decision 20).
import assert from 'node:assert/strict'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'

const { values, positionals } = parseArgs({
  options: { dist: { type: 'string', default: new URL('../../../dist', import.meta.url).pathname } },
  allowPositionals: true,
})
const { createSupervisor } = await import(pathToFileURL(`${values.dist}/src/index.js`).href)
const [url = 'http://127.0.0.1:8101', models = '/tmp/engines/models'] = positionals

async function running() {
  const text = await (await fetch(`${url}/metrics`)).text()
  return Number(/^vllm:num_requests_running\{[^}]*\} (\S+)/m.exec(text)?.[1])
}

async function until(what, condition) {
  const from = performance.now()
  while (!(await condition())) {
    assert.ok(performance.now() - from < 60_000, what)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  return Math.round(performance.now() - from)
}

const label = (await (await fetch(`${url}/weight_info`)).json()).weight_version
const version = Number(/\d+$/.exec(label)?.[0] ?? 0) + 1
const supervisor = createSupervisor({ instances: [{ url, engine: 'vllm' }] })
await supervisor.start()
console.log('started', JSON.stringify(supervisor.getSnapshot().instances[0]))

const task = { prompt: [10, 11, 12], samples: 12, sampling: { maxTokens: 40, ignoreEos: true } }
const group = await supervisor.submit(task).result
assert.ok(
  group.complete &&
    group.completions.every(({ tokenIds, logprobs }) => tokenIds.length === 40 && logprobs.length === 40),
)
console.log('12 samples on 8 slots', group.completions.length)

const long = supervisor.submit({ ...task, samples: 4, sampling: { maxTokens: 1900, ignoreEos: true } })
await until('four run', async () => (await running()) === 4)
long.cancel()
const cancelled = await long.result
assert.ok(cancelled.completions.every(({ outcome }) => outcome === 'cancelled'))
console.log('cancelled; gauge 0 after', await until('none runs', async () => (await running()) === 0), 'ms (F3, R4)')

const hot = await supervisor.submit({ ...task, sampling: { maxTokens: 4, temperature: 0.5 }, samples: 1 }).result
assert.equal(hot.completions[0].error.code, 'INVALID_TASK')
console.log(hot.completions[0].error.message)

const report = await supervisor.updateWeights({ version, path: `${models}/B` })
console.log('update', JSON.stringify(report.instances))
const after = await supervisor.submit(task).result
for (const { versions } of after.completions) assert.deepEqual(versions, [{ version, start: 0, end: 40 }])
console.log('after it', JSON.stringify(after.completions[0].versions))
await supervisor.close()
console.log('all kept')
