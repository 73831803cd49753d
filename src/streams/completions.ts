/**
 * `completions()`: rollout completions as an AsyncIterable with back-pressure instead of loss (decision 14, F14).
 *
 * A sink holds at most highWaterMark completions before it closes admission of new tasks; samples of started tasks still
 * arrive, so the bound is highWaterMark plus those. It counts from its first `next()` and stops when it returns.
 */
import type { Completion } from '../rollout/completion.ts'

export interface CompletionSinks {
  /** True while some reader is too far behind for new tasks to be admitted. */
  readonly full: boolean
  push(completion: Completion): void
  /** What some reader has not taken yet. */
  unread(): Completion[]
  /** For the first reader to begin. */
  putBack(completions: readonly Completion[]): void
  open(options: {
    readonly highWaterMark: number
    readonly signal: AbortSignal | undefined
  }): AsyncIterableIterator<Completion>
  /** Lets every reader finish what it has, then ends it. */
  close(): void
}

interface Sink {
  readonly buffer: Completion[]
  readonly highWaterMark: number
  full: boolean
  wake: (() => void) | null
  ended: boolean
}

/** `onChange` is called when the first sink is full, and when the last full one has room again. */
export function createCompletionSinks(onChange: () => void): CompletionSinks {
  const sinks = new Set<Sink>()
  let full = 0
  let closed = false
  /** Put back, and not taken by a reader yet. */
  let returned: readonly Completion[] = []

  function measure(sink: Sink): void {
    const isFull = !sink.ended && sink.buffer.length >= sink.highWaterMark
    if (isFull === sink.full) return
    sink.full = isFull
    full += isFull ? 1 : -1
    if (full === 0 || (isFull && full === 1)) onChange()
  }
  /** Lets every waiting `next()` look again; those that find nothing wait anew. */
  function wake(sink: Sink): void {
    const waiting = sink.wake
    sink.wake = null
    waiting?.()
  }
  function end(sink: Sink): void {
    sink.ended = true
    sinks.delete(sink)
    measure(sink)
    wake(sink)
  }

  return {
    get full() {
      return full > 0
    },
    push(completion) {
      for (const sink of sinks) {
        sink.buffer.push(completion)
        measure(sink)
        wake(sink)
      }
    },
    unread: () => [...new Set([...returned, ...[...sinks].flatMap(({ buffer }) => buffer)])],
    putBack(completions) {
      returned = completions
    },
    open({ highWaterMark, signal }) {
      const sink: Sink = { buffer: [], highWaterMark, full: false, wake: null, ended: false }
      let begun = false
      /** Set until a reader has been told that the signal was aborted. */
      let aborted = false
      const abort = (): void => {
        aborted = true
        sink.buffer.length = 0
        end(sink)
      }
      function begin(): void {
        begun = true
        aborted = signal?.aborted === true
        if (closed || aborted) sink.ended = true
        else {
          sinks.add(sink)
          sink.buffer.push(...returned)
          returned = []
          measure(sink)
        }
        signal?.addEventListener('abort', abort, { once: true })
      }
      function finish(): void {
        signal?.removeEventListener('abort', abort)
        sink.buffer.length = 0
        end(sink)
      }
      const iterator: AsyncIterableIterator<Completion> = {
        async next() {
          if (!begun) begin()
          while (sink.buffer.length === 0 && !sink.ended) {
            await new Promise<void>((resolve) => {
              const before = sink.wake
              sink.wake = () => {
                before?.()
                resolve()
              }
            })
          }
          if (aborted) {
            aborted = false
            finish()
            throw signal!.reason
          }
          const value = sink.buffer.shift()
          measure(sink)
          if (value !== undefined) return { done: false, value }
          finish()
          return { done: true, value: undefined }
        },
        async return() {
          begun = true
          aborted = false
          finish()
          return { done: true, value: undefined }
        },
        [Symbol.asyncIterator]() {
          return iterator
        },
      }
      return iterator
    },
    close() {
      closed = true
      for (const sink of sinks) end(sink)
    },
  }
}
