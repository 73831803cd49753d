/**
 * From what the user writes to a policy. A user's own policy is never trusted with the books: one that throws, or answers
 * with an instance that cannot take work, is reported, and least-request decides in its place (F17).
 */
import { leastRequest } from './least-request.ts'
import { hasRoom, type InstanceLoad, type PlacementPolicy } from './policy.ts'
import { roundRobin } from './round-robin.ts'

/** A policy by name, by name with options, or one of your own. */
export type PolicyOption =
  | 'least-request'
  | 'round-robin'
  | { readonly name: 'round-robin'; readonly strict?: boolean }
  | PlacementPolicy

/** Names of the policies that the package has. */
export const policyNames = ['least-request', 'round-robin'] as const

export function isPolicy(value: object): value is PlacementPolicy {
  return 'pick' in value && typeof value.pick === 'function'
}

export function createPolicy(
  option: PolicyOption,
  onFault: (message: string, cause: unknown) => void,
): PlacementPolicy {
  if (option === 'least-request') return leastRequest()
  if (option === 'round-robin') return roundRobin()
  return isPolicy(option) ? guarded(option, onFault) : roundRobin(option)
}

function guarded(policy: PlacementPolicy, onFault: (message: string, cause: unknown) => void): PlacementPolicy {
  const spare = leastRequest()
  const loads = new Map<string, InstanceLoad>()
  /** Instances that it threw at: it may not know what they are now, and its null says nothing of them. */
  const missed = new Set<string>()

  function tell(call: 'add' | 'remove' | 'changed', id: string, run: () => void): void {
    try {
      run()
      missed.delete(id)
    } catch (cause) {
      missed.add(id)
      onFault(`policy ${policy.name} threw in ${call}`, cause)
    }
  }
  return {
    name: policy.name,
    sticky: policy.sticky !== false,
    add(instance) {
      loads.set(instance.id, instance)
      spare.add(instance)
      tell('add', instance.id, () => policy.add(instance))
    },
    remove(id) {
      loads.delete(id)
      spare.remove(id)
      tell('remove', id, () => policy.remove(id))
      missed.delete(id)
    },
    changed(instance) {
      spare.changed(instance)
      tell('changed', instance.id, () => policy.changed(instance))
    },
    pick(sample) {
      try {
        const id = policy.pick(sample)
        if (id === null && missed.size === 0) return null
        if (id === null) return spare.pick(sample)
        const load = loads.get(id)
        if (load !== undefined && hasRoom(load)) return id
        onFault(`policy ${policy.name} picked ${JSON.stringify(id)}, which has no free slot`, undefined)
      } catch (cause) {
        onFault(`policy ${policy.name} threw in pick`, cause)
      }
      return spare.pick(sample)
    },
  }
}
