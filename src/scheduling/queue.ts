/**
 * Where samples wait for a slot: classes in order, larger priority first inside a class, first come first served inside a
 * priority (decision 11, D15, I6).
 *
 * `started` and `fresh` are one class in two lists: a new task waits in `fresh`, and moves to `started` with its first
 * lease, so that back-pressure can hold new tasks back and let started groups go on (decision 14).
 *
 *     lanes   evaluation | interrupted | retry | started + fresh
 *     lane    priority 5: [head] <-> [] <-> [tail]     linked through the waiters themselves:
 *             priority 0: [head] <-> [tail]
 *
 * add, remove and peek are O(1), and O(log p) where a priority is new or leaves; memory is two pointers a waiter.
 */
import type { QueueLane, Waiter } from '../rollout/waiter.ts'

const LANES: readonly QueueLane[] = ['evaluation', 'interrupted', 'retry', 'started', 'fresh']

interface Line {
  readonly priority: number
  head: Waiter | null
  tail: Waiter | null
}

interface Lane {
  /** Largest priority first. Empty lines are removed. */
  readonly lines: Line[]
  readonly byPriority: Map<number, Line>
  size: number
}

export interface Queue<W extends Waiter> {
  readonly size: number
  sizeOf(lane: QueueLane): number
  add(waiter: W, lane: QueueLane): void
  /** Takes a waiter out of whatever lane it is in; nothing happens when it is in none. */
  remove(waiter: W): void
  /** The waiter whose turn it is. `holdFresh` leaves new tasks out. */
  peek(holdFresh: boolean): W | null
  /** All waiters, in no order that matters. O(n): for tests and views. */
  [Symbol.iterator](): Iterator<W>
}

export function createQueue<W extends Waiter>(): Queue<W> {
  const lanes = Object.fromEntries(
    LANES.map((name) => [name, { lines: [], byPriority: new Map(), size: 0 }]),
  ) as unknown as Record<QueueLane, Lane>
  let size = 0

  /** Where the line of this priority stands, or belongs: binary search. */
  function place(lane: Lane, priority: number): number {
    let low = 0
    let high = lane.lines.length
    while (low < high) {
      const middle = (low + high) >> 1
      if (lane.lines[middle]!.priority > priority) low = middle + 1
      else high = middle
    }
    return low
  }
  function lineOf(lane: Lane, priority: number): Line {
    const known = lane.byPriority.get(priority)
    if (known !== undefined) return known
    const line: Line = { priority, head: null, tail: null }
    lane.byPriority.set(priority, line)
    lane.lines.splice(place(lane, priority), 0, line)
    return line
  }
  function head(name: QueueLane): W | null {
    return (lanes[name].lines[0]?.head ?? null) as W | null
  }

  return {
    get size() {
      return size
    },
    sizeOf: (name) => lanes[name].size,
    add(waiter, name) {
      const line = lineOf(lanes[name], waiter.priority)
      waiter.lane = name
      waiter.before = line.tail
      waiter.after = null
      if (line.tail === null) line.head = waiter
      else line.tail.after = waiter
      line.tail = waiter
      lanes[name].size++
      size++
    },
    remove(waiter) {
      if (waiter.lane === null) return
      const lane = lanes[waiter.lane]
      const line = lineOf(lane, waiter.priority)
      if (waiter.before === null) line.head = waiter.after
      else waiter.before.after = waiter.after
      if (waiter.after === null) line.tail = waiter.before
      else waiter.after.before = waiter.before
      if (line.head === null) {
        lane.byPriority.delete(line.priority)
        lane.lines.splice(place(lane, line.priority), 1)
      }
      waiter.lane = null
      waiter.before = null
      waiter.after = null
      lane.size--
      size--
    },
    peek(holdFresh) {
      const first = head('evaluation') ?? head('interrupted') ?? head('retry')
      if (first !== null) return first
      const started = head('started')
      const fresh = holdFresh ? null : head('fresh')
      if (started === null) return fresh
      return fresh !== null && fresh.priority > started.priority ? fresh : started
    },
    *[Symbol.iterator]() {
      for (const name of LANES) {
        for (const line of lanes[name].lines) {
          for (let waiter = line.head; waiter !== null; waiter = waiter.after) yield waiter as W
        }
      }
    },
  }
}
