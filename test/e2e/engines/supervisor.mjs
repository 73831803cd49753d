/**
 * The whole supervisor against real servers: groups, a cancel that reaches the engine, and a weight update.
 *
 *     node test/e2e/engines/supervisor.mjs sglang MODELS http://127.0.0.1:8301 [more urls]
 *
 * MODELS holds the checkpoints A and B (see README.md). The package must be built.
 */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { createSupervisor } from '../../../dist/src/index.js'

const [engine, models, ...urls] = process.argv.slice(2)
const canUpdate = engine === 'sglang' || engine === 'vllm'
const supervisor = createSupervisor({ instances: urls.map((url) => ({ url, engine, logprobBasis: 'raw' })) })
supervisor.events$.subscribe((event) => {
  if (event.type === 'instance.state') console.log(`  ${event.instance}: ${event.state}`)
  if (event.type === 'instance.fault') console.log(`  ${event.instance}: ${event.error.message}`)
})
await supervisor.start()
for (const { id, engine: name, engineVersion, capacity, version } of supervisor.getSnapshot().instances) {
  console.log(`${id}: ${name} ${engineVersion}, ${capacity} slots, weights ${version}`)
}

const prompt = [74, 71, 78, 78, 81]
const group = await supervisor.submit({ prompt, samples: 12, sampling: { maxTokens: 64, ignoreEos: true } }).result
console.log(`a group of ${group.completions.length}: complete ${group.complete}`)
for (const { id, tokenIds, logprobs, versions, segments } of group.completions.slice(0, 3)) {
  console.log(
    `  ${id}: ${tokenIds.length} tokens, first log-probability ${logprobs[0]}, versions ${JSON.stringify(versions)} on ${segments[0]?.instance}`,
  )
}
assert(group.complete)

const long = supervisor.submit({ prompt, samples: urls.length, sampling: { maxTokens: 1500, ignoreEos: true } })
for await (const event of long.events) if (event.type === 'sample.tokens') break
const asked = performance.now()
long.cancel('to see it end')
const cancelled = await long.result
const told = performance.now()
await until(() => supervisor.getSnapshot().instances.every(({ running }) => running === 0))
console.log(
  `cancelled after ${cancelled.completions[0].tokenIds.length} tokens: the caller knew after ${ms(asked, told)}, the slots were free after ${ms(asked, performance.now())}`,
)

if (canUpdate) {
  for (const [version, name] of [
    [1, 'B'],
    [2, 'A'],
  ]) {
    const report = await supervisor.updateWeights({ version, path: join(models, name) })
    console.log(`weights ${name} as version ${version}: ${JSON.stringify(report.instances)}`)
    const after = await supervisor.submit({ prompt, samples: 4, sampling: { maxTokens: 32, ignoreEos: true } }).result
    console.log(`  then: complete ${after.complete}, versions ${JSON.stringify(after.completions[0].versions)}`)
    assert(after.completions.every(({ versions }) => versions.length === 1 && versions[0].version === version))
  }
}
console.log('conservation', JSON.stringify(supervisor.getSnapshot().conservation))
await supervisor.close()

function ms(from, to) {
  return `${(to - from).toFixed(0)} ms`
}
async function until(condition) {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5))
}
