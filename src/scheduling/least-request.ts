/**
 * least-request: the instance with the smallest (running + 1) / (limit * weight), ties to the least recently used
 * (decision 12, A1, D8, D22). Failures in a row count like requests that run there, so that a server which fails fast does not
 * draw work by always being empty (D2).
 *
 * A knockout tournament of groups of eight, each row a copy of the winners of the row below: a group is one line of the
 * processor's cache, and 10,000 instances need five rows.
 *
 *     row 2    [ 9 . . . . . . . ]                                 the winner of all is the winner of the last row
 *     row 1    [ 2 9 . . . . . . ]
 *     row 0    [ 0 1 2 3 4 5 6 7 | 8 9 . . . . . . ]               slots of instances; without room a score is infinite
 *
 * pick is O(1); add, changed and remove are O(log n), and stop where a row stays the same.
 */
import { hasRoom, type InstanceLoad, type PlacementPolicy } from './policy.ts'

const NO_ROOM = Number.POSITIVE_INFINITY
/** log2 of the size of a group: eight 64-bit scores are one cache line. */
const GROUP_BITS = 3
const GROUP = 1 << GROUP_BITS

export function leastRequest(): PlacementPolicy {
  /** Instances by slot; null where one has left. */
  const slots: (InstanceLoad | null)[] = []
  const slotOf = new Map<string, number>()
  const vacant: number[] = []
  /** Where each row begins in the arrays below; the last has one group, and after it comes the winner of all. */
  let rows: number[] = []
  let score = new Float64Array(0)
  let lastGranted = new Float64Array(0)
  let winner = new Int32Array(0)
  let top = 0
  let size = 0
  build(GROUP)

  function beats(a: number, b: number): boolean {
    const scoreA = score[a]!
    const scoreB = score[b]!
    return scoreA < scoreB || (scoreA === scoreB && scoreA !== NO_ROOM && lastGranted[a]! < lastGranted[b]!)
  }
  function copy(from: number, to: number): void {
    score[to] = score[from]!
    lastGranted[to] = lastGranted[from]!
    winner[to] = winner[from]!
  }
  /** The best of a group. */
  function best(first: number): number {
    let found = first
    for (let each = first + 1; each < first + GROUP; each++) if (beats(each, found)) found = each
    return found
  }
  /** Plays the matches of one slot again, row by row. */
  function replay(slot: number): void {
    let at = slot
    for (let row = 0; row < rows.length; row++) {
      const base = rows[row]!
      const above = (rows[row + 1] ?? top) + (at >> GROUP_BITS)
      const node = base + at
      if (winner[above] !== slot) {
        if (!beats(node, above)) return
        copy(node, above)
      } else if (beats(above, node)) {
        copy(best(base + (at & -GROUP)), above)
      } else {
        copy(node, above)
      }
      at >>= GROUP_BITS
    }
  }
  function read(slot: number, instance: InstanceLoad): void {
    score[slot] = hasRoom(instance)
      ? (instance.running + 1 + instance.failures) / (instance.limit * instance.weight)
      : NO_ROOM
    lastGranted[slot] = instance.lastGranted
    replay(slot)
  }
  /** Makes room for that many slots, a multiple of the group, and plays all matches. */
  function build(room: number): void {
    size = room
    rows = [0]
    top = size
    for (let length = size; length > GROUP; ) {
      length = Math.ceil(length / GROUP / GROUP) * GROUP
      rows.push(top)
      top += length
    }
    score = new Float64Array(top + 1).fill(NO_ROOM)
    lastGranted = new Float64Array(top + 1)
    winner = new Int32Array(top + 1).fill(-1)
    for (let slot = 0; slot < size; slot++) winner[slot] = slot
    slots.forEach((instance, slot) => {
      if (instance !== null) read(slot, instance)
    })
  }

  return {
    name: 'least-request',
    add(instance) {
      const slot = vacant.pop() ?? slots.length
      slots[slot] = instance
      slotOf.set(instance.id, slot)
      if (slot < size) read(slot, instance)
      else build(2 * size)
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
      const picked = winner[top]!
      const slot = slots[picked] === instance ? picked : slotOf.get(instance.id)
      if (slot !== undefined) read(slot, instance)
    },
    pick() {
      return score[top] === NO_ROOM ? null : slots[winner[top]!]!.id
    },
  }
}
