/**
 * The demo's trainer: the gradient is the gradient, advantages compare within a group, and training learns the task.
 */
import { describe, expect, it } from 'vitest'
import { countdownReward, drawDigits, MAX_TOKENS, wantedTokens } from '../../src/cli/countdown.ts'
import { groupAdvantages, surrogate, type TrainingSample } from '../../src/cli/grpo.ts'
import { createTrainer } from '../../src/cli/trainer.ts'
import {
  createRandom,
  createTinyWeights,
  EOS,
  scoreTokens,
  type TinyWeights,
  tokenDistribution,
} from '../../src/testing/index.ts'

function sampleAnswer(
  weights: TinyWeights,
  digit: number,
  random: () => number,
): { tokens: number[]; logprobs: number[] } {
  const context = [digit]
  const logprobs: number[] = []
  while (logprobs.length < MAX_TOKENS && context.at(-1) !== EOS) {
    const distribution = tokenDistribution(weights, context)
    let left = random()
    const found = distribution.findIndex((logprob) => {
      left -= Math.exp(logprob)
      return left < 0
    })
    const token = found === -1 ? distribution.length - 1 : found
    logprobs.push(distribution[token]!)
    context.push(token)
  }
  return { tokens: context.slice(1), logprobs }
}

describe('countdown reward', () => {
  const E = EOS
  it.each([
    ['the right answer', 3, [2, 1, 0, E], 1],
    ['the shortest right answer', 0, [E], 1],
    ['half of it, then something else', 3, [2, 1, 7, E], 0.5],
    ['everything but the end', 3, [2, 1, 0], 0.75],
    ['everything but the end, then more', 3, [2, 1, 0, 0, E], 0.75],
    ['something after the end', 3, [2, 1, 0, E, 5], 0.75],
    ['an end too early', 9, [E], 0],
    ['nothing right', 9, [9, 8, 7], 0],
    ['no tokens', 5, [], 0],
  ])('gives %s of %i what it is worth', (_, digit, tokens, reward) => {
    expect(countdownReward(digit, tokens)).toBeCloseTo(reward, 12)
  })

  it('is 1 for the wanted tokens of every digit', () => {
    for (let digit = 0; digit < 10; digit++) expect(countdownReward(digit, wantedTokens(digit))).toBe(1)
  })

  it('draws every digit as often as any other', () => {
    const digits = drawDigits(40, createRandom(1).next)
    expect(digits.toSorted()).toEqual(Array.from({ length: 40 }, (_, index) => Math.floor(index / 4)))
    expect(digits).not.toEqual(digits.toSorted())
  })
})

describe('GRPO', () => {
  it('advantages have mean 0 and deviation 1 within a group, and are 0 where all rewards are equal', () => {
    expect(groupAdvantages([0, 1])).toEqual([-1, 1])
    expect(groupAdvantages([0.3, 0.3, 0.3])).toEqual([0, 0, 0])
    const advantages = groupAdvantages([0.1, 0.2, 0.7, 0.9])
    expect(advantages.reduce((sum, value) => sum + value, 0)).toBeCloseTo(0, 12)
    expect(advantages.reduce((sum, value) => sum + value ** 2, 0) / 4).toBeCloseTo(1, 12)
  })

  it.each([0, 1, 2, 3])(
    'the gradient agrees with finite differences, also where ratios are clipped (seed %i)',
    (seed) => {
      const random = createRandom(seed)
      const old = createTinyWeights({ seed })
      const weights = createTinyWeights({ seed: seed + 100 })
      const samples = Array.from({ length: 6 }, (_, index): TrainingSample => {
        const digit = random.int(10)
        const { tokens } = sampleAnswer(old, digit, random.next)
        return {
          prompt: [digit, index],
          tokens,
          logprobs: scoreTokens(old, [digit, index], tokens),
          advantage: index - 2.5,
        }
      })
      const clip = 0.3
      const { gradient, clipped } = surrogate(weights, samples, clip)
      expect(clipped).toBeGreaterThan(0)
      expect(clipped).toBeLessThan(1)
      const step = 1e-6
      for (const table of ['bigram', 'memory'] as const) {
        for (let index = 0; index < gradient[table].length; index += 1) {
          const at = (change: number) => {
            const moved = { ...weights, [table]: weights[table].with(index, weights[table][index]! + change) }
            return surrogate(moved, samples, clip).objective
          }
          expect(gradient[table][index]).toBeCloseTo((at(step) - at(-step)) / (2 * step), 6)
        }
      }
    },
  )

  it('on-policy every ratio is 1: nothing is clipped, and the objective is the mean advantage of a token', () => {
    const weights = createTinyWeights({ seed: 4 })
    const tokens = [3, 2, 1]
    const sample = { prompt: [4], tokens, logprobs: scoreTokens(weights, [4], tokens), advantage: 0.5 }
    const result = surrogate(weights, [sample], 0.2)
    expect(result).toMatchObject({ clipped: 0, tokens: 3 })
    expect(result.objective).toBeCloseTo(0.5, 12)
  })

  it('every token is weighed against the version that sampled it, also where a sample lived through updates', () => {
    const versions = [createTinyWeights({ seed: 5 }), createTinyWeights({ seed: 6 }), createTinyWeights({ seed: 7 })]
    const now = createTinyWeights({ seed: 8 })
    const tokens = [3, 9, 2, 2, 14, EOS]
    const prompt = [4]
    const stored = versions.flatMap((weights, index) => [
      ...scoreTokens(weights, prompt, tokens).slice(index * 2, index * 2 + 2),
    ])
    const current = scoreTokens(now, prompt, tokens)
    const clip = 0.2
    for (const advantage of [1, -1]) {
      const terms = stored.map((logprob, index) => {
        const ratio = Math.exp(current[index]! - logprob)
        return Math.min(ratio * advantage, Math.min(Math.max(ratio, 1 - clip), 1 + clip) * advantage)
      })
      const expected = terms.reduce((sum, term) => sum + term, 0) / tokens.length
      const { objective } = surrogate(now, [{ prompt, tokens, logprobs: stored, advantage }], clip)
      expect(objective).toBeCloseTo(expected, 12)
      const ofOneVersion = scoreTokens(versions[0]!, prompt, tokens)
      expect(surrogate(now, [{ prompt, tokens, logprobs: ofOneVersion, advantage }], clip).objective).not.toBeCloseTo(
        expected,
        3,
      )
    }
  })

  it('has nothing to say about no samples', () => {
    const { objective, gradient } = surrogate(createTinyWeights(), [], 0.2)
    expect(objective).toBe(0)
    expect(gradient.bigram.every((value) => value === 0)).toBe(true)
  })
})

describe('training', () => {
  it.each([1, 2, 3])('takes the mean reward from below 0.15 to above 0.9 (seed %i)', (seed) => {
    const random = createRandom(seed)
    const first = createTinyWeights({ seed })
    const before = first.bigram.slice()
    const trainer = createTrainer({ weights: first })
    const rewards: number[] = []
    while (rewards.length < 60 && !(rewards.length > 1 && rewards.slice(-2).every((reward) => reward > 0.9))) step()
    function step(): void {
      const groups = drawDigits(20, random.next).map((digit) => ({
        samples: Array.from({ length: 8 }, () => {
          const answer = sampleAnswer(trainer.weights, digit, random.next)
          return { ...answer, prompt: [digit], reward: countdownReward(digit, answer.tokens) }
        }),
      }))
      const all = groups.flatMap((group) => group.samples)
      rewards.push(all.reduce((sum, sample) => sum + sample.reward, 0) / all.length)
      trainer.step(groups)
    }
    expect(rewards[0]).toBeLessThan(0.15)
    expect(rewards.at(-1)).toBeGreaterThan(0.9)
    expect(first.bigram).toEqual(before)
  })
})
