/**
 * What the demo says of its training data: that every log-probability is that of the weights stamped on its token (I8, F8), and how stale
 * the tokens were when they were trained on.
 */
import type { Completion } from '../index.ts'
import { createFidelityChecker, scoreTokens, type TinyWeights } from '../testing/index.ts'

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
  check(prompt: readonly number[], completion: Completion, trainerVersion: number): Promise<void>
  readonly result: Fidelity
}

export function createFidelityCheck(keep: number): FidelityCheck {
  const versions = new Map<number, TinyWeights>()
  const staleness: Record<number, number> = {}
  const checker = createFidelityChecker({
    tolerance: LARGEST_DIFFERENCE,
    score(version, prompt, tokenIds) {
      const weights = versions.get(version)
      return weights === undefined ? null : scoreTokens(weights, prompt, tokenIds)
    },
  })
  return {
    publish(version, weights) {
      versions.set(version, weights)
      for (const old of versions.keys()) if (versions.size > keep) versions.delete(old)
    },
    check(prompt, completion, trainerVersion) {
      for (const { version, start, end } of completion.versions) {
        if (version === null || !versions.has(version)) continue
        staleness[trainerVersion - version] = (staleness[trainerVersion - version] ?? 0) + end - start
      }
      return checker.check(prompt, completion)
    },
    get result() {
      const { tokens, largest, unchecked } = checker.report
      const left = Object.values(unchecked).reduce((sum, each) => sum + each, 0)
      return { tokens, unchecked: left, largestDifference: largest, staleness: { ...staleness } }
    },
  }
}
