/**
 * A sample that has run waits again: interrupted, retried, or after a backoff. One that has all it may have is complete instead.
 */
import { RolloutError } from '../errors.ts'
import { dropHidden, restart, type Sample, tokenCount } from '../rollout/sample.ts'
import type { QueueLane } from '../rollout/waiter.ts'
import type { Interruption } from './interrupt.ts'
import type { Attempt, Run } from './run.ts'
import { isResumable } from './segment.ts'
import { settle } from './settle.ts'
import { count, enqueue, laneOf, park, tellQueued, unpark } from './waitlist.ts'
import { wake } from './wake.ts'

/**
 * Puts a running sample back in the queue, or beside it for `afterMs`. Without token ids to resume from it begins again, and where it
 * was interrupted to do so.
 */
export function waitAgain(
  run: Run,
  attempt: Attempt,
  sample: Sample,
  lane: 'interrupted' | 'retry',
  afterMs: number = 0,
): void {
  if (endsHere(run, sample)) return
  const { interruption } = attempt
  if (!isResumable(attempt, sample)) {
    tally(interruption, 0, restart(sample))
  } else if (interruption?.how === 'restart') {
    beginAgain(sample, interruption)
  } else {
    const dropped = dropHidden(sample)
    tally(interruption, tokenCount(sample), dropped)
  }
  count(run, sample, 'waiting')
  sample.queuedAt = run.clock.now()
  sample.order = ++run.lastOrder
  if (afterMs > 0) backOff(run, sample, laneOf(sample, lane), afterMs)
  else enqueue(run, sample, laneOf(sample, lane))
  tellQueued(run, sample, lane)
  run.hub.changed()
}

function beginAgain(sample: Sample, interruption: Interruption): void {
  sample.restarts++
  tally(interruption, 0, restart(sample))
}

function tally(interruption: Interruption | null, resumed: number, wasted: number): void {
  if (interruption === null) return
  interruption.samples++
  interruption.resumedTokens += resumed
  interruption.wastedTokens += wasted
}

function backOff(run: Run, sample: Sample, lane: QueueLane, afterMs: number): void {
  park(run, sample, 'backoff')
  sample.backoff = run.clock.setTimeout(() => {
    unpark(run, sample)
    enqueue(run, sample, lane)
    wake(run, 'queue.changed')
  }, afterMs)
}

/**
 * An interrupted sample that has all it may have, or whose last token ends it, is complete as it is: the connection may have been closed between a
 * token and the word of its end. Ends that only an engine knows, its driver finds.
 */
function endsHere(run: Run, sample: Sample): boolean {
  const { output } = sample
  if (output === null || output.length === 0) return false
  const { maxTokens, minTokens, stopTokenIds, ignoreEos } = sample.task.spec.sampling
  const last = output.tokenIds[output.length - 1]!
  if (!ignoreEos && output.length >= minTokens && stopTokenIds.includes(last))
    settle(run, sample, 'completed', null, 'stop')
  else if (output.length >= maxTokens) settle(run, sample, 'completed', null, 'length')
  return sample.status === 'ended'
}

export function exhaust(run: Run, sample: Sample, cause: RolloutError): void {
  settle(
    run,
    sample,
    'failed',
    new RolloutError(
      'ATTEMPTS_EXHAUSTED',
      `${run.options.attempts} attempts in a row of ${sample.task.id}/${sample.index} yielded no new token; the last: ${cause.message}`,
      { cause },
    ),
  )
}
