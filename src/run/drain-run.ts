/**
 * Waits until nothing is waiting or running, in the line of phase operations (decision 9): what was asked for after it waits for the run to be
 * drained. It gives way where nothing can move before one of those has had its turn: in a run that is paused, or shall be, or where all that is
 * left waits for a version or a reader.
 */
import { isPauseWanted } from './phase.ts'
import { isIdle, type Run } from './run.ts'

/** Resolves when the run is idle; rejects with the signal's reason. */
export async function drainRun(run: Run, signal: AbortSignal | undefined): Promise<void> {
  if (signal?.aborted === true) throw signal.reason as Error
  const idle = whenIdle(run, signal)
  if (run.closing) return idle
  const over = idle.catch(() => {})
  // Refused by the close of the run, which leaves nothing either.
  run.line.enter({ name: 'drainAll', timeoutMs: null }, () => whenStuck(run, over)).catch(() => {})
  return idle
}

function whenIdle(run: Run, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const settle = (): void => {
      if (!isIdle(run)) return
      leave()
      resolve()
    }
    const abort = (): void => {
      leave()
      reject(signal?.reason as Error)
    }
    const leave = (): void => {
      run.onIdle.delete(settle)
      signal?.removeEventListener('abort', abort)
    }
    run.onIdle.add(settle)
    signal?.addEventListener('abort', abort, { once: true })
    settle()
  })
}

/** Or when it is over. Looks after each change, when whatever it leads to at once has been done. */
function whenStuck(run: Run, over: Promise<void>): Promise<void> {
  return new Promise((resolve) => {
    const leave = (): void => {
      run.hub.onChange.delete(later)
      resolve()
    }
    const look = (): void => {
      if (run.counts.running === 0 || isPauseWanted(run) || run.closing) leave()
    }
    const later = (): void => queueMicrotask(look)
    run.hub.onChange.add(later)
    void over.then(leave)
    later()
  })
}
