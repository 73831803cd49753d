/**
 * What `save()` writes: plain data that JSON holds without loss. Token ids and log-probabilities are the bytes of their arrays, in base64, so
 * every bit comes back (I8). Times are milliseconds of the clock that `at` was read from, which a restored run shifts to its own.
 */
import type { Completion, FinishReason, LogprobBasis, Outcome, Segment, VersionSpan } from './completion.ts'
import type { ChatMessage, CheckedSampling, TaskKind } from './task.ts'
import type { QueueLane } from './waiter.ts'

export const SAVED_FORMAT = 'rollout-supervisor'
/** Grows with every change that older code cannot read. */
export const SAVED_VERSION = 1

/** A run as `save()` leaves it: write it with your own checkpoint, and hand it to `createSupervisor({ restore })`. */
export interface SavedState {
  readonly format: typeof SAVED_FORMAT
  /** Of the format. */
  readonly version: typeof SAVED_VERSION
  /** Version of the policy weights; null before the first update. */
  readonly weights: number | null
  /** Clock milliseconds of the moment. */
  readonly at: number
  /** The last numbers that ids were given from. */
  readonly last: { readonly task: number; readonly request: number; readonly episode: number }
  /** Samples that had ended, in all. */
  readonly ended: Readonly<Record<Outcome, number>>
  readonly tasks: readonly SavedTask[]
  /** Who waits, in order: pairs of an index in `tasks` and a sample. What was running is the last of the interrupted. */
  readonly line: Readonly<Record<QueueLane, readonly number[]>>
  /** Completions that a reader of `completions()` had not taken yet. */
  readonly unread: readonly SavedCompletion[]
  /** What is code, and cannot be saved: live episodes, and signals of tasks that would cancel them. */
  readonly leftOut: { readonly episodes: number; readonly signals: number }
}

/** A task that has not been handed out whole. */
export interface SavedTask {
  readonly id: string
  readonly prompt: string | readonly ChatMessage[] | { readonly ids: string }
  /** Token ids that a server has made of the prompt. */
  readonly promptIds: string | null
  readonly sampling: CheckedSampling
  readonly samples: number
  readonly kind: TaskKind
  readonly priority: number
  readonly sessionId: string | null
  readonly minVersion: number | null
  readonly meta?: unknown
  readonly started: boolean
  readonly submittedAt: number
  /** Whose batch it belongs to: the next `rollout()` or `batches()` takes it over. */
  readonly keptFor: 'rollout' | 'batches' | null
  /** Samples that have been placed at least once, and have not ended. */
  readonly begun: readonly SavedSample[]
  /** Samples that have ended: kept until the group is whole. */
  readonly completions: readonly SavedCompletion[]
}

/** Tokens of a sample so far. */
export interface SavedTokens {
  readonly ids: string
  /** Null where the engine gives none. */
  readonly logprobs: string | null
  readonly basis: LogprobBasis
  readonly text: string | null
  readonly versions: readonly VersionSpan[]
}

/** A sample that goes on. */
export interface SavedSample {
  readonly sample: number
  readonly waitedMs: number
  readonly heldMs: number
  readonly firstTokenAt: number | null
  readonly fruitless: number
  readonly restarts: number
  /** Null where it begins again. */
  readonly tokens: SavedTokens | null
  readonly segments: readonly Segment[]
}

/** A completion, and of its error what it says. */
export interface SavedCompletion {
  readonly taskId: string
  readonly sample: number
  readonly kind: TaskKind
  readonly outcome: Outcome
  readonly finishReason: FinishReason | null
  readonly tokens: SavedTokens
  readonly segments: readonly Segment[]
  readonly timings: Completion['timings']
  readonly error: {
    readonly code: string
    readonly message: string
    readonly instance?: string
    readonly status?: number
  } | null
  readonly meta?: unknown
}
