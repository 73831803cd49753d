/**
 * Every error of the package is a RolloutError with a code from one closed table.
 * `retryable` says whether the same call can succeed later without a change by the caller.
 */
import type { Problem } from './problems.ts'

const TABLE = {
  INVALID_OPTIONS: {
    retryable: false,
    means: 'createSupervisor or a handle method was given options that cannot be used',
  },
  INVALID_TASK: { retryable: false, means: 'a task cannot be run as given; nothing of it was admitted' },
  DUPLICATE_TASK: { retryable: false, means: 'a task or episode with this id is still live' },
  DUPLICATE_INSTANCE: { retryable: false, means: 'an instance with this id or url is already in the fleet' },
  UNKNOWN_INSTANCE: { retryable: false, means: 'no instance of the fleet has this id' },
  UNKNOWN_LEASE: { retryable: false, means: 'the lease was never granted, or was released before' },
  CLOSED: { retryable: false, means: 'the supervisor is closing or closed' },
  WRONG_PHASE: { retryable: true, means: 'the operation does not fit what the run is doing' },
  NO_INSTANCES: { retryable: true, means: 'too few instances answer for the run to go on' },
  UNREACHABLE: { retryable: true, means: 'an instance does not answer' },
  WRONG_PROTOCOL: { retryable: false, means: 'an instance answers, but not in the protocol of its engine' },
  TRANSPORT: { retryable: true, means: 'a connection broke, or a stream ended before its terminal event' },
  REQUEST_REJECTED: { retryable: false, means: 'the engine refused this request (400, 413, 422)' },
  INSTANCE_FAULT: { retryable: true, means: 'the instance refuses requests as such (401, 403, 404, 405)' },
  ENGINE_ERROR: { retryable: true, means: 'the engine failed while working on the request (5xx)' },
  BUSY: { retryable: true, means: 'the engine has no room at the moment (408, 429, 503)' },
  ATTEMPTS_EXHAUSTED: { retryable: true, means: 'too many attempts in a row yielded no new token' },
  WAIT_TIMEOUT: { retryable: true, means: 'the sample got no slot within waitMs' },
  FIRST_TOKEN_TIMEOUT: { retryable: true, means: 'an attempt yielded no token within firstTokenMs' },
  PROGRESS_TIMEOUT: { retryable: true, means: 'an attempt stood still for progressMs' },
  STALLED: { retryable: true, means: 'a server answers, but its generations stand still' },
  TOTAL_TIMEOUT: { retryable: true, means: 'the sample held slots for longer than totalMs' },
  CANCELLED: { retryable: false, means: 'the caller cancelled the task' },
  TOO_OLD: { retryable: false, means: 'tokens of the group are older than maxStaleness allows; it was dropped' },
  ALL_REJECTED: { retryable: false, means: 'no group of a batch could be used: all were rejected or failed' },
  SOURCE_FAILED: { retryable: false, means: 'a source of tasks threw, or yielded what is no task' },
  ACCEPT_FAILED: { retryable: false, means: 'accept threw, or gave no answer, about a group' },
  EPISODE_FAILED: { retryable: true, means: 'the code of an episode threw' },
  EPISODE_TIMEOUT: { retryable: true, means: 'an episode had not ended within its timeoutMs' },
  EPISODE_MISUSE: {
    retryable: false,
    means: 'the code of an episode generated after its end or twice at once, or left a turn without waiting for it',
  },
  NOT_SAVABLE: { retryable: false, means: 'a task carries something that a saved state cannot hold' },
  EVALUATION_TIMEOUT: { retryable: true, means: 'the sample had not ended when its evaluation ran out of time' },
  UPDATE_FAILED: { retryable: true, means: 'a weight update failed on too many instances' },
  POLICY_FAILED: { retryable: false, means: 'a user policy threw or answered with an instance that cannot take work' },
  MACHINE_FAILED: { retryable: false, means: "a user's own instance machine threw" },
} as const

/** Codes of RolloutError: a closed union, explained in `errorTable`. */
export type RolloutErrorCode = keyof typeof TABLE

/** The table of codes, for documentation and for tests. */
export const errorTable: Readonly<Record<RolloutErrorCode, { readonly retryable: boolean; readonly means: string }>> =
  TABLE

/** What a RolloutError may carry beside its message. */
export interface RolloutErrorFields {
  /** The instance that the error is about. */
  readonly instance?: string
  /** HTTP status, where a server answered with one. */
  readonly status?: number
  /** How long the server asked to wait, in milliseconds (`Retry-After`). */
  readonly retryAfterMs?: number
  /** Every problem found in the input, for INVALID_OPTIONS and INVALID_TASK. */
  readonly problems?: readonly Problem[]
  /** Errors of single instances, for errors about the fleet. */
  readonly errors?: readonly RolloutError[]
  readonly cause?: unknown
}

const MARK = Symbol.for('rollout-supervisor.RolloutError')

/** The one error class of the package. */
export class RolloutError extends Error {
  override readonly name = 'RolloutError'
  readonly code: RolloutErrorCode
  readonly retryable: boolean
  readonly instance: string | undefined
  readonly status: number | undefined
  readonly retryAfterMs: number | undefined
  readonly problems: readonly Problem[]
  readonly errors: readonly RolloutError[]

  constructor(code: RolloutErrorCode, message: string, fields: RolloutErrorFields = {}) {
    super(message, fields.cause === undefined ? undefined : { cause: fields.cause })
    this.code = code
    this.retryable = TABLE[code].retryable
    this.instance = fields.instance
    this.status = fields.status
    this.retryAfterMs = fields.retryAfterMs
    this.problems = fields.problems ?? []
    this.errors = fields.errors ?? []
    Object.defineProperty(this, MARK, { value: true })
  }

  /** True for errors of any copy of this package, unlike `instanceof`. */
  static isInstance(error: unknown): error is RolloutError {
    return typeof error === 'object' && error !== null && MARK in error
  }
}

/** What a caught value says, for messages. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** A caught value as one of our errors: itself where it is one, else of this code, about this instance. */
export function toRolloutError(cause: unknown, code: RolloutErrorCode, what: string, instance: string): RolloutError {
  return RolloutError.isInstance(cause)
    ? cause
    : new RolloutError(code, `${what}: ${messageOf(cause)}`, { instance, cause })
}
