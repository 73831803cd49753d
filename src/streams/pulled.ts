/**
 * An AsyncIterable whose items are made when they are asked for: each `next()` is a request, answered in order. It says how many
 * requests there were, which is what flow control is made of. Leaving the loop, aborting and ending are one path, taken once.
 */
export interface Pulled<T> {
  readonly iterator: AsyncIterableIterator<T>
  /** Calls of `next()` so far. */
  readonly asked: number
  /** Of these, not answered yet. */
  readonly waiting: number
  readonly ended: boolean
  /** Answers the oldest request. */
  give(value: T): void
  /** Ends it; an error is told to one reader. What waits is answered. */
  end(error?: { readonly error: unknown }): void
}

export interface PulledOptions {
  /** The first `next()` was called. */
  readonly onBegin: () => void
  /** A request waits. */
  readonly onAsk: () => void
  /** It is over: the reader left, the signal was aborted, or `end` was called. Once, and only after onBegin. */
  readonly onEnd: () => void
  readonly signal: AbortSignal | undefined
}

interface Request<T> {
  readonly resolve: (result: IteratorResult<T>) => void
  readonly reject: (error: unknown) => void
}

export function createPulled<T>({ onBegin, onAsk, onEnd, signal }: PulledOptions): Pulled<T> {
  const requests: Request<T>[] = []
  let asked = 0
  let begun = false
  let ended = false
  /** What the next reader is told, once. */
  let failure: { readonly error: unknown } | null = null

  function end(error: { readonly error: unknown } | null): void {
    if (ended) return
    ended = true
    failure = error
    signal?.removeEventListener('abort', abort)
    if (begun) onEnd()
    for (const { resolve, reject } of requests.splice(0)) answerEnd(resolve, reject)
  }
  function abort(): void {
    end({ error: signal!.reason })
  }
  function answerEnd(resolve: Request<T>['resolve'], reject: Request<T>['reject']): void {
    if (failure === null) {
      resolve({ done: true, value: undefined })
    } else {
      const { error } = failure
      failure = null
      reject(error)
    }
  }

  const iterator: AsyncIterableIterator<T> = {
    next() {
      if (!begun && !ended) {
        if (signal?.aborted === true) {
          abort()
        } else {
          begun = true
          signal?.addEventListener('abort', abort, { once: true })
          onBegin()
        }
      }
      return new Promise((resolve, reject) => {
        if (ended) {
          answerEnd(resolve, reject)
          return
        }
        asked++
        requests.push({ resolve, reject })
        onAsk()
      })
    },
    async return() {
      end(null)
      failure = null
      return { done: true, value: undefined }
    },
    [Symbol.asyncIterator]() {
      return iterator
    },
  }
  return {
    iterator,
    get asked() {
      return asked
    },
    get waiting() {
      return requests.length
    },
    get ended() {
      return ended
    },
    give(value) {
      requests.shift()?.resolve({ done: false, value })
    },
    end: (error) => end(error ?? null),
  }
}
