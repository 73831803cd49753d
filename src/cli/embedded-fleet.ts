/**
 * Embedded engines for commands that need no servers of their own: started together, closed together, known only by their URLs.
 */
import type { InstanceOptions } from '../index.ts'
import { type EmbeddedEngine, startEmbeddedEngine, type TinyWeights } from '../testing/index.ts'

export interface EmbeddedFleetOptions {
  readonly engines: number
  readonly capacity: number
  readonly stepMs: number
  readonly seed: number
  readonly weights?: TinyWeights
  /** Factor on the time of a step of the engine with this index. @default 1 */
  readonly slow?: (index: number) => number
}

export interface EmbeddedFleet {
  readonly instances: readonly (InstanceOptions & { readonly id: string })[]
  /** In the same order; for accidents and for what only servers count. */
  readonly engines: readonly EmbeddedEngine[]
  close(): Promise<void>
}

/** Time that each running sequence adds to a step: a tenth of a step for a full batch of 16. */
const BATCH_SHARE = 0.1 / 16

export async function startEmbeddedFleet(options: EmbeddedFleetOptions): Promise<EmbeddedFleet> {
  const { capacity, stepMs, weights } = options
  const engines: EmbeddedEngine[] = []
  const close = async (): Promise<void> => {
    await Promise.all(engines.map((engine) => engine.close()))
  }
  try {
    for (let index = 0; index < options.engines; index++) {
      const speed = { stepMs, perSequenceMs: stepMs * BATCH_SHARE, slow: options.slow?.(index) ?? 1 }
      const shared = weights === undefined ? {} : { weights }
      const engine = { profile: 'sglang', capacity, seed: options.seed + index, ...speed, ...shared } as const
      // Seeds decide, not the time at which a server took a sample: the same seed gives the same run.
      engines.push(await startEmbeddedEngine({ ...engine, incremental: true, deterministic: true }))
    }
  } catch (error) {
    await close()
    throw error
  }
  return {
    instances: engines.map(({ url, weights: { vocabularySize } }, index) => {
      return { id: `engine-${index + 1}`, url, engine: 'sglang', vocabularySize }
    }),
    engines,
    close,
  }
}
