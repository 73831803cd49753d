/**
 * waitMs: how long a sample may wait for its first slot, in time that counts (pace.ts). All samples have the same, so one timer for the oldest
 * is enough.
 */
import { RolloutError } from '../errors.ts'
import type { Sample } from '../rollout/sample.ts'
import type { Pace } from './pace.ts'
import type { Run } from './run.ts'
import { settle } from './settle.ts'

/** Begins the deadline of a sample's first slot. All have the same length, so the map is in order of their ends. */
export function expectSlot(run: Run, sample: Sample): void {
  const pace = run.paces[sample.task.spec.kind]
  pace.waiting.set(sample, pace.now() + run.options.timeouts.waitMs!)
  if (pace.timer === null) armSlots(run, pace)
}

/** Sets the timer for the oldest; none while time stands still. */
export function armSlots(run: Run, pace: Pace): void {
  run.clock.clearTimeout(pace.timer)
  pace.timer = null
  if (pace.stopped) return
  for (const dueAt of pace.waiting.values()) {
    pace.timer = run.clock.setTimeout(() => expire(run, pace), dueAt - pace.now())
    return
  }
}

function expire(run: Run, pace: Pace): void {
  const waitMs = run.options.timeouts.waitMs!
  const due: Sample[] = []
  const now = pace.now()
  for (const [sample, dueAt] of pace.waiting) {
    if (dueAt > now) break
    due.push(sample)
  }
  for (const sample of due) {
    // Whoever was told of the one before may have changed the fate of this one.
    if (!pace.waiting.has(sample)) continue
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
  armSlots(run, pace)
}
