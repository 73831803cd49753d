/**
 * Off-policy: generation goes on while the trainer trains, at most two versions ahead of it. Slots refill from an endless source the moment
 * they are free; the bound on staleness and the pace of this loop are the only gate.
 */
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createSupervisor } from 'rollout-supervisor'
import { createTinyWeights, EOS, saveWeights, startEmbeddedEngine } from 'rollout-supervisor/testing'

const engines = await Promise.all([1, 2].map((seed) => startEmbeddedEngine({ seed, capacity: 8 })))
const supervisor = createSupervisor({ instances: engines.map(({ url }) => ({ url, engine: 'sglang' })) })
await supervisor.start()

/** Prompts without end. A file does as well: readTasks('prompts.jsonl', { repeat: true }) */
function* prompts() {
  for (let number = 0; ; number++)
    yield { prompt: [number % 10], samples: 4, sampling: { maxTokens: 200, stopTokenIds: [EOS] }, meta: { number } }
}

for await (const batch of supervisor.batches(prompts(), { size: 8, maxStaleness: 2 })) {
  // Tokens by age in versions: what an importance weight, or a decoupled objective, has to make up for.
  console.log(`batch ${batch.index} under version ${batch.version}: tokens by age ${JSON.stringify(batch.staleness)}`)
  for (const { completions, staleness } of batch.groups) {
    const tokens = completions.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0)
    if (staleness > 2) throw new Error(`${tokens} tokens are too old`) // never: the bound is hard
  }
  if (batch.index === 5) break // leaving the loop cancels what runs

  const path = await mkdtemp(join(tmpdir(), 'weights-'))
  await saveWeights(path, createTinyWeights({ seed: batch.index + 1 }))
  await supervisor.updateWeights({ version: batch.index + 1, path })
}

await supervisor.close()
await Promise.all(engines.map((engine) => engine.close()))
