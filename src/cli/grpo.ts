/**
 * Group-relative policy optimisation (GRPO, arXiv 2402.03300) on the tiny policy: advantages, the clipped surrogate and its exact gradient.
 * Pure functions: the same samples and weights give the same numbers, and the gradient is tested against finite differences.
 * The next token's logits are bigram[x_t] + (1/t) * sum_j memory[x_j] over the context x_1..x_t (prompt and what was generated so far).
 */
import type { TinyWeights } from '../testing/index.ts'

export interface TrainingSample {
  readonly prompt: ArrayLike<number>
  readonly tokens: ArrayLike<number>
  /** Of the policy that sampled the tokens, as stored in the completion: the denominator of the importance ratio. */
  readonly logprobs: ArrayLike<number>
  readonly advantage: number
}

export interface Gradient {
  readonly bigram: Float64Array
  readonly memory: Float64Array
}

export interface Surrogate {
  /** Mean over all tokens of min(ratio x advantage, clipped ratio x advantage). */
  readonly objective: number
  readonly gradient: Gradient
  readonly tokens: number
  /** Share of the tokens whose ratio was clipped, so that they pull no further. */
  readonly clipped: number
}

/** Below this the rewards of a group count as equal: there is nothing to learn from it. */
const LEAST_DEVIATION = 1e-6

/** Each reward against its own group: (reward - mean) / standard deviation. */
export function groupAdvantages(rewards: readonly number[]): number[] {
  const mean = rewards.reduce((sum, reward) => sum + reward, 0) / rewards.length
  const variance = rewards.reduce((sum, reward) => sum + (reward - mean) ** 2, 0) / rewards.length
  const deviation = Math.sqrt(variance)
  return rewards.map((reward) => (deviation < LEAST_DEVIATION ? 0 : (reward - mean) / deviation))
}

/** The objective to go up and its gradient for both tables. `clip` is the allowed distance of the importance ratio from 1. */
export function surrogate(weights: TinyWeights, samples: readonly TrainingSample[], clip: number): Surrogate {
  const size = weights.vocabularySize
  const gradient = { bigram: new Float64Array(size * size), memory: new Float64Array(size * size) }
  const total = samples.reduce((sum, sample) => sum + sample.tokens.length, 0)
  let objective = 0
  let clipped = 0
  for (const sample of samples) {
    // Nothing to learn from it, in either direction: most samples of an untrained policy.
    if (sample.advantage === 0) continue
    const pulls = forward(weights, sample, clip)
    objective += pulls.objective
    clipped += pulls.clipped
    backward(gradient, sample, pulls.logits, size, 1 / Math.max(1, total))
  }
  return { objective: objective / Math.max(1, total), gradient, tokens: total, clipped: clipped / Math.max(1, total) }
}

interface Forward {
  readonly objective: number
  readonly clipped: number
  /** Gradient by the logits of every token of the sample, one row of the vocabulary each. */
  readonly logits: Float64Array
}

function forward(weights: TinyWeights, sample: TrainingSample, clip: number): Forward {
  const size = weights.vocabularySize
  const { prompt, tokens, advantage } = sample
  const logits = new Float64Array(tokens.length * size)
  const memory = new Float64Array(size)
  for (let index = 0; index < prompt.length; index++) addRow(memory, weights.memory, prompt[index]!)
  let last = prompt[prompt.length - 1]!
  let objective = 0
  let clipped = 0
  for (let index = 0; index < tokens.length; index++) {
    const row = logits.subarray(index * size, (index + 1) * size)
    const length = prompt.length + index
    for (let id = 0; id < size; id++) row[id] = weights.bigram[last * size + id]! + memory[id]! / length
    const token = tokens[index]!
    const ratio = Math.exp(softmax(row, token) - sample.logprobs[index]!)
    // The minimum is flat where the ratio has already gone further than `clip` in the direction that the advantage asks for.
    const flat = advantage > 0 ? ratio > 1 + clip : ratio < 1 - clip
    objective += advantage * (flat ? (advantage > 0 ? 1 + clip : 1 - clip) : ratio)
    if (flat) clipped += 1
    const pull = flat ? 0 : advantage * ratio
    for (let id = 0; id < size; id++) row[id] = -pull * row[id]!
    row[token]! += pull
    addRow(memory, weights.memory, token)
    last = token
  }
  return { objective, clipped, logits }
}

/** A context token takes part in the memory of every later token t with weight 1/t: sum those from the end. */
function backward(gradient: Gradient, sample: TrainingSample, logits: Float64Array, size: number, scale: number): void {
  const { prompt, tokens } = sample
  const later = new Float64Array(size)
  for (let index = tokens.length - 1; index >= 0; index--) {
    const length = prompt.length + index
    const from = index === 0 ? prompt[prompt.length - 1]! : tokens[index - 1]!
    for (let id = 0; id < size; id++) {
      const pull = scale * logits[index * size + id]!
      gradient.bigram[from * size + id]! += pull
      later[id]! += pull / length
    }
    // Every prompt token is context of the first generated token already; a generated one of those after it.
    if (index > 0) addTo(gradient.memory, from, later)
  }
  for (let index = 0; index < prompt.length; index++) addTo(gradient.memory, prompt[index]!, later)
}

function addRow(sum: Float64Array, table: Float64Array, row: number): void {
  for (let id = 0; id < sum.length; id++) sum[id]! += table[row * sum.length + id]!
}

function addTo(table: Float64Array, row: number, values: Float64Array): void {
  for (let id = 0; id < values.length; id++) table[row * values.length + id]! += values[id]!
}

/** Turns logits into probabilities, in place; answers the log-probability of one token. */
function softmax(row: Float64Array, token: number): number {
  let largest = Number.NEGATIVE_INFINITY
  for (let id = 0; id < row.length; id++) if (row[id]! > largest) largest = row[id]!
  const chosen = row[token]! - largest
  let sum = 0
  for (let id = 0; id < row.length; id++) {
    row[id] = Math.exp(row[id]! - largest)
    sum += row[id]!
  }
  for (let id = 0; id < row.length; id++) row[id]! /= sum
  return chosen - Math.log(sum)
}
