/**
 * The gate of each instance: while it is closed no generation request is sent there (I10). Who closes it opens it again; it is open when
 * nobody holds it closed and the run is in a phase that places work. The instance's machine does the closing.
 */
import { phaseOf, placesWork } from './phase.ts'
import { type Instance, isMember, type Run } from './run.ts'

/** Who holds a gate closed. */
export type GateKeeper = 'update' | 'pause'

export function closeGate(run: Run, instance: Instance, keeper: GateKeeper): void {
  instance.gate.add(keeper)
  if (isMember(run, instance)) instance.actor.send({ type: 'gate.closed' })
}

export function openGate(run: Run, instance: Instance, keeper: GateKeeper): void {
  instance.gate.delete(keeper)
  if (isMember(run, instance) && !isGateClosed(run, instance)) instance.actor.send({ type: 'gate.opened' })
}

export function isGateClosed(run: Run, instance: Instance): boolean {
  return instance.gate.size > 0 || (!placesWork(run) && phaseOf(run) !== 'starting')
}
