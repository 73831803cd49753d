/**
 * round-robin: instances in the order they joined (decision 13, A4).
 *
 * Plain, an instance that cannot take work is skipped. Strict, only the next in order may take the next sample, and all
 * others wait for it: that is the predecessor's cost, kept to be measured; only instances that take no work at all
 * (limit 0) are passed over, and sessions are not kept together.
 *
 * A ring of slots in joining order. Plain pick looks for the next slot with room through a bitmap tree, so it is O(log n)
 * even when most of a large fleet is full:
 *
 *     counts   [ 3 ]              how many of the leaves below have room
 *              [ 1 | 2 ]
 *              [ 0 1 | 1 1 ]      leaf = slot of an instance
 */
import { hasRoom, type InstanceLoad, type PlacementPolicy } from './policy.ts'

export function roundRobin(options: { readonly strict?: boolean } = {}): PlacementPolicy {
  const strict = options.strict === true
  const slots: (InstanceLoad | null)[] = []
  const at = new Map<string, number>()
  let size = 1
  let counts = new Int32Array(2)
  let next = 0

  /** Strict looks for instances that take work at all, plain for those with room. */
  function marked(instance: InstanceLoad | null): boolean {
    return instance !== null && (strict ? instance.limit > 0 : hasRoom(instance))
  }
  function mark(slot: number, on: boolean): void {
    let node = size + slot
    const delta = (on ? 1 : 0) - counts[node]!
    if (delta === 0) return
    for (; node >= 1; node >>= 1) counts[node]! += delta
  }
  /** Closes the gaps that removed instances left; the turn stays with the same instance. */
  function rebuild(): void {
    const live = slots.filter((slot) => slot !== null)
    next = slots.slice(0, next).filter((slot) => slot !== null).length
    size = 1
    while (size < live.length + 1) size *= 2
    counts = new Int32Array(2 * size)
    slots.length = 0
    at.clear()
    for (const instance of live) {
      at.set(instance.id, slots.length)
      slots.push(instance)
    }
    slots.forEach((instance, slot) => {
      mark(slot, marked(instance))
    })
  }
  /** First marked slot at or after `from`, or -1. */
  function seek(from: number): number {
    let node = size + from
    if (from >= size) return -1
    if (counts[node] === 0) {
      while (node > 1 && (node % 2 === 1 || counts[node + 1] === 0)) node >>= 1
      if (node <= 1) return -1
      node++
    }
    while (node < size) node = counts[2 * node]! > 0 ? 2 * node : 2 * node + 1
    return node - size
  }

  return {
    name: strict ? 'round-robin (strict)' : 'round-robin',
    sticky: !strict,
    add(instance) {
      if (slots.length + 1 >= size) rebuild()
      at.set(instance.id, slots.length)
      slots.push(instance)
      mark(slots.length - 1, marked(instance))
    },
    remove(id) {
      const slot = at.get(id)
      if (slot === undefined) return
      mark(slot, false)
      slots[slot] = null
      at.delete(id)
      if (at.size * 2 < slots.length) rebuild()
    },
    changed(instance) {
      const slot = at.get(instance.id)
      if (slot === undefined) return
      if (slots[slot] !== instance) slots[slot] = instance
      mark(slot, marked(instance))
    },
    pick() {
      let slot = seek(next)
      if (slot < 0) slot = seek(0)
      if (slot < 0) return null
      const instance = slots[slot]!
      if (!hasRoom(instance)) return null
      next = slot + 1
      return instance.id
    },
  }
}
