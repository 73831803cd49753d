/**
 * What `batches()` hands out: whole groups with the age of their tokens, and the accounts of what was left out and why.
 */
import type { Completion } from './completion.ts'
import type { Group } from './group.ts'

/**
 * Why a group is not in a batch: `accept` said no (`filtered`), threw or gave no answer (`undecided`); not every sample
 * was completed (`incomplete`); its oldest token is older than maxStaleness allows (`tooOld`); the source yielded what
 * is no task (`invalid`).
 */
export type RejectReason = 'filtered' | 'undecided' | 'incomplete' | 'tooOld' | 'invalid'

/** Number of rejected groups by reason. */
export type Rejections = Readonly<Record<RejectReason, number>>

/** A group of a batch. */
export interface BatchGroup<M = unknown> extends Group<M> {
  /** Versions between its oldest token and the weights at the time it was handed out. */
  readonly staleness: number
  /** True where that is more than maxStaleness; happens with `tooOld: 'mark'` only. */
  readonly tooOld: boolean
}

/** What the trainer gets to train on. */
export interface Batch<M = unknown> {
  /** From 0. */
  readonly index: number
  /** Version of the fleet's weights when it was handed out; null before the first update. */
  readonly version: number | null
  /** `size` of them; fewer only in the last batch of a source that has ended. */
  readonly groups: readonly BatchGroup<M>[]
  /** Tokens by age in versions: `{ 0: 5200, 1: 340 }`. */
  readonly staleness: Readonly<Record<number, number>>
  /** What was left out since the batch before. */
  readonly rejected: Rejections
}

export function noRejections(): Record<RejectReason, number> {
  return { filtered: 0, undecided: 0, incomplete: 0, tooOld: 0, invalid: 0 }
}

/**
 * Age of a token in versions. Tokens without a version are from before the first update, and count as of the version before it;
 * `first` is that update's version, or null where it was before anybody looked: then their age is not known, and no bound holds.
 */
export function ageOf(token: number | null, trainer: number | null, first: number | null): number {
  if (trainer === null) return 0
  if (token !== null) return Math.max(0, trainer - token)
  return first === null ? Number.POSITIVE_INFINITY : trainer - first + 1
}

/** Age of the oldest token; 0 without tokens. */
export function ageOfGroup(
  completions: readonly Pick<Completion, 'versions'>[],
  trainer: number | null,
  first: number | null,
): number {
  let oldest = 0
  for (const { versions } of completions)
    for (const { version } of versions) oldest = Math.max(oldest, ageOf(version, trainer, first))
  return oldest
}

/** Adds the tokens of a group to a histogram by age. */
export function addAges(
  histogram: Record<number, number>,
  completions: readonly Completion[],
  trainer: number | null,
  first: number | null,
): void {
  for (const { versions } of completions) {
    for (const { version, start, end } of versions) {
      const age = ageOf(version, trainer, first)
      histogram[age] = (histogram[age] ?? 0) + end - start
    }
  }
}
