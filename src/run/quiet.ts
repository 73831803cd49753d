/**
 * Waits until instances are quiet: by our books, and by the server's own count (decision 6).
 */
import type { Clock } from '../clock.ts'
import { RolloutError } from '../errors.ts'
import type { Instance, Run } from './run.ts'

/** Between two looks at a server's own count. */
const POLL_MS = 20
/** How long a server may still count requests after the last of ours has ended; reports were seen to lag 1.3 s. */
const LAG_MS = 10_000

/** Resolves when none of the instances holds a lease; rejects at the timeout, and when the run is closed. */
export function quiet(run: Run, instances: readonly Instance[], timeoutMs: number | null): Promise<void> {
  const busy = (): Instance[] => instances.filter((instance) => instance.attempts.size > 0)
  if (busy().length === 0) return Promise.resolve()
  return new Promise((resolve, reject) => {
    const leave = (): void => {
      run.onReleased.delete(check)
      run.onClosing.delete(fail)
      run.clock.clearTimeout(timer)
    }
    const fail = (error: RolloutError): void => {
      leave()
      reject(error)
    }
    const check = (): void => {
      if (busy().length > 0) return
      leave()
      resolve()
    }
    const late = (): void => {
      const names = busy().map(({ id }) => id)
      const text = `expected the fleet to be quiet within ${timeoutMs} ms, found requests running on ${names.join(', ')}`
      fail(new RolloutError('WRONG_PHASE', text))
    }
    const timer = timeoutMs === null ? null : run.clock.setTimeout(late, timeoutMs)
    run.onReleased.add(check)
    run.onClosing.add(fail)
  })
}

/** Waits until the server itself counts nothing: work of strangers fails the step. */
export async function serverQuiet(run: Run, { id, driver }: Instance, signal: AbortSignal): Promise<void> {
  const giveUpAt = run.clock.now() + LAG_MS
  while (!signal.aborted) {
    const { running, waiting } = await driver.load(signal)
    if (running + waiting === 0) return
    if (run.clock.now() >= giveUpAt) {
      throw new RolloutError(
        'WRONG_PHASE',
        `instance ${id} is busy with ${running + waiting} requests that are not ours; give the supervisor servers of its own`,
        { instance: id },
      )
    }
    await sleep(run.clock, POLL_MS, signal)
  }
}

function sleep(clock: Clock, ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const wake = (): void => {
      clock.clearTimeout(timer)
      signal.removeEventListener('abort', wake)
      resolve()
    }
    const timer = clock.setTimeout(wake, ms)
    signal.addEventListener('abort', wake)
  })
}
