/**
 * Phase operations wait in one line, first come, first served (decision 9): update, evaluation, pause, resume, drain of the run. One that
 * could not do anything yet, an evaluation of a paused run or of one without weights, is passed over until it can, or it would stand before the
 * resume, or the update, that it needs.
 * Closing ends those that wait; the one that runs ends itself.
 */
import type { Clock } from '../clock.ts'
import { RolloutError } from '../errors.ts'

export interface PhaseOperation {
  /** As the user calls it. */
  readonly name: string
  /** Longest wait for its turn; null waits for ever. */
  readonly timeoutMs: number | null
  /** False while it is passed over. @default it never is */
  readonly isReady?: () => boolean
}

export interface Line {
  /** Does the work when everything that was asked for before has ended; at once where nothing was. */
  enter<T>(operation: PhaseOperation, work: () => Promise<T>): Promise<T>
  /** To be called when an operation may have become ready. */
  look(): void
  /** Rejects those that wait. Resolves when the one that runs has ended. */
  close(error: RolloutError): Promise<void>
}

interface Waiter {
  readonly isReady: () => boolean
  readonly begin: () => void
  readonly refuse: (error: RolloutError) => void
}

export function createLine(clock: Clock): Line {
  const waiting: Waiter[] = []
  let running: { readonly name: string; readonly ended: Promise<void> } | null = null

  function look(): void {
    if (running !== null) return
    const index = waiting.findIndex(({ isReady }) => isReady())
    if (index >= 0) waiting.splice(index, 1)[0]!.begin()
  }
  function begin<T>(name: string, work: () => Promise<T>): Promise<T> {
    let end = (): void => {}
    // Before the work begins: whoever is told of it may ask for another operation, which has to wait.
    running = {
      name,
      ended: new Promise<void>((resolve) => {
        end = resolve
      }),
    }
    const result = work()
    const next = (): void => {
      running = null
      end()
      look()
    }
    void result.then(next, next)
    return result
  }

  return {
    enter({ name, timeoutMs, isReady = () => true }, work) {
      return new Promise((resolve, reject) => {
        const waiter: Waiter = {
          isReady,
          begin() {
            clock.clearTimeout(timer)
            begin(name, work).then(resolve, reject)
          },
          refuse(error) {
            clock.clearTimeout(timer)
            reject(error)
          },
        }
        const late = (): void => {
          waiting.splice(waiting.indexOf(waiter), 1)
          const found = running === null ? 'a run that is paused' : `${running.name} still running`
          reject(new RolloutError('WRONG_PHASE', `${name}: expected its turn within ${timeoutMs} ms, found ${found}`))
        }
        const timer = timeoutMs === null ? null : clock.setTimeout(late, timeoutMs)
        waiting.push(waiter)
        look()
      })
    },
    look,
    async close(error) {
      for (const { refuse } of waiting.splice(0)) refuse(error)
      await running?.ended
    },
  }
}
