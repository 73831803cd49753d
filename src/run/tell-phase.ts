/**
 * Whatever goes by the phase is told that it has changed: the time of deadlines, views, and whoever listens.
 */
import { setPaces } from './pace.ts'
import { phaseOf } from './phase.ts'
import type { Run } from './run.ts'

export function tellPhase(run: Run): void {
  setPaces(run)
  run.hub.changed()
  if (run.hub.listens(null)) run.hub.tell({ type: 'run.phase', at: run.clock.now(), phase: phaseOf(run) }, null)
}
