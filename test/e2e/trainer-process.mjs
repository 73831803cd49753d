/**
 * A trainer in a process of its own, to be killed: brings its servers to version 1, fills them with long rollouts, and begins an update to version 2
 * in the middle of them. Its servers, engine, update mode and weights come as JSON in the first argument.
 */
import { createSupervisor } from '../../dist/src/index.js'

/** @type {{ urls: string[], engine: 'sglang' | 'vllm', mode: 'abort' | 'keep', weights: Record<1 | 2, string> }} */
const { urls, engine, mode, weights } = JSON.parse(process.argv[2] ?? '{}')
const supervisor = createSupervisor({ instances: urls.map((url) => ({ url, engine, capacity: 4 })) })
await supervisor.start()
await supervisor.updateWeights({ version: 1, path: weights[1] })
const rollout = supervisor.submit({ prompt: [5, 3, 12], samples: 8, sampling: { maxTokens: 1_000_000 } })
const started = new Set()
for await (const event of rollout.events) {
  if (event.type === 'sample.tokens') started.add(event.sample)
  if (started.size === 8) break
}
await supervisor.updateWeights({ version: 2, path: weights[2], mode })
