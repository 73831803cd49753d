/**
 * Finds every mistake in what is known of a fleet before anything is asked or written.
 */
import { createSupervisor, type InstanceOptions, RolloutError, type SupervisorOptions } from '../index.ts'

export interface KnownFleet {
  readonly instances: readonly InstanceOptions[]
  readonly supervisor: SupervisorOptions
}

/** One line for each mistake; none where the fleet can be tried. */
export function fleetProblems({ instances, supervisor }: KnownFleet): readonly string[] {
  try {
    void createSupervisor({ ...supervisor, instances }).close()
    return []
  } catch (error) {
    if (!RolloutError.isInstance(error)) throw error
    return error.problems.map(({ path, expected, found }) => `${path}: expected ${expected}, found ${found}`)
  }
}
