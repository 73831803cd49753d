/**
 * What the run is doing, as its machine says it.
 */
import type { Phase } from '../telemetry/events.ts'
import type { Run } from './run.ts'

export function phaseOf(run: Run): Phase {
  const { value } = run.actor.getSnapshot()
  return typeof value === 'string' ? value : 'weightUpdate'
}

/** True in the phases in which samples are placed. */
export function placesWork(run: Run): boolean {
  const snapshot = run.actor.getSnapshot()
  return snapshot.matches('rollout') || snapshot.matches('evaluation') || snapshot.matches({ weightUpdate: 'rolling' })
}

/** True from the moment a pause was asked for, in whatever phase the run still is. */
export function isPauseWanted(run: Run): boolean {
  return run.actor.getSnapshot().context.paused
}
