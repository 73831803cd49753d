/**
 * The steps of a protocol with one server, each with a deadline of its own: whatever the server does, or a user's function, the step ends,
 * and the error says which one it was. All end when the instance leaves or the run is closed.
 */
import { RolloutError, type RolloutErrorCode } from '../errors.ts'
import type { Instance, Run } from './run.ts'

export interface Steps<Step extends string> {
  /** The step that was begun last. */
  readonly step: Step
  /** Aborted when a step is late, the instance leaves, or the run is closed. */
  readonly signal: AbortSignal
  /** One step. After one that failed for lateness, or at an end, every other fails with the same error. */
  take<T>(step: Step, deadlineMs: number, work: () => Promise<T>): Promise<T>
  /** To be called at the end, whatever that is. */
  end(): void
}

/** `late` is the code of the error of a step that took too long. */
export function createSteps<Step extends string>(
  run: Run,
  instance: Instance,
  { what, first, late }: { readonly what: string; readonly first: Step; readonly late: RolloutErrorCode },
): Steps<Step> {
  const controller = new AbortController()
  const { signal } = controller
  let step = first
  const stop = (error: RolloutError): void => controller.abort(error)
  const stopped = new Promise<never>((_, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true })
  })
  stopped.catch(() => {})
  run.onClosing.add(stop)
  instance.onLeaving.add(stop)
  if (run.instances.get(instance.id) !== instance) stop(leftFault(instance))
  return {
    get step() {
      return step
    },
    signal,
    async take(next, deadlineMs, work) {
      step = next
      if (signal.aborted) throw signal.reason as Error
      const timer = run.clock.setTimeout(() => {
        const text = `step ${next} of ${what} took longer than ${deadlineMs} ms on instance ${instance.id}`
        stop(new RolloutError(late, text, { instance: instance.id }))
      }, deadlineMs)
      try {
        return await Promise.race([work(), stopped])
      } finally {
        run.clock.clearTimeout(timer)
      }
    },
    end() {
      run.onClosing.delete(stop)
      instance.onLeaving.delete(stop)
    },
  }
}

export function leftFault({ id }: Instance): RolloutError {
  return new RolloutError('UNKNOWN_INSTANCE', `instance ${id} left the fleet meanwhile`, { instance: id })
}
