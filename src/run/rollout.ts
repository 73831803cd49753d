/**
 * The handle of one submitted task: its id, its result, its events, and a way to cancel it.
 */
import type { Group } from '../rollout/group.ts'
import type { LiveTask, Sample } from '../rollout/sample.ts'
import { tokenCount } from '../rollout/sample.ts'
import { type RolloutEvent, taskEvents } from '../streams/task-events.ts'
import type { WaitReason } from '../telemetry/events.ts'
import { cancel, groupOf } from './intake.ts'
import { reasonOf } from './placement.ts'
import type { Run } from './run.ts'

/** A submitted task. Made by `submit`. */
export class Rollout<M = unknown> {
  readonly #run: Run
  readonly #task: LiveTask
  #result: Promise<Group<M>> | null = null

  constructor(run: Run, task: LiveTask) {
    this.#run = run
    this.#task = task
  }

  get id(): string {
    return this.#task.id
  }

  /** The whole group, when every sample has ended. Never rejects: failed samples are in the group. */
  get result(): Promise<Group<M>> {
    this.#result ??= groupOf(this.#task) as Promise<Group<M>>
    return this.#result
  }

  /** What happens to this task, from where it is now; tokens included. Ends with the task. */
  get events(): AsyncIterable<RolloutEvent> {
    return taskEvents(this.#task, () => this.#task.samples.map((sample) => present(this.#run, sample)))
  }

  /** What each waiting sample waits for, by sample. */
  get waitingFor(): ReadonlyMap<number, WaitReason> {
    const waiting = this.#task.samples.filter((sample) => sample.status === 'waiting')
    return new Map(waiting.map((sample) => [sample.index, reasonOf(this.#run, sample)]))
  }

  /** Ends every sample that has not ended, at once; a second call does nothing. */
  cancel(reason?: unknown): void {
    cancel(this.#run, this.#task, reason)
  }
}

function present(run: Run, sample: Sample): RolloutEvent {
  const { task, index } = sample
  const base = { at: run.clock.now(), taskId: task.id, sample: index, kind: task.spec.kind }
  const attempt = run.attempts.get(sample)
  if (attempt !== undefined) {
    return {
      ...base,
      type: 'sample.placed',
      instance: attempt.instance.id,
      lease: attempt.lease,
      resumedTokens: attempt.start,
    }
  }
  if (sample.status === 'ended') {
    return { ...base, type: 'sample.ended', outcome: task.completions[index]!.outcome, tokens: tokenCount(sample) }
  }
  return { ...base, type: 'sample.queued', reason: sample.segments.length === 0 ? 'submitted' : 'retry' }
}
