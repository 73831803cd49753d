/**
 * `restart` promises one version for all tokens of a sample (decision 5): samples that wait with tokens of another version than they will
 * go on under, interrupted or tried again before, begin again like those that were running; and so do those that an instance had which
 * was away, or drained, when they come from there later.
 */
import { restart, type Sample } from '../rollout/sample.ts'
import type { Interruption } from './interrupt.ts'
import type { Run } from './run.ts'

/** After an update: what waits begins again where it has tokens of an older version. O(samples that have run and wait). */
export function oneVersion(run: Run, version: number, interruption: Interruption): void {
  // Those in the other lanes have not run.
  for (const lane of ['evaluation', 'interrupted', 'retry'] as const)
    for (const sample of run.queue.waitersIn(lane)) beginAgainUnder(sample, version, interruption)
  for (const sample of run.parked) beginAgainUnder(sample, version, interruption)
}

/** Forgets the tokens of a sample that is of another version. */
export function beginAgainUnder(sample: Sample, version: number | null, interruption: Interruption): void {
  if (sample.output === null || sample.output.spans.every((span) => span.version === version)) return
  interruption.wastedTokens += restart(sample)
}
