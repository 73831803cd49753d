/**
 * Where the demo's training loop gets the groups of its next step from. On-policy: asked for, and waited for, step by step. Off-policy: out of
 * a stream of batches that goes on while the trainer trains, one version ahead of it at most.
 */
import type { Group, Task } from '../index.ts'
import { createRandom, EOS, hash32, type Random } from '../testing/index.ts'
import { drawDigits, MAX_TOKENS } from './countdown.ts'
import type { TrainingOptions } from './demo-train.ts'

export interface Prompt {
  readonly digit: number
}

export interface DemoRollouts {
  /** The groups of a step. When the demo is told to stop they end at once, cancelled, or there are none. */
  next(step: number): Promise<readonly Group<Prompt>[]>
  /** Cancels what was begun for steps that will not come. */
  end(): Promise<unknown>
}

const MAX_STALENESS = 1

export function createRollouts(options: TrainingOptions): DemoRollouts {
  const random = createRandom(options.demo.seed)
  return options.demo.mode === 'off-policy' ? offPolicy(options, random) : onPolicy(options, random)
}

function onPolicy(options: TrainingOptions, random: Random): DemoRollouts {
  const { demo, supervisor, signal } = options
  return {
    async next(step) {
      const digits = drawDigits(demo.groups, random.next)
      const rollouts = digits.map((digit, index) => supervisor.submit<Prompt>(taskOf(options, digit, step, index)))
      const cancel = (): void => {
        for (const rollout of rollouts) rollout.cancel(signal.reason)
      }
      signal.addEventListener('abort', cancel, { once: true })
      if (signal.aborted) cancel()
      try {
        return await Promise.all(rollouts.map((rollout) => rollout.result))
      } finally {
        signal.removeEventListener('abort', cancel)
      }
    },
    end: async () => {},
  }
}

function offPolicy(options: TrainingOptions, random: Random): DemoRollouts {
  const { demo, supervisor, signal } = options
  function* tasks(): Generator<Task<Prompt>> {
    for (let step = 1; ; step++)
      for (const [index, digit] of drawDigits(demo.groups, random.next).entries())
        yield taskOf(options, digit, step, index)
  }
  const batches = supervisor.batches(tasks(), { size: demo.groups, maxStaleness: MAX_STALENESS, signal })
  return {
    async next() {
      try {
        const { done, value } = await batches.next()
        return done === true ? [] : value.groups
      } catch (error) {
        if (signal.aborted) return []
        throw error
      }
    },
    end: async () => batches.return?.(),
  }
}

function taskOf({ demo }: TrainingOptions, digit: number, step: number, index: number): Task<Prompt> {
  return {
    id: `step-${step}-${index}`,
    prompt: [digit],
    sampling: { maxTokens: MAX_TOKENS, temperature: 1, stopTokenIds: [EOS], seed: hash32(demo.seed, step, index) },
    samples: demo.samples,
    meta: { digit },
  }
}
