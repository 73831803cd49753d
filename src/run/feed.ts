/**
 * Work that is asked for when slots are free and nothing waits: a stream of batches, as placement and the views see it.
 */
import type { Rejections } from '../rollout/batch.ts'

export interface Feed {
  /** True when it would have a task now, or ask its source for one. */
  readonly wants: boolean
  /** Admits one task. False where there is none, or it comes later. */
  refill(): boolean
  view(): BatchesView
}

/** A stream of batches at one moment. */
export interface BatchesView {
  readonly size: number
  readonly maxStaleness: number
  /** Batches handed out. */
  readonly batches: number
  /** At every moment drawn = waiting + running + deciding + ready + delivered + the sum of rejected. */
  readonly groups: {
    /** Taken from the source. */
    readonly drawn: number
    /** Without a slot so far. */
    readonly waiting: number
    readonly running: number
    /** Finished; `accept` has not answered. */
    readonly deciding: number
    /** Waiting for the trainer. */
    readonly ready: number
    /** Handed out. */
    readonly delivered: number
    readonly rejected: Rejections
  }
  /**
   * Why no more is drawn from the source: the bound on staleness, the source (it has ended, or is slow), a task whose id is still live; null
   * when more is drawn as soon as a slot is free.
   */
  readonly heldBy: 'staleness' | 'source' | 'duplicate' | null
}
