/**
 * Whether a server is still the one that the supervisor knows. One that restarted has the weights of its start: it is stale, and gets no
 * request, before it is brought up to date (decision 2, I9).
 */
import type { Chunk } from '../engines/driver.ts'
import { hangUp } from './detach.ts'
import { expectedLabel } from './expected-label.ts'
import { isGateClosed } from './gate.ts'
import { createInterruption } from './interrupt.ts'
import { type Attempt, can, isMember, type Run } from './run.ts'

/** A server that restarted between two requests is found by what its answer is stamped with. Before anything can be placed there again. */
export function noteWeights(run: Run, attempt: Attempt, last: Chunk): void {
  const label = last.versions?.at(-1)?.version
  const { version, instance } = attempt
  if (label === undefined || version === null || version !== instance.version || label === String(version)) return
  if (isMember(run, instance)) instance.actor.send({ type: 'weights.lost' })
}

/**
 * Whether a request that died with a connection of an earlier one may be sent again: not to other weights, and not past a gate that has
 * closed meanwhile (I10).
 */
export async function maySendAgain(run: Run, attempt: Attempt): Promise<boolean> {
  const { instance } = attempt
  if (instance.version !== null && can(instance).versions !== 'none') {
    const label = await instance.driver.weightVersion()
    if (label !== expectedLabel(instance)) {
      if (isMember(run, instance)) instance.actor.send({ type: 'weights.lost' })
      return false
    }
  }
  if (isGateClosed(run, instance)) attempt.interruption ??= createInterruption('resume')
  if (attempt.sample !== null && attempt.interruption === null) return true
  hangUp(attempt)
  return false
}
