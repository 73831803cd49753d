/**
 * The GPU memory of an embedded engine, given away to a trainer and taken back. What was in it is gone but for what the host kept: caches
 * always, weights unless they have a backup there. The label of the weights stays, and lies.
 */
import type { EngineCore } from './embedded-contract.ts'
import { createTinyWeights } from './tiny-policy.ts'

export interface EmbeddedMemory {
  readonly given: boolean
  /** @param keepsWeights whether the host has a copy of them */
  give(keepsWeights: boolean): void
  take(): void
}

/** What weights are that nobody wrote: any other than those that were there. */
const NOBODYS_SEED = 0x6a9ba6e

export function createEmbeddedMemory(core: EngineCore): EmbeddedMemory {
  let given = false
  return {
    get given() {
      return given
    },
    give(keepsWeights) {
      given = true
      core.flush('ignored')
      if (keepsWeights) return
      const { vocabularySize } = core.weights
      core.setWeights(createTinyWeights({ vocabularySize, seed: NOBODYS_SEED, scale: 1 }))
    },
    take() {
      given = false
    },
  }
}
