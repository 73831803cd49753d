/**
 * Waits until instances are quiet: by our books, and by the server's own count (decision 6); or have said whether they are there.
 */
import type { Clock } from '../clock.ts'
import { RolloutError } from '../errors.ts'
import { type Attempt, can, type Instance, type Run } from './run.ts'

/** Between two looks at a server's own count: the first soon, because most are quiet by then. */
const FIRST_POLL_MS = 1
const LAST_POLL_MS = 50
/** How long a server may still count requests after the last of ours has ended; reports were seen to lag 1.3 s. */
const LAG_MS = 10_000

/** Resolves when none of the instances holds a lease; rejects with the signal's reason. */
export function quiet(run: Run, instances: readonly Instance[], signal: AbortSignal): Promise<void> {
  return until(run, () => instances.every(({ attempts }) => attempts.size === 0), signal)
}

/** Resolves when these attempts have given their slots back. */
export function gone(run: Run, attempts: readonly Attempt[], signal: AbortSignal): Promise<void> {
  return until(run, () => attempts.every((attempt) => !attempt.instance.attempts.has(attempt)), signal)
}

/** Looks after each slot that is given back. */
function until(run: Run, isDone: () => boolean, signal: AbortSignal): Promise<void> {
  if (isDone()) return Promise.resolve()
  return new Promise((resolve, reject) => {
    const leave = (): void => {
      run.onReleased.delete(check)
      signal.removeEventListener('abort', fail)
    }
    const fail = (): void => {
      leave()
      reject(signal.reason as Error)
    }
    const check = (): void => {
      if (!isDone()) return
      leave()
      resolve()
    }
    run.onReleased.add(check)
    signal.addEventListener('abort', fail)
    if (signal.aborted) fail()
  })
}

/** Waits until the server itself counts nothing, where it counts: work of strangers fails the step. */
export async function serverQuiet(run: Run, instance: Instance, signal: AbortSignal): Promise<void> {
  if (!can(instance).loadReport) return
  const { id, driver } = instance
  const giveUpAt = run.clock.now() + LAG_MS
  for (let pauseMs = FIRST_POLL_MS; !signal.aborted; pauseMs = Math.min(2 * pauseMs, LAST_POLL_MS)) {
    const { running, waiting } = await driver.load(signal)
    if (running + waiting === 0) return
    if (run.clock.now() >= giveUpAt) {
      throw new RolloutError(
        'WRONG_PHASE',
        `instance ${id} is busy with ${running + waiting} requests that are not ours; give the supervisor servers of its own`,
        { instance: id },
      )
    }
    await sleep(run.clock, pauseMs, signal)
  }
}

/** Waits for servers that are being asked right now: they can take part as soon as they have answered. */
export async function answered(
  run: Run,
  instances: { values(): Iterable<Instance> },
  isOver: () => boolean,
): Promise<void> {
  const isAsked = (instance: Instance): boolean => instance.actor.getSnapshot().matches('suspected')
  while ([...instances.values()].some(isAsked) && !run.closing && !isOver()) {
    await sleep(run.clock, ASKED_POLL_MS, undefined)
  }
}

const ASKED_POLL_MS = 10

export function sleep(clock: Clock, ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    const wake = (): void => {
      clock.clearTimeout(timer)
      signal?.removeEventListener('abort', wake)
      resolve()
    }
    const timer = clock.setTimeout(wake, ms)
    signal?.addEventListener('abort', wake)
  })
}
