/**
 * least-request: the instance with the smallest (running + 1) / (limit * weight), ties to the least recently used
 * (decision 12, A1, D8, D22).
 *
 * An indexed binary heap, best instance at the root; instances without room sink to the bottom with an infinite score:
 *
 *     heap   [ b, a, d, c ]       score(b) <= score(a), score(d); score(a) <= score(c)
 *     where  { b: 0, a: 1, ... }
 *
 * pick is O(1), changed and remove are O(log n).
 */
import { hasRoom, type InstanceLoad, type PlacementPolicy } from './policy.ts'

interface Entry {
  readonly instance: InstanceLoad
  score: number
  lastGranted: number
  at: number
}

export function leastRequest(): PlacementPolicy {
  const heap: Entry[] = []
  const entries = new Map<string, Entry>()

  function score(instance: InstanceLoad): number {
    return hasRoom(instance) ? (instance.running + 1) / (instance.limit * instance.weight) : Number.POSITIVE_INFINITY
  }
  function before(a: Entry, b: Entry): boolean {
    return a.score < b.score || (a.score === b.score && a.lastGranted < b.lastGranted)
  }
  function put(entry: Entry, at: number): void {
    heap[at] = entry
    entry.at = at
  }
  function settle(entry: Entry): void {
    let at = entry.at
    while (at > 0) {
      const parent = heap[(at - 1) >> 1]!
      if (!before(entry, parent)) break
      put(parent, at)
      at = (at - 1) >> 1
    }
    for (;;) {
      let child = 2 * at + 1
      if (child >= heap.length) break
      if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child++
      const below = heap[child]!
      if (!before(below, entry)) break
      put(below, at)
      at = child
    }
    put(entry, at)
  }

  return {
    name: 'least-request',
    add(instance) {
      const entry = { instance, score: score(instance), lastGranted: instance.lastGranted, at: heap.length }
      entries.set(instance.id, entry)
      heap.push(entry)
      settle(entry)
    },
    remove(id) {
      const entry = entries.get(id)
      if (entry === undefined) return
      entries.delete(id)
      const last = heap.pop()!
      if (last === entry) return
      last.at = entry.at
      settle(last)
    },
    changed(instance) {
      const entry = entries.get(instance.id)
      if (entry === undefined) return
      entry.score = score(instance)
      entry.lastGranted = instance.lastGranted
      settle(entry)
    },
    pick() {
      const best = heap[0]
      return best !== undefined && best.score !== Number.POSITIVE_INFINITY ? best.instance.id : null
    },
  }
}
