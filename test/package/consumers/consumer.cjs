/**
 * A user of the packed package in CommonJS: `require` of an ES module, which Node has had without a flag since 20.19.
 */
const assert = require('node:assert/strict')
const { createSupervisor } = require('rollout-supervisor')
const { instanceMachine } = require('rollout-supervisor/machines')
const { startEmbeddedEngine } = require('rollout-supervisor/testing')
const { version } = require('rollout-supervisor/package.json')

async function main() {
  const engine = await startEmbeddedEngine({ stepMs: 0, perSequenceMs: 0 })
  const supervisor = createSupervisor({ instances: [{ url: engine.url }] })
  await supervisor.start()
  const group = await supervisor.submit({ prompt: [2], sampling: { maxTokens: 4 } }).result
  assert.equal(group.complete, true)
  assert.equal(instanceMachine.id, 'instance')
  await supervisor.close()
  await engine.close()
  console.log(`CommonJS: ${version}, ${group.completions[0].tokenIds.length} tokens`)
}

void main()
