/**
 * A Node trainer with the supervisor inside: groups of rollouts, a reward, new weights, again.
 * Run it with `node examples/train.js`; the two servers are embedded here, in your run they are SGLang.
 */
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createSupervisor } from 'rollout-supervisor'
import { createTinyWeights, saveWeights, startEmbeddedEngine } from 'rollout-supervisor/testing'

const engines = await Promise.all([1, 2].map((seed) => startEmbeddedEngine({ seed, capacity: 8 })))
const supervisor = createSupervisor({ instances: engines.map(({ url }) => ({ url, engine: 'sglang' })) })
await supervisor.start()

for (let step = 1; step <= 3; step++) {
  // One group of 8 samples for each prompt. Every sample is placed by itself, as slots become free.
  const rollouts = [3, 5, 7].map((digit) =>
    supervisor.submit({ prompt: [digit], samples: 8, sampling: { maxTokens: 64, temperature: 1 }, meta: { digit } }),
  )
  const groups = await Promise.all(rollouts.map((rollout) => rollout.result))

  // What a gradient step needs: tokens, the log-probabilities they were sampled with, and the version of the weights.
  const samples = groups.flatMap((group) => group.completions)
  const tokens = samples.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0)
  const version = samples[0]?.versions[0]?.version ?? 'none'
  console.log(`step ${step}: ${samples.length} samples, ${tokens} tokens of weights version ${version}`)

  // Your optimiser writes new weights; the supervisor drains the fleet, loads them, and checks what the servers say.
  const path = await mkdtemp(join(tmpdir(), 'weights-'))
  await saveWeights(path, createTinyWeights({ seed: step }))
  await supervisor.updateWeights({ version: step, mode: 'drain', path })
}

await supervisor.close()
await Promise.all(engines.map((engine) => engine.close()))
