/**
 * Where samples wait for a slot: classes in order, larger priority first inside a class, first come first served inside a
 * priority (decision 11, D15, I6).
 *
 * `started` and `fresh` are one class in two lists: a new task waits in `fresh`, and moves to `started` with its first
 * lease, so that back-pressure can hold new tasks back and let started groups go on (decision 14).
 *
 *     track   any instance | those that can run such a sample | ...
 *     lanes   evaluation | interrupted | retry | started + fresh
 *     lane    priority 5: [head] <-> [] <-> [tail]     linked through the waiters themselves, in order:
 *             priority 0: [head] <-> [tail]
 *
 * Samples that not every instance can run wait in a track of their own, so that they hold up no others; the earliest of the heads is next.
 * add, remove and peek are O(1) for one track, and O(log p) where a priority is new or leaves; memory is two pointers and two numbers a
 * waiter. A waiter that belongs further ahead (its tokens came late, its version came) is put where it belongs, searched from where the
 * last such one went: they come nearly in order.
 */
import type { QueueLane, Waiter } from '../rollout/waiter.ts'

const LANES: readonly QueueLane[] = ['evaluation', 'interrupted', 'retry', 'started', 'fresh']

interface Line {
  readonly priority: number
  head: Waiter | null
  tail: Waiter | null
  /** Where the last waiter went that did not go to the end. */
  finger: Waiter | null
}

interface Lane {
  /** Largest priority first. Empty lines are removed. */
  readonly lines: Line[]
  readonly byPriority: Map<number, Line>
  size: number
}

type Track = Record<QueueLane, Lane>

export interface Queue<W extends Waiter> {
  readonly size: number
  sizeOf(lane: QueueLane): number
  /** Waiters of one track; those that `peek(holdFresh)` may yield. */
  sizeOfTrack(track: number, holdFresh: boolean): number
  /** Puts a waiter into a lane of its track, at its place in order. */
  add(waiter: W, lane: QueueLane): void
  /** Takes a waiter out of whatever lane it is in; nothing happens when it is in none. */
  remove(waiter: W): void
  /** The waiter whose turn it is. `holdFresh` leaves new tasks out, `skipped` tracks. */
  peek(holdFresh: boolean, skipped?: ReadonlySet<number>): W | null
  /** The same among the waiters of one lane. */
  peekIn(lane: QueueLane, skipped?: ReadonlySet<number>): W | null
  /** All waiters of one lane, in order within a track. */
  waitersIn(lane: QueueLane): Iterable<W>
  /** Moves a waiter to another track, at its place there. */
  divert(waiter: W, track: number): void
  /** Moves all waiters to track 0, which drops the others. */
  merge(): void
  /** All waiters, in no order that matters. O(n): for tests and views. */
  [Symbol.iterator](): Iterator<W>
}

export function createQueue<W extends Waiter>(): Queue<W> {
  const tracks: Track[] = [createTrack()]
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
    const line: Line = { priority, head: null, tail: null, finger: null }
    lane.byPriority.set(priority, line)
    lane.lines.splice(place(lane, priority), 0, line)
    return line
  }
  /** The waiter of the line before which one of this order belongs; null for the end. */
  function follower(line: Line, order: number): Waiter | null {
    if (line.tail === null || line.tail.order <= order) return null
    let at = line.finger ?? line.head!
    if (at.order > order) while (at.before !== null && at.before.order > order) at = at.before
    // The tail is one that belongs behind.
    while (at.order <= order) at = at.after!
    return at
  }
  function link(line: Line, waiter: Waiter): void {
    const after = follower(line, waiter.order)
    waiter.after = after
    waiter.before = after === null ? line.tail : after.before
    if (waiter.before === null) line.head = waiter
    else waiter.before.after = waiter
    if (after === null) line.tail = waiter
    else after.before = waiter
    if (after !== null) line.finger = waiter
  }
  function unlink(line: Line, waiter: Waiter): void {
    if (line.finger === waiter) line.finger = waiter.before ?? waiter.after
    if (waiter.before === null) line.head = waiter.after
    else waiter.before.after = waiter.after
    if (waiter.after === null) line.tail = waiter.before
    else waiter.after.before = waiter.before
  }
  function head(track: Track, name: QueueLane): W | null {
    return (track[name].lines[0]?.head ?? null) as W | null
  }
  function first(track: Track, holdFresh: boolean): W | null {
    const urgent = head(track, 'evaluation') ?? head(track, 'interrupted') ?? head(track, 'retry')
    if (urgent !== null) return urgent
    const started = head(track, 'started')
    const fresh = holdFresh ? null : head(track, 'fresh')
    if (started === null) return fresh
    return fresh !== null && fresh.priority > started.priority ? fresh : started
  }

  const queue: Queue<W> = {
    get size() {
      return size
    },
    sizeOf: (name) => tracks.reduce((sum, track) => sum + track[name].size, 0),
    sizeOfTrack: (number, holdFresh) =>
      LANES.reduce((sum, name) => sum + (holdFresh && name === 'fresh' ? 0 : (tracks[number]?.[name].size ?? 0)), 0),
    add(waiter, name) {
      while (waiter.track >= tracks.length) tracks.push(createTrack())
      const lane = tracks[waiter.track]![name]
      waiter.lane = name
      link(lineOf(lane, waiter.priority), waiter)
      lane.size++
      size++
    },
    remove(waiter) {
      if (waiter.lane === null) return
      const lane = tracks[waiter.track]![waiter.lane]
      const line = lineOf(lane, waiter.priority)
      unlink(line, waiter)
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
    peek(holdFresh, skipped) {
      if (tracks.length === 1 && skipped === undefined) return first(tracks[0]!, holdFresh)
      let next: W | null = null
      for (const [number, track] of tracks.entries()) {
        const found = skipped?.has(number) === true ? null : first(track, holdFresh)
        if (found !== null && (next === null || isBefore(found, next))) next = found
      }
      return next
    },
    divert(waiter, track) {
      const { lane } = waiter
      queue.remove(waiter)
      waiter.track = track
      if (lane !== null) queue.add(waiter, lane)
    },
    merge() {
      for (const waiter of tracks.slice(1).flatMap((track) => [...waitersOf<W>(track)])) queue.divert(waiter, 0)
      tracks.length = 1
    },
    peekIn(name, skipped) {
      let next: W | null = null
      for (const [number, track] of tracks.entries()) {
        const found = skipped?.has(number) === true ? null : head(track, name)
        if (found !== null && (next === null || isBefore(found, next))) next = found
      }
      return next
    },
    *waitersIn(name) {
      for (const track of tracks) yield* waitersOf<W>(track, [name])
    },
    *[Symbol.iterator]() {
      for (const track of tracks) yield* waitersOf<W>(track)
    },
  }
  return queue
}

function* waitersOf<W extends Waiter>(track: Track, names: readonly QueueLane[] = LANES): Generator<W> {
  for (const name of names)
    for (const line of track[name].lines)
      for (let waiter = line.head; waiter !== null; waiter = waiter.after) yield waiter as W
}

function createTrack(): Track {
  const lane = (): Lane => ({ lines: [], byPriority: new Map(), size: 0 })
  return { evaluation: lane(), interrupted: lane(), retry: lane(), started: lane(), fresh: lane() }
}

const CLASS: Readonly<Record<QueueLane, number>> = { evaluation: 0, interrupted: 1, retry: 2, started: 3, fresh: 3 }

/** Which of two heads is next. */
function isBefore(a: Waiter, b: Waiter): boolean {
  if (CLASS[a.lane!] !== CLASS[b.lane!]) return CLASS[a.lane!] < CLASS[b.lane!]
  if (a.priority !== b.priority) return a.priority > b.priority
  if (a.lane !== b.lane) return a.lane === 'started'
  return a.order < b.order
}
