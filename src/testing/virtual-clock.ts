/**
 * Time that passes only when told to: hours of a run in seconds, the same order of events every time.
 *
 * Timers fire in order of their time, then of their making, one at a time; after each, everything that became ready
 * (promises, stream chunks) runs before the next. Set and fire are O(log n); a cleared timer is dropped when its time comes, or
 * when cleared ones outnumber live ones.
 */
import type { Clock } from '../clock.ts'

/** A clock that stands still until it is told to go on. */
export interface VirtualClock extends Clock {
  /** Timers set and neither fired nor cleared. */
  readonly pending: number
  /** Lets `ms` milliseconds pass. */
  advance(ms: number): Promise<void>
  /** Lets time pass until `work` settles, and answers as it does. Throws when no timer is left and it has not. */
  run<T>(work: Promise<T>): Promise<T>
  /** Lets everything that is ready run, without letting time pass. */
  settle(): Promise<void>
}

interface Timer {
  readonly at: number
  readonly order: number
  callback: (() => void) | null
}

/**
 * Makes a virtual clock.
 * @param startMs what `now()` says first
 */
export function createVirtualClock(startMs = 0): VirtualClock {
  let now = startMs
  let order = 0
  let live = 0
  let heap: Timer[] = []

  function before(a: Timer, b: Timer): boolean {
    return a.at < b.at || (a.at === b.at && a.order < b.order)
  }
  function push(timer: Timer): void {
    let at = heap.length
    heap.push(timer)
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (!before(timer, heap[parent]!)) break
      heap[at] = heap[parent]!
      at = parent
    }
    heap[at] = timer
  }
  function pop(): Timer {
    const first = heap[0]!
    const last = heap.pop()!
    if (heap.length === 0) return first
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child >= heap.length) break
      if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child++
      if (!before(heap[child]!, last)) break
      heap[at] = heap[child]!
      at = child
    }
    heap[at] = last
    return first
  }
  /** The next live timer due at or before `limit`, taken out. */
  function due(limit: number): Timer | null {
    while (heap.length > 0) {
      if (heap[0]!.callback === null) pop()
      else if (heap[0]!.at > limit) return null
      else return pop()
    }
    return null
  }
  function fire(timer: Timer): void {
    now = Math.max(now, timer.at)
    const { callback } = timer
    timer.callback = null
    live--
    callback!()
  }
  /** One turn of Node's event loop: all promise reactions, and whatever they lead to, have run by then. */
  const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

  return {
    now: () => now,
    get pending() {
      return live
    },
    setTimeout(callback, delayMs) {
      const timer: Timer = { at: now + Math.max(0, delayMs), order: ++order, callback }
      push(timer)
      live++
      return timer
    },
    clearTimeout(handle) {
      const timer = handle as Timer | null | undefined
      if (timer?.callback == null) return
      timer.callback = null
      live--
      if (heap.length > 64 && heap.length > 4 * live) {
        const kept = heap.filter((each) => each.callback !== null)
        heap = []
        for (const each of kept) push(each)
      }
    },
    async advance(ms) {
      const until = now + ms
      await settle()
      for (let timer = due(until); timer !== null; timer = due(until)) {
        fire(timer)
        await settle()
      }
      now = until
    },
    async run(work) {
      let settled = false
      const mark = (): void => {
        settled = true
      }
      work.then(mark, mark)
      await settle()
      while (!settled) {
        const timer = due(Number.POSITIVE_INFINITY)
        if (timer === null) throw new Error('the virtual clock has no timer left, and what it runs for has not settled')
        fire(timer)
        await settle()
      }
      return work
    },
    settle,
  }
}
