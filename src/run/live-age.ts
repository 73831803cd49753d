/**
 * How old the tokens of a task are that has not ended.
 */
import { ageOf } from '../rollout/batch.ts'
import { type LiveTask, tokenCount } from '../rollout/sample.ts'
import type { Run } from './run.ts'

/** Age of its oldest token in versions, that of running attempts included; `first` as in ageOf. O(samples). */
export function ageOfLive(run: Run, task: LiveTask, first: number | null): number {
  let oldest = 0
  for (const sample of task.samples) {
    for (const { version } of sample.output?.spans ?? []) oldest = Math.max(oldest, ageOf(version, run.version, first))
    const attempt = run.attempts.get(sample)
    if (attempt !== undefined && tokenCount(sample) > attempt.start)
      oldest = Math.max(oldest, ageOf(attempt.version, run.version, first))
  }
  return oldest
}
