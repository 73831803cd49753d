/**
 * Groups that one on-policy batch leaves for the next (decision 26): interrupted at once, kept with the tokens they have, and first in
 * line when the next call begins. In between their samples wait as `carried`, and no slot is theirs.
 */
import type { LiveTask } from '../rollout/sample.ts'
import { createInterruption, interrupt } from './interrupt.ts'
import type { Run } from './run.ts'
import { enqueue, laneOf, metSlot, tellQueued, unpark } from './waitlist.ts'

/** Takes a task out of the run until `bringBack`. Samples that a server is still ending follow when it has. */
export function carry(run: Run, task: LiveTask): void {
  task.carried = true
  run.carried.add(task)
  const attempts = task.samples.flatMap((sample) => run.attempts.get(sample) ?? [])
  for (const sample of task.samples) {
    // One that backs off follows when it is back.
    if (sample.status !== 'waiting' || sample.parked === 'backoff' || sample.parked === 'tokenizing') continue
    run.queue.remove(sample)
    unpark(run, sample)
    metSlot(run, sample)
    enqueue(run, sample, 'fresh')
  }
  interrupt(run, attempts, createInterruption('resume'))
}

/** Puts it back in line. */
export function bringBack(run: Run, task: LiveTask): void {
  task.carried = false
  run.carried.delete(task)
  const now = run.clock.now()
  for (const sample of task.samples) {
    if (sample.parked !== 'carried') continue
    unpark(run, sample)
    sample.queuedAt = now
    enqueue(run, sample, laneOf(sample, sample.segments.length > 0 ? 'interrupted' : 'fresh'))
    tellQueued(run, sample, 'interrupted')
  }
}
