/**
 * The check that training data is exact (I8, F8): every token's log-probability is recomputed from the weights of the version stamped on it.
 * Also counts how stale the tokens were when they were trained on.
 */
import type { Completion } from '../index.ts'
import { scoreTokens, type TinyWeights } from '../testing/index.ts'

export interface Fidelity {
  readonly tokens: number
  /** Largest difference between a stored and a recomputed log-probability, in nats. */
  readonly largestDifference: number
  /** Tokens without a version, or with one whose weights are no longer kept: nothing can be said about them. */
  readonly unchecked: number
  /** Tokens by staleness: the trainer's version minus the version they were sampled with. */
  readonly staleness: Readonly<Record<number, number>>
}

/** Stored log-probabilities are 32-bit floats: half a unit in the last place of the smallest probabilities is 1e-6. */
export const LARGEST_DIFFERENCE = 1e-5

export interface FidelityCheck {
  /** Weights of a version, from now on. Only the newest `keep` versions are held. */
  publish(version: number, weights: TinyWeights): void
  check(prompt: readonly number[], completion: Completion, trainerVersion: number): void
  readonly result: Fidelity
}

export function createFidelityCheck(keep: number): FidelityCheck {
  const versions = new Map<number, TinyWeights>()
  const staleness: Record<number, number> = {}
  let [tokens, unchecked, largest] = [0, 0, 0]
  return {
    publish(version, weights) {
      versions.set(version, weights)
      for (const old of versions.keys()) if (versions.size > keep) versions.delete(old)
    },
    check(prompt, completion, trainerVersion) {
      const { tokenIds, logprobs } = completion
      let covered = 0
      for (const { version, start, end } of completion.versions) {
        const weights = version === null ? undefined : versions.get(version)
        if (version === null || weights === undefined) continue
        const scores = scoreTokens(weights, prompt, tokenIds)
        for (let index = start; index < end; index++) {
          const difference = Math.abs(scores[index]! - logprobs[index]!)
          // A log-probability that is not a number is as wrong as can be.
          largest = Math.max(largest, Number.isNaN(difference) ? Number.POSITIVE_INFINITY : difference)
        }
        covered += end - start
        staleness[trainerVersion - version] = (staleness[trainerVersion - version] ?? 0) + end - start
      }
      tokens += covered
      unchecked += tokenIds.length - covered
    },
    get result() {
      return { tokens, unchecked, largestDifference: largest, staleness: { ...staleness } }
    },
  }
}
