/**
 * An evaluation whose turn it is, and who may be placed while it lasts.
 *
 *     resume, restart   evaluations first; where slots are missing, just so many rollouts give theirs back, the cheapest context first, and of
 *                       like ones not all of one server: each frees its slots when its step ends, so the first of several comes sooner
 *     share             evaluations first, in slots that are free or become free
 *     drain             evaluations only: rollouts that run may end, others wait until it is over
 *
 * Slots that no evaluation needs go on with rollouts, but for `drain` (I7). When a pause is wanted, the evaluation may still end, and nothing
 * else is placed (D13).
 */
import { type LiveTask, type Sample, tokenCount } from '../rollout/sample.ts'
import { isTokenIds } from '../rollout/task.ts'
import { type Interruption, interrupt } from './interrupt.ts'
import type { Attempt, Instance, Run } from './run.ts'

/** What an evaluation does to rollouts that hold the slots it needs. */
export type EvaluationStyle = 'resume' | 'restart' | 'drain' | 'share'

export interface Evaluation {
  readonly style: EvaluationStyle
  readonly tasks: ReadonlySet<LiveTask>
  readonly interruption: Interruption
  /** Rollouts that gave their slot back: nobody does so twice, or two that cannot use each other's slots would go on for ever. */
  readonly disturbed: Set<Sample>
  /** True when no rollout is left that could give its slot back, until one is placed. */
  isExhausted: boolean
}

/** Whose turn it is while an evaluation lasts. */
export function nextInEvaluation(
  run: Run,
  { style, tasks }: Evaluation,
  isPauseWanted: boolean,
  skipped: ReadonlySet<number> | undefined,
): Sample | null {
  if (isPauseWanted) {
    // Others in the lane belong to nobody who waits in the line.
    for (const sample of run.queue.waitersIn('evaluation'))
      if (tasks.has(sample.task) && skipped?.has(sample.track) !== true) return sample
    return null
  }
  return style === 'drain' ? run.queue.peekIn('evaluation', skipped) : run.queue.peek(run.sinks.full, skipped)
}

/** Interrupts as many rollouts as evaluations wait for slots that are not on their way already. To be called after each placement step. */
export function makeRoom(run: Run, evaluation: Evaluation): void {
  const { style } = evaluation
  if (style === 'drain' || style === 'share' || evaluation.isExhausted || run.queue.sizeOf('evaluation') === 0) return
  const wanted = new Map<number, number>()
  for (const { track } of run.queue.waitersIn('evaluation')) wanted.set(track, (wanted.get(track) ?? 0) + 1)
  evaluation.isExhausted = true
  for (const [track, count] of wanted) {
    const instances = track === 0 ? run.instances : run.tracks[track - 1]!.members
    if (makeRoomAt(run, evaluation, instances.values(), count)) evaluation.isExhausted = false
  }
}

/** A rollout that could give its slot back: what that costs, roughly, and how many of its instance were counted before it. */
interface Candidate {
  readonly attempt: Attempt
  readonly cost: number
  readonly nth: number
}

/** To the nearest twelfth of itself: contexts that differ by less are of one cost. */
function roughly(tokens: number): number {
  return Math.round(8 * Math.log2(1 + tokens))
}

/** False where the rollouts of these instances are too few. */
function makeRoomAt(run: Run, evaluation: Evaluation, instances: Iterable<Instance>, wanted: number): boolean {
  let coming = 0
  const rollouts: Candidate[] = []
  for (const instance of instances) {
    // A slot of an instance that takes no work is of no use.
    if (instance.account.limit === 0) continue
    let nth = 0
    for (const attempt of instance.attempts) {
      if (attempt.sample === null || attempt.interruption !== null) coming++
      else if (attempt.sample.task.spec.kind === 'rollout' && !evaluation.disturbed.has(attempt.sample))
        rollouts.push({ attempt, cost: roughly(contextOf(attempt.sample)), nth: nth++ })
    }
  }
  if (coming >= wanted) return true
  rollouts.sort((a, b) => a.cost - b.cost || a.nth - b.nth)
  for (const { attempt } of rollouts) {
    if (coming === wanted) return true
    evaluation.disturbed.add(attempt.sample!)
    coming += interrupt(run, [attempt], evaluation.interruption).length
  }
  return coming === wanted
}

/** Tokens that have to be computed again when it resumes; characters of a text stand for some of them. */
function contextOf(sample: Sample): number {
  const { promptTokenIds, spec } = sample.task
  const { prompt } = spec
  if (promptTokenIds !== null) return promptTokenIds.length + tokenCount(sample)
  if (typeof prompt === 'string' || isTokenIds(prompt)) return prompt.length + tokenCount(sample)
  return prompt.reduce((sum, { content }) => sum + content.length, 0) + tokenCount(sample)
}
