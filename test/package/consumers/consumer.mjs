/**
 * A user of the packed package in plain JavaScript (ESM): one task of two samples over an embedded server, end to end.
 */
import assert from 'node:assert/strict'
import { createSupervisor, RolloutError } from 'rollout-supervisor'
import { instanceMachine, supervisorMachine } from 'rollout-supervisor/machines'
import packageJson from 'rollout-supervisor/package.json' with { type: 'json' }
import { startEmbeddedEngine } from 'rollout-supervisor/testing'

const engine = await startEmbeddedEngine({ capacity: 2, stepMs: 0, perSequenceMs: 0 })
const supervisor = createSupervisor({ instances: [{ url: engine.url, engine: 'sglang' }] })
await supervisor.start()
const group = await supervisor.submit({ prompt: [3], samples: 2, sampling: { maxTokens: 8, seed: 7 } }).result
assert.equal(group.complete, true)
assert.equal(group.completions.length, 2)
for (const { outcome, tokenIds, logprobs } of group.completions) {
  assert.equal(outcome, 'completed')
  assert.ok(tokenIds.length > 0 && tokenIds.length === logprobs.length)
}
assert.throws(
  () => createSupervisor({ policy: /** @type {never} */ ('no-such-policy') }),
  (error) => RolloutError.isInstance(error) && error.code === 'INVALID_OPTIONS',
)
assert.equal(instanceMachine.id, 'instance')
assert.equal(supervisorMachine.id, 'supervisor')
assert.equal(packageJson.name, 'rollout-supervisor')
await supervisor.close()
await engine.close()
console.log(`ESM: ${group.completions.map(({ tokenIds }) => tokenIds.length).join(' and ')} tokens`)
