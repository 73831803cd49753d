/**
 * A streamed generation as an AsyncIterable of chunks, over a reader that pushes them (chunk-reader.ts).
 * A consumer that does not read pauses the socket. Aborting the signal, or leaving the loop, closes the socket at once.
 */
import { ChunkReader, type ChunkRequest, type ChunkSink } from './chunk-reader.ts'
import type { Chunk } from './driver.ts'
import { listen } from './transport.ts'

/** Reads of up to 64 kB each that wait for the consumer before the socket is paused: about 1 MB. */
const WAITING_CHUNKS = 16

const END: IteratorReturnResult<undefined> = { done: true, value: undefined }

interface Waiter {
  readonly resolve: (result: IteratorResult<Chunk, undefined>) => void
  readonly reject: (error: unknown) => void
}

/** The request is sent by the first `next()`. To be iterated once. */
export function chunkStream(
  request: ChunkRequest,
  signal: AbortSignal,
): AsyncIterableIterator<Chunk, undefined, undefined> {
  return new ChunkStream(request, signal)
}

class ChunkStream implements AsyncIterableIterator<Chunk, undefined, undefined>, ChunkSink {
  readonly #reader: ChunkReader
  readonly #signal: AbortSignal
  #started = false
  #waiter: Waiter | null = null
  /** Chunks that the consumer has not taken. */
  #ready: Chunk[] = []
  #paused = false
  /** No more chunks will become ready: a terminal event, an error, or the consumer left. */
  #closed = false
  #failure: unknown = null

  constructor(request: ChunkRequest, signal: AbortSignal) {
    this.#reader = new ChunkReader(request, this)
    this.#signal = signal
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  next(): Promise<IteratorResult<Chunk, undefined>> {
    if (!this.#started && !this.#closed) this.#start()
    const chunk = this.#ready.shift()
    if (chunk !== undefined) {
      if (this.#paused && this.#ready.length === 0) {
        this.#paused = false
        this.#reader.resume()
      }
      return Promise.resolve({ done: false, value: chunk })
    }
    if (this.#closed) {
      const failure = this.#failure
      this.#failure = null
      return failure === null ? Promise.resolve(END) : Promise.reject(failure)
    }
    if (this.#waiter !== null) return Promise.reject(new TypeError('next() was called before the last one settled'))
    return new Promise((resolve, reject) => {
      this.#waiter = { resolve, reject }
    })
  }

  return(): Promise<IteratorResult<Chunk, undefined>> {
    this.#reader.leave()
    this.#ready = []
    this.#failure = null
    return Promise.resolve(END)
  }

  chunk(chunk: Chunk): void {
    const waiter = this.#waiter
    if (waiter !== null) {
      this.#waiter = null
      waiter.resolve({ done: false, value: chunk })
      return
    }
    this.#ready.push(chunk)
    if (this.#ready.length >= WAITING_CHUNKS && !this.#paused) {
      this.#paused = true
      this.#reader.pause()
    }
  }

  end(error: unknown): void {
    this.#closed = true
    this.#paused = false
    this.#signal.removeEventListener('abort', this.#onAbort)
    const waiter = this.#waiter
    this.#waiter = null
    if (waiter === null) this.#failure = error
    else if (error === null) waiter.resolve(END)
    else waiter.reject(error)
  }

  #start(): void {
    this.#started = true
    if (this.#signal.aborted) {
      this.#reader.cancel(this.#signal.reason)
      return
    }
    listen(this.#signal, this.#onAbort)
    this.#reader.start()
  }

  readonly #onAbort = (): void => {
    this.#ready = []
    this.#reader.cancel(this.#signal.reason)
  }
}
