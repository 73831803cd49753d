/**
 * Dynamic sampling, as in DAPO: a group whose samples all got the same reward teaches nothing, and is replaced at once. `accept` sees whole
 * groups, may take its time (a verifier, a sandbox), and a batch says how many it left out.
 */
import { createSupervisor } from 'rollout-supervisor'
import { EOS, startEmbeddedEngine } from 'rollout-supervisor/testing'

const engines = await Promise.all([1, 2].map((seed) => startEmbeddedEngine({ seed, capacity: 8 })))
const supervisor = createSupervisor({ instances: engines.map(({ url }) => ({ url, engine: 'sglang' })) })
await supervisor.start()

function* prompts() {
  for (let number = 0; ; number++)
    yield { prompt: [number % 10], samples: 4, sampling: { maxTokens: 24, stopTokenIds: [EOS] }, meta: number % 10 }
}

/** Right or wrong: whether an answer ends before its budget does. */
async function reward(/** @type {import('rollout-supervisor').Completion<number>} */ { finishReason }) {
  return finishReason === 'stop' ? 1 : 0
}

const batches = supervisor.batches(prompts(), {
  size: 6,
  async accept({ completions }) {
    const rewards = await Promise.all(completions.map(reward))
    return new Set(rewards).size > 1
  },
})
for await (const { index, groups, rejected } of batches) {
  const right = groups.flatMap((group) => group.completions).filter(({ finishReason }) => finishReason === 'stop')
  console.log(
    `batch ${index}: ${groups.length} groups, ${right.length} right of ${groups.length * 4}, left out`,
    rejected,
  )
  if (index === 2) break
}

await supervisor.close()
await Promise.all(engines.map((engine) => engine.close()))
