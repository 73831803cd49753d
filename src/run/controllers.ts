/**
 * AbortControllers of attempts, used again after attempts that ended by themselves: to make one costs a tenth of a sample's life.
 * None is used again that anybody might still abort, or wait for: neither after an attempt that was told to end, nor with a listener
 * left on its signal.
 */
import { getEventListeners } from 'node:events'
import type { Attempt, Run } from './run.ts'

/** A controller that no attempt has right now, and how many have had it. */
export interface SpareController {
  readonly controller: AbortController
  readonly served: number
}

/** A slot that is freed is taken at once: there are seldom more than a few. */
const SPARES = 16

/** What `AbortSignal.any` of a driver leaves on a signal stays for ever, and nobody sees it: so no signal does. */
const LONGEST_SERVICE = 64

export function takeController(run: Run): SpareController {
  return run.spareControllers.pop() ?? { controller: new AbortController(), served: 0 }
}

export function keepController(run: Run, { controller, served, outcome, interruption }: Attempt): void {
  const wasTold = outcome !== 'succeeded' || interruption !== null || controller.signal.aborted
  if (wasTold || served >= LONGEST_SERVICE || run.spareControllers.length >= SPARES) return
  if (getEventListeners(controller.signal, 'abort').length > 0) return
  run.spareControllers.push({ controller, served: served + 1 })
}
