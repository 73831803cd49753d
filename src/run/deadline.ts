/**
 * waitMs: how long a sample may wait for its first slot. All samples have the same, so one timer for the oldest is enough.
 */
import { RolloutError } from '../errors.ts'
import type { Sample } from '../rollout/sample.ts'
import type { Run } from './run.ts'
import { settle } from './settle.ts'

/** Begins the deadline of a sample's first slot. All have the same length, so the set is in order of their ends. */
export function expectSlot(run: Run, sample: Sample): void {
  run.deadlines.add(sample)
  if (run.deadlineTimer === null) armDeadline(run, run.options.timeouts.waitMs!)
}

function armDeadline(run: Run, delayMs: number): void {
  run.deadlineTimer = run.clock.setTimeout(() => expire(run), delayMs)
}

function expire(run: Run): void {
  const waitMs = run.options.timeouts.waitMs!
  const due: Sample[] = []
  run.deadlineTimer = null
  for (const sample of run.deadlines) {
    const leftMs = sample.submittedAt + waitMs - run.clock.now()
    if (leftMs > 0) {
      armDeadline(run, leftMs)
      break
    }
    due.push(sample)
  }
  for (const sample of due) {
    // Whoever was told of the one before may have changed the fate of this one.
    if (!run.deadlines.has(sample)) continue
    settle(
      run,
      sample,
      'expired',
      new RolloutError(
        'WAIT_TIMEOUT',
        `sample ${sample.task.id}/${sample.index} got no slot within waitMs, ${waitMs} ms; add instances, or submit less at once`,
      ),
    )
  }
}
