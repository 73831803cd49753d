/**
 * On-policy GRPO, over-issued: 12 groups are out at a time, and each step trains on the first 8 that are complete. The long ones are not waited
 * for: they keep their tokens, go on first in the next step, and every token says which weights it is from.
 */
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createSupervisor } from 'rollout-supervisor'
import { createTinyWeights, EOS, saveWeights, startEmbeddedEngine } from 'rollout-supervisor/testing'

const engines = await Promise.all([1, 2].map((seed) => startEmbeddedEngine({ seed, capacity: 8 })))
const supervisor = createSupervisor({ instances: engines.map(({ url }) => ({ url, engine: 'sglang' })) })
await supervisor.start()

/** The reward of an answer: here, how close its length is to the digit. */
const reward = (/** @type {import('rollout-supervisor').Completion<number>} */ { meta, tokenIds }) =>
  -Math.abs(meta - tokenIds.length)

for (let step = 1; step <= 4; step++) {
  // As many new ones as the last step took.
  const tasks = Array.from({ length: step === 1 ? 12 : 8 }, (_, index) => ({
    prompt: [index % 10],
    samples: 4,
    sampling: { maxTokens: 200, stopTokenIds: [EOS] },
    meta: index % 10,
  }))
  const groups = await supervisor.rollout(tasks, { stopAfter: 8, rest: 'carry' })

  // GRPO: each sample against its group. Groups with a failed sample are here too, and say so.
  const advantages = groups
    .filter((group) => group.complete)
    .map(({ completions }) => {
      const rewards = completions.map(reward)
      const mean = rewards.reduce((sum, value) => sum + value, 0) / rewards.length
      return rewards.map((value) => value - mean)
    })
  const versions = groups.flatMap((group) => group.completions.flatMap((each) => each.versions))
  const old = versions.filter(({ version }) => version !== supervisor.version).length

  // Your optimiser turns tokens, log-probabilities and advantages into new weights.
  const path = await mkdtemp(join(tmpdir(), 'weights-'))
  await saveWeights(path, createTinyWeights({ seed: step }))
  await supervisor.updateWeights({ version: step, path })
  const { carried } = supervisor.getSnapshot().waiting
  console.log(
    `step ${step}: ${advantages.length} groups, ${old} spans of older weights, ${carried} samples carried over`,
  )
}

await supervisor.close() // cancels what is still carried
await Promise.all(engines.map((engine) => engine.close()))
