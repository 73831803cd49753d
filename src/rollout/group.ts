/**
 * The samples of one task, whole and in order, with a note of what is missing and why (F16).
 */
import type { RolloutError } from '../errors.ts'
import type { Completion, Outcome } from './completion.ts'
import type { TaskKind } from './task.ts'

/** The samples of one task, in order, when all have ended. */
export interface Group<M = unknown> {
  readonly taskId: string
  readonly kind: TaskKind
  /** One completion for every sample, in sample order, whatever its outcome. */
  readonly completions: readonly Completion<M>[]
  /** True when every sample is `completed`. */
  readonly complete: boolean
  readonly missing: readonly {
    readonly sample: number
    readonly outcome: Outcome
    readonly error: RolloutError | null
  }[]
  readonly meta: M
}

export function createGroup<M>(
  taskId: string,
  kind: TaskKind,
  completions: readonly Completion<M>[],
  meta: M,
): Group<M> {
  const missing = completions
    .filter((completion) => completion.outcome !== 'completed')
    .map(({ sample, outcome, error }) => ({ sample, outcome, error }))
  return { taskId, kind, completions, complete: missing.length === 0, missing, meta }
}
