/**
 * Chooses one token from the tiny policy's distribution, and reports its log-probability as the real engine of its profile does.
 * A token that min_new_tokens forbids is masked before the choice, as in real engines.
 */
import { EOS, logSoftmax, remember, type TinyWeights } from './tiny-policy.ts'

export interface EngineSampling {
  /** null: as long as the context allows. */
  readonly maxNewTokens: number | null
  readonly minNewTokens: number
  /** 0 is greedy. */
  readonly temperature: number
  readonly topP: number
  /** Infinity is off. */
  readonly topK: number
  readonly minP: number
  readonly stop: readonly string[]
  readonly stopTokenIds: readonly number[]
  readonly ignoreEos: boolean
  /** Real engines differ in whether who ignores the end ignores stopTokenIds too. */
  readonly ignoreStopIds: boolean
  /** vLLM lets stop strings pass that end within the least number of tokens; SGLang ends with them. */
  readonly minTokensHoldStops: boolean
  /** Not every engine heeds it. */
  readonly seed: number | null
}

/**
 * Of which distribution: `tempered` is after temperature and before truncation by top-p, top-k and min-p (SGLang); `raw` before
 * everything (vLLM by default); `processed` after everything (vLLM's processed_logprobs).
 */
export type LogprobMode = 'tempered' | 'raw' | 'processed'

/** What the engine keeps of a sequence between steps: its KV cache. `covered` tokens are in `memorySum`: all but the last of the context. */
export interface KvCache {
  memorySum: Float64Array
  covered: number
}

export interface Sampler {
  /** Puts `lastTokenId` into the cache and samples what follows it. `uniform` is in [0, 1). */
  sample(
    weights: TinyWeights,
    cache: KvCache,
    lastTokenId: number,
    sampling: EngineSampling,
    generated: number,
    uniform: number,
  ): number
  /** Log-probability of the token that `sample` returned last. */
  readonly logprob: number
}

export function createSampler(mode: LogprobMode): Sampler {
  let distribution = new Float64Array(0)
  let raw = new Float64Array(0)
  let logprob = 0
  /** Of the tokens that truncation left; 1 where nothing was cut off. */
  let keptMass = 1

  function choose(sampling: EngineSampling, uniform: number): number {
    if (sampling.temperature === 0) return mostLikely(distribution)
    if (sampling.topK === 1) {
      const best = mostLikely(distribution)
      keptMass = Math.exp(distribution[best]!)
      return best
    }
    if (sampling.topK >= distribution.length && sampling.topP >= 1 && sampling.minP <= 0) {
      let rest = uniform
      for (let i = 0; i < distribution.length; i++) {
        rest -= Math.exp(distribution[i]!)
        if (rest < 0) return i
      }
      return mostLikely(distribution)
    }
    const { token, mass } = chooseTruncated(distribution, sampling, uniform)
    keptMass = mass
    return token
  }

  return {
    sample(weights, cache, lastTokenId, sampling, generated, uniform) {
      if (distribution.length !== weights.vocabularySize) {
        distribution = new Float64Array(weights.vocabularySize)
        raw = new Float64Array(weights.vocabularySize)
      }
      remember(weights, lastTokenId, cache.memorySum)
      cache.covered++
      logSoftmax(weights, cache.memorySum, cache.covered, lastTokenId, sampling.temperature, distribution)
      if (generated < sampling.minNewTokens) forbidEnd(distribution, sampling)
      keptMass = 1
      const token = choose(sampling, uniform)
      if (mode === 'raw') {
        logSoftmax(weights, cache.memorySum, cache.covered, lastTokenId, 1, raw)
        logprob = raw[token]!
      } else {
        logprob = distribution[token]! - (mode === 'processed' ? Math.log(keptMass) : 0)
      }
      return token
    },
    get logprob() {
      return logprob
    },
  }
}

function mostLikely(distribution: Float64Array): number {
  let best = 0
  for (let i = 1; i < distribution.length; i++) if (distribution[i]! > distribution[best]!) best = i
  return best
}

function chooseTruncated(
  distribution: Float64Array,
  { topK, topP, minP }: EngineSampling,
  uniform: number,
): { readonly token: number; readonly mass: number } {
  const order = Array.from(distribution.keys()).sort((a, b) => distribution[b]! - distribution[a]! || a - b)
  const floor = Math.exp(distribution[order[0]!]!) * minP
  const kept: number[] = []
  let mass = 0
  for (const token of order) {
    const probability = Math.exp(distribution[token]!)
    if (kept.length >= topK || (kept.length > 0 && (mass >= topP || probability < floor))) break
    kept.push(token)
    mass += probability
  }
  let rest = uniform * mass
  for (const token of kept) {
    rest -= Math.exp(distribution[token]!)
    if (rest < 0) return { token, mass }
  }
  return { token: order[0]!, mass }
}

/** Takes the probability of every token that would end the sequence, and gives it to the others. */
function forbidEnd(distribution: Float64Array, { stopTokenIds }: EngineSampling): void {
  distribution[EOS] = Number.NEGATIVE_INFINITY
  for (const token of stopTokenIds) if (token < distribution.length) distribution[token] = Number.NEGATIVE_INFINITY
  let sum = 0
  for (const value of distribution) sum += Math.exp(value)
  const logSum = Math.log(sum)
  for (let i = 0; i < distribution.length; i++) distribution[i]! -= logSum
}
