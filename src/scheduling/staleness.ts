/**
 * How far generation may run ahead of training: AReaL's admission rule (arXiv 2505.24298, section 5.1), counted in groups.
 *
 *     room = (maxStaleness + batches + 1) x size - groups
 *
 * `batches` are those that the trainer is done with: one more of them is one more version of the weights. So with maxStaleness 0
 * nothing is generated while the trainer works, and with 1 one batch is made ahead. `groups` are those that have begun and were
 * not rejected; what is not drawn from the source yet spends nothing (D12).
 */

/** Where a stream of batches stands. */
export interface StalenessBooks {
  /** Groups of a batch. */
  readonly size: number
  readonly maxStaleness: number
  /** Batches that the trainer has taken and come back from. */
  readonly batches: number
  /** Groups begun so far, without those that were rejected. */
  readonly groups: number
}

/** Groups that may begin now. */
export function stalenessRoom({ size, maxStaleness, batches, groups }: StalenessBooks): number {
  return (maxStaleness + batches + 1) * size - groups
}
