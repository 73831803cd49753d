/**
 * The demo's servers and its supervisor, started together and closed together. The supervisor knows the servers only by their URLs.
 */
import { createSupervisor, type Supervisor } from '../index.ts'
import { type EmbeddedEngine, startEmbeddedEngine, type TinyWeights } from '../testing/index.ts'
import type { DemoOptions } from './demo-options.ts'

export interface DemoFleet {
  readonly supervisor: Supervisor
  /** Ids of the engines that were made slow. */
  readonly slow: readonly string[]
  close(): Promise<void>
}

/** Time that each running sequence adds to a step: a tenth of a step for a full batch of 16. */
const BATCH_SHARE = 0.1 / 16

export async function startDemoFleet(options: DemoOptions, weights: TinyWeights): Promise<DemoFleet> {
  const { stepMs, capacity, seed, slowFactor } = options
  const ids = Array.from({ length: options.engines }, (_, index) => `engine-${index + 1}`)
  const engines: EmbeddedEngine[] = []
  const closeEngines = async (): Promise<void> => {
    await Promise.all(engines.map((engine) => engine.close()))
  }
  try {
    for (const index of ids.keys()) {
      const slow = index < options.slow ? slowFactor : 1
      const speed = { stepMs, perSequenceMs: stepMs * BATCH_SHARE, slow }
      const engine = { profile: 'sglang', capacity, weights, seed: seed + index, ...speed } as const
      // Seeds decide, not the time at which a server took a sample: the same seed gives the same training run.
      engines.push(await startEmbeddedEngine({ ...engine, incremental: true, deterministic: true }))
    }
    const supervisor = createSupervisor({
      instances: ids.map((id, index) => ({ id, url: engines[index]!.url, engine: 'sglang' })),
      policy: options.strict ? { name: 'round-robin', strict: true } : options.policy,
    })
    return {
      supervisor,
      slow: ids.slice(0, options.slow),
      async close() {
        try {
          await supervisor.close()
        } finally {
          await closeEngines()
        }
      },
    }
  } catch (error) {
    await closeEngines()
    throw error
  }
}
