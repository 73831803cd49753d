/**
 * What a sample carries of the queue it waits in: the lane it is in, and its neighbours in line.
 */
export type QueueLane = 'evaluation' | 'interrupted' | 'retry' | 'started' | 'fresh'

/** What the queue needs of a sample, kept in the sample itself. */
export interface Waiter {
  readonly priority: number
  /** Place in line: smaller came first. */
  order: number
  /** Which instances it may have: 0 is any, others are a queue's own tracks. */
  track: number
  lane: QueueLane | null
  before: Waiter | null
  after: Waiter | null
}
