/**
 * Which of the groups that are ready make up the next batch.
 *
 *     oldest-first   those with the oldest tokens, in the order of the source where they are alike: fewest grow too old
 *     as-completed   those that were ready first: what is short comes first, and what is long may grow too old
 *     source         in the order of the source, gaps by rejection closed: waits for the slowest, favours no length
 *
 * The first two wait for nobody, which keeps slots busy at the price of groups that outlast the bound. O(n log n) in the groups that a stream holds, once a batch.
 */

/** The order of groups over batches. */
export type BatchOrder = 'oldest-first' | 'as-completed' | 'source'

export const batchOrders: readonly BatchOrder[] = ['oldest-first', 'as-completed', 'source']

export interface Shelved {
  /** Place in the order of getting ready; null before. */
  readonly rank: number | null
  /** Age of its oldest token, in versions. */
  readonly age: number
}

/** At most `size` of the groups, which are given in the order of the source. Fewer when no more may go yet. */
export function chooseBatch<G extends Shelved>(order: BatchOrder, size: number, groups: Iterable<G>): G[] {
  const ready: G[] = []
  for (const group of groups) {
    if (group.rank !== null) ready.push(group)
    else if (order === 'source') break
  }
  if (order === 'as-completed') ready.sort((a, b) => a.rank! - b.rank!)
  // Ages may be infinite, whose difference is no number.
  else if (order === 'oldest-first') ready.sort((a, b) => (a.age === b.age ? 0 : b.age > a.age ? 1 : -1))
  return ready.length > size ? ready.slice(0, size) : ready
}
