/**
 * least-request: the instance with the smallest (running + 1) / (limit * weight), ties to the least recently used
 * (decision 12, A1, D8, D22). Failures in a row count like requests that run there, so that a server which fails fast does not
 * draw work by always being empty (D2).
 *
 * A knockout tournament in flat arrays, which stay in the processor's cache where a heap of objects does not:
 *
 *     winner   [ . 2 ]              best instance of all
 *              [ . . 0 | 2 ]        best of the two below
 *              [ 0 1 | 2 3 ]        leaf = slot of an instance; without room its score is infinite
 *
 * pick is O(1); add, changed and remove are O(log n), and stop where the winner stays the same.
 */
import { hasRoom, type InstanceLoad, type PlacementPolicy } from './policy.ts'

const NO_ROOM = Number.POSITIVE_INFINITY

export function leastRequest(): PlacementPolicy {
  /** Instances by slot; null where one has left. */
  const slots: (InstanceLoad | null)[] = []
  const slotOf = new Map<string, number>()
  const vacant: number[] = []
  let size = 1
  let winner = new Int32Array(2)
  let score = new Float64Array(1).fill(NO_ROOM)
  let lastGranted = new Float64Array(1)

  function better(a: number, b: number): number {
    const scoreA = score[a]!
    const scoreB = score[b]!
    if (scoreA !== scoreB) return scoreA < scoreB ? a : b
    return lastGranted[a]! <= lastGranted[b]! ? a : b
  }
  /** Plays the matches of one slot again, from its leaf up. */
  function replay(slot: number): void {
    for (let node = (size + slot) >> 1; node >= 1; node >>= 1) {
      const won = better(winner[2 * node]!, winner[2 * node + 1]!)
      if (winner[node] === won && won !== slot) return
      winner[node] = won
    }
  }
  function read(slot: number, instance: InstanceLoad): void {
    score[slot] = hasRoom(instance)
      ? (instance.running + 1 + instance.failures) / (instance.limit * instance.weight)
      : NO_ROOM
    lastGranted[slot] = instance.lastGranted
    replay(slot)
  }
  function grow(): void {
    const scores = new Float64Array(2 * size).fill(NO_ROOM)
    const grants = new Float64Array(2 * size)
    scores.set(score)
    grants.set(lastGranted)
    score = scores
    lastGranted = grants
    size *= 2
    winner = new Int32Array(2 * size)
    for (let slot = 0; slot < size; slot++) winner[size + slot] = slot
    for (let node = size - 1; node >= 1; node--) winner[node] = better(winner[2 * node]!, winner[2 * node + 1]!)
  }

  return {
    name: 'least-request',
    add(instance) {
      const slot = vacant.pop() ?? slots.length
      if (slot >= size) grow()
      slots[slot] = instance
      slotOf.set(instance.id, slot)
      read(slot, instance)
    },
    remove(id) {
      const slot = slotOf.get(id)
      if (slot === undefined) return
      slotOf.delete(id)
      slots[slot] = null
      vacant.push(slot)
      score[slot] = NO_ROOM
      replay(slot)
    },
    changed(instance) {
      // A grant changes the instance that was just picked: the winner of all.
      const best = winner[1]!
      const slot = slots[best] === instance ? best : slotOf.get(instance.id)
      if (slot !== undefined) read(slot, instance)
    },
    pick() {
      const best = winner[1]!
      return score[best] === NO_ROOM ? null : slots[best]!.id
    },
  }
}
