/**
 * One training step of the demo: a few passes of Adam over the same groups, each clipped against the log-probabilities they were sampled with.
 * The first pass is on-policy (every ratio is 1); the clip bounds how far the later ones may go.
 */
import type { TinyWeights } from '../testing/index.ts'
import { type Gradient, groupAdvantages, surrogate, type TrainingSample } from './grpo.ts'

export interface TrainerOptions {
  readonly weights: TinyWeights
  /** Largest move of one weight in one pass, in logits. @default 0.07 */
  readonly learningRate?: number
  /** Passes over one step's samples. @default 4 */
  readonly passes?: number
  /** Allowed distance of the importance ratio from 1. @default 0.2 */
  readonly clip?: number
}

/** Samples of one prompt, with their rewards. */
export interface TrainingGroup {
  readonly samples: readonly (Omit<TrainingSample, 'advantage'> & { readonly reward: number })[]
}

export interface Trainer {
  /** Never changed in place: every step makes new tables, so that older versions can be kept. */
  readonly weights: TinyWeights
  step(groups: readonly TrainingGroup[]): { readonly objective: number; readonly clipped: number }
}

export function createTrainer({
  weights: first,
  learningRate = 0.07,
  passes = 4,
  clip = 0.2,
}: TrainerOptions): Trainer {
  let weights = first
  const adam = createAdam(learningRate, first.bigram.length)
  return {
    get weights() {
      return weights
    },
    step(groups) {
      const samples = groups.flatMap((group) => {
        const advantages = groupAdvantages(group.samples.map((sample) => sample.reward))
        return group.samples.map((sample, index) => ({ ...sample, advantage: advantages[index]! }))
      })
      let objective = 0
      let clipped = 0
      for (let pass = 0; pass < passes; pass++) {
        const result = surrogate(weights, samples, clip)
        objective = result.objective
        clipped = result.clipped
        weights = adam(weights, result.gradient)
      }
      return { objective, clipped }
    },
  }
}

/** Adam (arXiv 1412.6980), uphill. Short memories: the demo takes tens of steps, not thousands. */
const BETA_MEAN = 0.8
const BETA_SQUARE = 0.95
const EPSILON = 1e-5

function createAdam(rate: number, length: number): (weights: TinyWeights, gradient: Gradient) => TinyWeights {
  const moments = () => ({ mean: new Float64Array(length), square: new Float64Array(length) })
  const state = { bigram: moments(), memory: moments() }
  let time = 0
  const move = (table: 'bigram' | 'memory', weights: TinyWeights, gradient: Gradient): Float64Array => {
    const { mean, square } = state[table]
    return weights[table].map((value, index) => {
      const slope = gradient[table][index]!
      mean[index] = BETA_MEAN * mean[index]! + (1 - BETA_MEAN) * slope
      square[index] = BETA_SQUARE * square[index]! + (1 - BETA_SQUARE) * slope * slope
      const unbiasedMean = mean[index]! / (1 - BETA_MEAN ** time)
      const unbiasedSquare = square[index]! / (1 - BETA_SQUARE ** time)
      return value + (rate * unbiasedMean) / (Math.sqrt(unbiasedSquare) + EPSILON)
    })
  }
  return (weights, gradient) => {
    time += 1
    return { ...weights, bigram: move('bigram', weights, gradient), memory: move('memory', weights, gradient) }
  }
}
