/**
 * Where a waiting sample is: in the queue, or parked beside it until its token ids, a weight version, a moment or the next on-policy batch come.
 * All changes between waiting and running go through `count` (I1).
 */
import type { LiveTask, Sample } from '../rollout/sample.ts'
import type { QueueLane } from '../rollout/waiter.ts'
import { isIdle, type Run } from './run.ts'

/** Puts a waiting sample in the queue, or parks it while its task is carried over or held, or the fleet's weights are older than it wants. */
export function enqueue(run: Run, sample: Sample, lane: QueueLane): void {
  if (sample.task.carried) {
    park(run, sample, 'carried')
    run.carriedSamples++
    tellIdle(run)
    return
  }
  const { minVersion } = sample.task.spec
  if (sample.task.isHeld) {
    park(run, sample, 'phase')
  } else if (minVersion !== null && (run.version === null || run.version < minVersion)) {
    park(run, sample, 'version')
  } else {
    run.queue.add(sample, lane)
  }
}

export function park(run: Run, sample: Sample, reason: NonNullable<Sample['parked']>): void {
  sample.parked = reason
  run.parked.add(sample)
}

/** Tells that a sample waits, unless somebody who was just told something has changed that. */
export function tellQueued(run: Run, sample: Sample, reason: 'submitted' | 'interrupted' | 'retry'): void {
  const { task, index, status } = sample
  if (status !== 'waiting' || !run.hub.listens(task)) return
  run.hub.tell(
    { type: 'sample.queued', at: run.clock.now(), taskId: task.id, sample: index, kind: task.spec.kind, reason },
    task,
  )
}

/** Frees samples that waited for a version which the fleet now has. */
export function unparkVersions(run: Run): void {
  for (const sample of run.parked) {
    if (sample.parked !== 'version' || run.version === null || run.version < sample.task.spec.minVersion!) continue
    unpark(run, sample)
    run.queue.add(sample, laneOf(sample, 'fresh'))
  }
}

/** The turn of a held task has come. */
export function release(run: Run, task: LiveTask): void {
  task.isHeld = false
  for (const sample of task.samples) {
    if (sample.parked !== 'phase') continue
    unpark(run, sample)
    enqueue(run, sample, laneOf(sample, 'fresh'))
  }
}

/** Evaluations keep their own lane whatever happened to them. */
export function laneOf(sample: Sample, lane: QueueLane): QueueLane {
  if (sample.task.spec.kind === 'evaluation') return 'evaluation'
  return lane === 'fresh' && sample.task.started ? 'started' : lane
}

export function unpark(run: Run, sample: Sample): void {
  if (sample.parked === null) return
  if (sample.parked === 'carried') run.carriedSamples--
  run.parked.delete(sample)
  sample.parked = null
  run.clock.clearTimeout(sample.backoff)
  sample.backoff = null
}

/** Tells whoever waits for the end, if this is it. */
export function tellIdle(run: Run): void {
  if (run.onIdle.size > 0 && isIdle(run)) for (const idle of run.onIdle) idle()
}

/** No server need be asked for the token ids of a task any more. */
export function stopTokenizing(run: Run, task: LiveTask): void {
  const tokenizing = run.tokenizing.get(task)
  if (tokenizing === undefined) return
  run.tokenizing.delete(task)
  run.clock.clearTimeout(tokenizing.timer)
  tokenizing.controller?.abort()
}

/** Moves a sample between the counts of I1. */
export function count(run: Run, sample: Sample, status: 'waiting' | 'running'): void {
  run.counts[sample.status as 'waiting' | 'running']--
  run.counts[status]++
  sample.status = status
}

/** Ends the deadline of a sample that got its slot, or needs none any more. */
export function metSlot(run: Run, sample: Sample): void {
  const pace = run.paces[sample.task.spec.kind]
  if (pace.waiting.delete(sample) && pace.waiting.size === 0) {
    run.clock.clearTimeout(pace.timer)
    pace.timer = null
  }
}
