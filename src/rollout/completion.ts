/**
 * The single terminal record of a sample (I2), and the pieces it is made of.
 * Tokens, log-probabilities and version spans always have equal length (I8).
 */
import type { RolloutError } from '../errors.ts'
import type { TaskKind } from './task.ts'

/** How a sample ended: with all its tokens, with an error, by its caller, or by a deadline. */
export type Outcome = 'completed' | 'failed' | 'cancelled' | 'expired'

/** Why the engine stopped: a stop token or string, the token budget, or a tool call. */
export type FinishReason = 'stop' | 'length' | 'toolCalls'

/** Which distribution the log-probabilities are of: the one sampled from, or the one before temperature, as with all that is greedy. */
export type LogprobBasis = 'sampled' | 'raw'

/** Weight version of the tokens `[start, end)`; null where the fleet is unversioned. */
export interface VersionSpan {
  readonly version: number | null
  readonly start: number
  readonly end: number
  /** True where some of these tokens may have been sampled from other weights than `version` says. */
  readonly mixed?: boolean
}

/** Why an attempt ended. */
export type SegmentEnd = 'finished' | 'interrupted' | 'failed' | 'busy' | 'cancelled' | 'timedOut'

/** What one attempt produced: the tokens `[start, end)` of the completion. Times are clock milliseconds. */
export interface Segment {
  readonly instance: string
  /** Id of the request at the engine. */
  readonly attempt: string
  readonly start: number
  readonly end: number
  readonly reason: SegmentEnd
  /**
   * Tokens it produced that were thrown away: all of them, because the sample began again after it (`end` is then `start`); or the last few, because
   * they ended inside a character, where its engine could not go on from.
   */
  readonly dropped?: number
  readonly placedAt: number
  readonly firstTokenAt: number | null
  readonly endedAt: number
}

/** What a sample ended with. Exactly one for each sample, whatever happened to it. */
export interface Completion<M = unknown> {
  /** `<task id>/<sample>` */
  readonly id: string
  readonly taskId: string
  readonly sample: number
  readonly kind: TaskKind
  readonly outcome: Outcome
  readonly finishReason: FinishReason | null
  /** Decoded text, or null where the engine sends none. */
  readonly text: string | null
  readonly tokenIds: Int32Array
  /** Natural logarithms, as long as tokenIds; empty where the engine gives none. */
  readonly logprobs: Float32Array
  readonly versions: readonly VersionSpan[]
  readonly logprobBasis: LogprobBasis
  readonly segments: readonly Segment[]
  readonly timings: { readonly waitedMs: number; readonly firstTokenMs: number | null; readonly totalMs: number }
  readonly error: RolloutError | null
  readonly meta: M
}
