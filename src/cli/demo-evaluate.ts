/**
 * The demo's evaluations: every digit a few times, under the weights of one version, in slots that rollouts give back for it.
 */
import type { EvaluateOptions, Group, Supervisor, Task } from '../index.ts'
import { EOS, hash32 } from '../testing/index.ts'
import { countdownReward, DIGITS, MAX_TOKENS } from './countdown.ts'

/** What one evaluation came to. */
export interface Evaluated {
  readonly step: number
  /** Clock milliseconds of its end. */
  readonly at: number
  /** Mean reward. */
  readonly score: number
  readonly samples: number
  /** Version of every token, or null where they are not all of one (F10). */
  readonly version: number | null
}

export interface EvaluationOptions {
  readonly supervisor: Supervisor
  readonly seed: number
  readonly step: number
  /** Of each digit. */
  readonly samples: number
  readonly interrupt: NonNullable<EvaluateOptions['interrupt']>
  readonly signal: AbortSignal
  readonly now: () => number
}

/** Null when it was cut short. */
export async function evaluatePolicy(options: EvaluationOptions): Promise<Evaluated | null> {
  const { supervisor, seed, step, samples, interrupt, signal, now } = options
  const tasks = Array.from({ length: DIGITS }, (_, digit): Task<number> => {
    const sampling = {
      maxTokens: MAX_TOKENS,
      temperature: 1,
      stopTokenIds: [EOS],
      seed: hash32(seed, step, 1_000 + digit),
    }
    return { id: `evaluation-${step}-${digit}`, prompt: [digit], samples, sampling, meta: digit }
  })
  const groups = await supervisor.evaluate(tasks, { interrupt, signal })
  const scores = groups.flatMap(scoresOf)
  if (signal.aborted || scores.length === 0) return null
  const versions = new Set(
    groups.flatMap(({ completions }) => completions.flatMap((each) => each.versions)).map(({ version }) => version),
  )
  return {
    step,
    at: now(),
    score: scores.reduce((sum, score) => sum + score, 0) / scores.length,
    samples: scores.length,
    version: versions.size === 1 ? [...versions][0]! : null,
  }
}

function scoresOf({ completions, meta }: Group<number>): number[] {
  return completions
    .filter(({ outcome }) => outcome === 'completed')
    .map(({ tokenIds }) => countdownReward(meta, tokenIds))
}
