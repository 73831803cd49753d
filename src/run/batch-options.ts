/**
 * Options of `batches()`, checked before anything is asked of the source.
 */
import { checkCall, checkFunction, checkInteger, checkNumber, checkOneOf, checkSignal } from '../checks.ts'
import { show } from '../problems.ts'
import type { Group } from '../rollout/group.ts'
import { type BatchOrder, batchOrders } from '../scheduling/batch-order.ts'
import { isSource, type TaskSource } from './source.ts'

/** Options of `batches()`. */
export interface BatchesOptions<M = unknown> {
  /** Groups in a batch: integer >= 1. */
  readonly size: number
  /**
   * Versions of the weights that a token may be behind when its batch is handed out: integer >= 0. Generation runs ahead of the
   * trainer by as many batches; 0 makes none while it trains. A trainer that updates several times a batch counts
   * versions, not batches. @default 1
   */
  readonly maxStaleness?: number
  /**
   * Sees each whole group, and says whether it is to be trained on: a reward filter, dynamic sampling. A group that is
   * rejected frees its budget. One that throws, or answers neither true nor false, rejects the group as `undecided`. @default all
   */
  readonly accept?: (group: Group<M>) => boolean | Promise<boolean>
  /** Milliseconds that an answer of `accept` may take. @default none */
  readonly acceptTimeoutMs?: number
  /**
   * Which of the finished groups go first. `oldest-first` and `as-completed` wait for none that runs, so that slots stay busy, and a group that
   * takes more than maxStaleness updates is dropped; `source` waits for each in its turn, loses none, and lets slots idle meanwhile. @default 'oldest-first'
   */
  readonly order?: BatchOrder
  /** Groups with tokens older than maxStaleness are dropped, partial ones before they resume, or handed out and marked. @default 'drop' */
  readonly tooOld?: 'drop' | 'mark'
  /** Groups with samples that were not completed are rejected, or offered to `accept` as others are. @default 'reject' */
  readonly incomplete?: 'reject' | 'offer'
  /** Groups rejected in a row, with none accepted between them, that end the stream with ALL_REJECTED. @default 10 batches, at least 256 */
  readonly maxRejected?: number
  /** Aborting it cancels what runs; the reader is told its reason. */
  readonly signal?: AbortSignal
}

export interface CheckedBatches {
  readonly size: number
  readonly maxStaleness: number
  readonly accept: ((group: Group) => unknown) | undefined
  readonly acceptTimeoutMs: number | null
  readonly order: BatchOrder
  readonly drop: boolean
  readonly offerIncomplete: boolean
  readonly maxRejected: number
  readonly signal: AbortSignal | undefined
}

const KEYS = [
  'size',
  'maxStaleness',
  'accept',
  'acceptTimeoutMs',
  'order',
  'tooOld',
  'incomplete',
  'maxRejected',
  'signal',
] as const

const DEFAULT_STALENESS = 1
/** As DAPO gives up after ten batches of one training step; a floor, because ten small batches can all be bad luck. */
const REJECTED_BATCHES = 10
const LEAST_REJECTED = 256

/** @throws RolloutError INVALID_OPTIONS that lists every problem */
export function checkBatches<M>(source: TaskSource<M>, options: BatchesOptions<M>): CheckedBatches {
  return checkCall('batches', KEYS, options, (report) => {
    if (!isSource(source)) report('source', 'an iterable or async iterable of tasks', show(source))
    if (options.size === undefined) report('size', 'an integer of at least 1', 'nothing')
    const size = checkInteger(report, 'size', options.size, { min: 1 }, 1)
    const patience = Math.max(LEAST_REJECTED, REJECTED_BATCHES * size)
    return {
      size,
      maxStaleness: checkInteger(report, 'maxStaleness', options.maxStaleness, { min: 0 }, DEFAULT_STALENESS),
      accept: checkFunction(report, 'accept', options.accept) as CheckedBatches['accept'],
      acceptTimeoutMs: checkNumber(report, 'acceptTimeoutMs', options.acceptTimeoutMs, { min: 0 }, null),
      order: checkOneOf(report, 'order', options.order, batchOrders, 'oldest-first'),
      drop: checkOneOf(report, 'tooOld', options.tooOld, ['drop', 'mark'], 'drop') === 'drop',
      offerIncomplete: checkOneOf(report, 'incomplete', options.incomplete, ['reject', 'offer'], 'reject') === 'offer',
      maxRejected: checkInteger(report, 'maxRejected', options.maxRejected, { min: 1 }, patience),
      signal: checkSignal(report, options.signal),
    }
  })
}
