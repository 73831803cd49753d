/**
 * Time as the deadlines of samples count it (decision 18): it stands still while the run places nothing (not started, paused, in a weight
 * update) and, for rollouts, while readers are too far behind. Deadlines are moments of this time, so a stop costs nothing a sample.
 */
import type { Clock } from '../clock.ts'
import type { Sample } from '../rollout/sample.ts'
import type { TaskKind } from '../rollout/task.ts'
import { armSlots } from './deadline.ts'
import { placesWork } from './phase.ts'
import type { Attempt, Run } from './run.ts'
import { watch } from './watch.ts'

export interface Pace {
  /** Milliseconds that have counted so far. */
  now(): number
  readonly stopped: boolean
  set(stopped: boolean): void
  /** Samples that wait for their first slot, by the moment at which they have waited for long enough: the oldest first. */
  readonly waiting: Map<Sample, number>
  /** Of the oldest of them. */
  timer: unknown
  /** Attempts whose deadlines are to be looked at when time goes on. */
  readonly halted: Set<Attempt>
}

/** Stands still until it is told otherwise. */
function createPace(clock: Clock): Pace {
  let counted = 0
  let since: number | null = null
  const now = (): number => (since === null ? counted : counted + clock.now() - since)
  return {
    now,
    get stopped() {
      return since === null
    },
    set(stopped) {
      counted = now()
      since = stopped ? null : clock.now()
    },
    waiting: new Map(),
    timer: null,
    halted: new Set(),
  }
}

export function createPaces(clock: Clock): Record<TaskKind, Pace> {
  return { rollout: createPace(clock), evaluation: createPace(clock) }
}

export function paceOf(run: Run, sample: Sample): Pace {
  return run.paces[sample.task.spec.kind]
}

/** Called after each change of the phase, and of what readers hold back. */
export function setPaces(run: Run): void {
  const closed = !placesWork(run)
  setPace(run, run.paces.rollout, closed || run.sinks.full)
  setPace(run, run.paces.evaluation, closed)
}

function setPace(run: Run, pace: Pace, stopped: boolean): void {
  if (pace.stopped === stopped) return
  pace.set(stopped)
  armSlots(run, pace)
  if (stopped) return
  const halted = [...pace.halted]
  pace.halted.clear()
  for (const attempt of halted) if (attempt.sample !== null) watch(run, attempt)
}
