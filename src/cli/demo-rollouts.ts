/**
 * Where the demo's training loop gets the groups of its next step from. On-policy: asked for step by step, some more than the step waits for.
 * Off-policy: out of a stream of batches that goes on while the trainer trains, one version ahead of it at most.
 */
import type { Group, Task } from '../index.ts'
import { createRandom, EOS, hash32, type Random } from '../testing/index.ts'
import { drawDigits, MAX_TOKENS } from './countdown.ts'
import { createOpenGroups, type Prompt } from './demo-groups.ts'
import type { TrainingOptions } from './demo-train.ts'

export type { Prompt } from './demo-groups.ts'

export interface DemoRollouts {
  begin(step: number): void
  /** Resolves when so many groups of the step are done, where it is known which those are; else at once. */
  middle(groups: number): Promise<void>
  /** The groups of the step. After an end they are cancelled, or there are none. */
  take(): Promise<readonly Group<Prompt>[]>
  /** Groups that have ended since the last were taken. */
  readonly done: number
  /** Cancels what is in flight, now and later. */
  end(reason: unknown): void
}

const MAX_STALENESS = 1

export function createRollouts(options: TrainingOptions): DemoRollouts {
  const random = createRandom(options.demo.seed)
  return options.demo.mode === 'off-policy' ? offPolicy(options, random) : onPolicy(options, random)
}

function onPolicy({ demo, supervisor }: TrainingOptions, random: Random): DemoRollouts {
  const open = createOpenGroups(supervisor)
  return {
    begin(step) {
      const digits = drawDigits(demo.groups + (step === 1 ? demo.extra : 0), random.next)
      open.begin(digits.map((digit, index) => taskOf(demo, digit, step, index)))
    },
    middle: (groups) => open.ended(groups),
    take: () => open.take(demo.groups),
    get done() {
      return open.done
    },
    end: (reason) => open.cancel(reason),
  }
}

function offPolicy({ demo, supervisor, signal }: TrainingOptions, random: Random): DemoRollouts {
  function* tasks(): Generator<Task<Prompt>> {
    for (let step = 1; ; step++)
      for (const [index, digit] of drawDigits(demo.groups, random.next).entries())
        yield taskOf(demo, digit, step, index)
  }
  const batches = supervisor.batches(tasks(), { size: demo.groups, maxStaleness: MAX_STALENESS, signal })
  let done = 0
  const counting = supervisor.groups$.subscribe(({ kind }) => {
    if (kind === 'rollout') done += 1
  })
  let next: Promise<readonly Group<Prompt>[]> = Promise.resolve([])
  async function batch(): Promise<readonly Group<Prompt>[]> {
    try {
      const { done: isOver, value } = await batches.next()
      return isOver === true ? [] : value.groups
    } catch (error) {
      if (signal.aborted) return []
      throw error
    }
  }
  return {
    begin() {
      next = batch()
      // Whoever takes it is told; until then it is nobody's rejection.
      next.catch(() => {})
    },
    middle: async () => {},
    async take() {
      const groups = await next
      done = Math.max(0, done - groups.length)
      return groups
    },
    get done() {
      return done
    },
    end() {
      counting.unsubscribe()
      batches.return?.().catch(() => {})
    },
  }
}

function taskOf(demo: TrainingOptions['demo'], digit: number, step: number, index: number): Task<Prompt> {
  return {
    id: `step-${step}-${index}`,
    prompt: [digit],
    sampling: { maxTokens: MAX_TOKENS, temperature: 1, stopTokenIds: [EOS], seed: hash32(demo.seed, step, index) },
    samples: demo.samples,
    meta: { digit },
  }
}
