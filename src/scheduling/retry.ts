/**
 * What happens to a sample whose attempt failed. Pure: told what happened, it says what to do (decisions 16, 17).
 */
import type { RolloutErrorCode } from '../errors.ts'

export type RetryAction =
  /** Wait in the retry class; after `afterMs` when that is more than 0. */
  | { readonly action: 'retry'; readonly afterMs: number }
  /** End the sample as failed with the error itself. */
  | { readonly action: 'fail' }
  /** End the sample as failed with ATTEMPTS_EXHAUSTED. */
  | { readonly action: 'exhausted' }

export interface Failure {
  readonly code: RolloutErrorCode
  /** Attempts in a row without a new token, this one included. */
  readonly fruitless: number
  /** Times in a row that engines were busy, this one included. */
  readonly busy: number
  /** True when every instance of the fleet refused this sample as its own fault. */
  readonly refusedByAll: boolean
  readonly retryAfterMs: number | undefined
}

/** Wait after the second failure in a row; the first is retried at once, elsewhere if possible. */
const FIRST_BACKOFF_MS = 100
const MAX_BACKOFF_MS = 5_000
/** A server that asks for more is asked again all the same. */
const LONGEST_WAIT_MS = 300_000

export function decideRetry(failure: Failure, attempts: number): RetryAction {
  switch (failure.code) {
    case 'REQUEST_REJECTED':
    case 'INVALID_TASK':
      return { action: 'fail' }
    case 'BUSY':
      return { action: 'retry', afterMs: waitAsAsked(failure.retryAfterMs) ?? backoffMs(failure.busy) }
    case 'INSTANCE_FAULT':
      if (failure.refusedByAll) return { action: 'fail' }
      break
    default:
      break
  }
  if (failure.fruitless >= attempts) return { action: 'exhausted' }
  return { action: 'retry', afterMs: failure.fruitless <= 1 ? 0 : backoffMs(failure.fruitless - 1) }
}

/** What a server asks for, within reason: neither at once nor never. */
function waitAsAsked(ms: number | undefined): number | undefined {
  return ms === undefined ? undefined : Math.min(Math.max(ms, FIRST_BACKOFF_MS), LONGEST_WAIT_MS)
}

/** After so many times in a row that came to nothing. */
export function backoffMs(times: number): number {
  return Math.min(FIRST_BACKOFF_MS * 2 ** Math.min(20, times - 1), MAX_BACKOFF_MS)
}
