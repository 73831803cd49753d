/**
 * A streamed generation as an AsyncIterable of chunks. One network read yields at most one chunk, however many events it carried.
 * Only a terminal event is an end (F12): a stream that stops without one throws, after the tokens that had arrived.
 * A consumer that does not read pauses the socket. Aborting the signal, or leaving the loop, closes the socket at once.
 */
import type { Clock } from '../clock.ts'
import { messageOf, RolloutError } from '../errors.ts'
import type { Chunk } from './driver.ts'
import { eventSplitter } from './event-stream.ts'
import type { Exchange, ExchangeEvents } from './exchange.ts'
import { fault, first, type Headers, networkFault, statusFault } from './faults.ts'
import { cancelled, listen, notThis, type Transport } from './transport.ts'

/** What an engine's events mean. One per attempt; it remembers what was delivered. */
export interface ChunkDecoder {
  /** Merges the events of one network read; null where they bring nothing new. */
  read(events: readonly string[]): Chunk | null
  /** The error that an event carried, if one did. Read after `read`. */
  readonly failure: RolloutError | null
  /** True where the decoder has set an end that the server knows nothing of: the socket is closed at once. */
  readonly cut?: boolean
}

export interface ChunkRequest {
  readonly transport: Transport
  readonly clock: Clock
  readonly path: string
  /** JSON text. */
  readonly body: string
  readonly signal: AbortSignal
  readonly decoder: ChunkDecoder
  /** Called when response headers have arrived. */
  readonly onAccepted?: (() => void) | undefined
  readonly maxEventBytes?: number | undefined
}

/** Reads of up to 64 kB each that wait for the consumer before the socket is paused: about 1 MB. */
const WAITING_CHUNKS = 16
/** Of an error's body; more is not a message. */
const ERROR_BYTES = 64 * 1024
/** After the terminal event only `[DONE]` can follow; a server that holds the socket longer loses it. */
const LINGER_MS = 2_000

const END: IteratorReturnResult<undefined> = { done: true, value: undefined }

interface Waiter {
  readonly resolve: (result: IteratorResult<Chunk, undefined>) => void
  readonly reject: (error: RolloutError) => void
}

/** The request is sent by the first `next()`. To be iterated once. */
export function chunkStream(request: ChunkRequest): AsyncIterableIterator<Chunk, undefined, undefined> {
  return new ChunkStream(request)
}

class ChunkStream implements AsyncIterableIterator<Chunk, undefined, undefined>, ExchangeEvents {
  readonly #request: ChunkRequest
  readonly #what: string
  readonly #splitter: ReturnType<typeof eventSplitter>
  #exchange: Exchange | null = null
  #waiter: Waiter | null = null
  /** Chunks that the consumer has not taken. */
  #ready: Chunk[] = []
  #paused = false
  /** Bytes of the network read that is still going on. */
  #reads: Buffer[] = []
  #flushing = false
  #status = 0
  #headers: Headers = {}
  #refusal = ''
  /** No more chunks will become ready: a terminal event, an error, or the consumer left. */
  #closed = false
  #failure: RolloutError | null = null
  #linger: unknown = null

  constructor(request: ChunkRequest) {
    this.#request = request
    this.#what = `POST ${request.path}`
    this.#splitter = eventSplitter(request.maxEventBytes)
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  next(): Promise<IteratorResult<Chunk, undefined>> {
    if (this.#exchange === null && !this.#closed) this.#start()
    const chunk = this.#ready.shift()
    if (chunk !== undefined) {
      if (this.#paused && this.#ready.length === 0) this.#resume()
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
    if (!this.#closed) this.#close(null, true)
    this.#ready = []
    this.#failure = null
    return Promise.resolve(END)
  }

  started(status: number, headers: Headers): void {
    this.#status = status
    this.#headers = headers
    this.#request.onAccepted?.()
    if (status >= 300 && status < 400)
      this.#close(statusFault(this.#request.transport.peer, this.#what, status, headers, ''), true)
  }

  data(bytes: Buffer): void {
    if (this.#closed) return
    if (!this.#isEvents()) {
      this.#refusal += bytes.toString('utf8')
      if (this.#refusal.length > ERROR_BYTES) this.#close(this.#refused(), true)
      return
    }
    this.#reads.push(bytes)
    // undici hands over one HTTP chunk at a time; the microtask runs after the last one of this read.
    if (this.#flushing) return
    this.#flushing = true
    queueMicrotask(() => this.#flush())
  }

  ended(): void {
    this.#flush()
    if (this.#linger !== null) this.#request.clock.clearTimeout(this.#linger)
    if (this.#closed) return
    if (!this.#isEvents()) {
      this.#close(this.#refused(), false)
      return
    }
    const found = 'found the end of the stream before one'
    this.#close(
      fault(
        'TRANSPORT',
        this.#request.transport.peer,
        `${this.#what}: expected a terminal event, ${found}; the tokens so far are kept`,
      ),
      false,
    )
  }

  failed(error: unknown, answered: boolean): void {
    this.#flush()
    if (this.#linger !== null) this.#request.clock.clearTimeout(this.#linger)
    if (!this.#closed) this.#close(networkFault(this.#request.transport.peer, this.#what, error, answered), false)
  }

  #start(): void {
    const { transport, path, body, signal } = this.#request
    if (signal.aborted) {
      this.#close(cancelled(transport.peer, this.#what, signal), false)
      return
    }
    listen(signal, this.#onAbort)
    const exchange = transport.open(path, body, this)
    this.#exchange = exchange
    if (this.#closed) exchange.abort()
  }

  readonly #onAbort = (): void => {
    this.#ready = []
    this.#close(cancelled(this.#request.transport.peer, this.#what, this.#request.signal), true)
  }

  #isEvents(): boolean {
    const type = first(this.#headers['content-type'])
    return this.#status === 200 && (type === undefined || type.includes('event-stream'))
  }

  #refused(): RolloutError {
    const { peer } = this.#request.transport
    if (this.#status === 200) return notThis(peer, this.#what, 'an event stream', this.#headers, this.#refusal)
    return statusFault(peer, this.#what, this.#status, this.#headers, this.#refusal)
  }

  #flush(): void {
    this.#flushing = false
    const reads = this.#reads
    if (reads.length === 0 || this.#closed) return
    this.#reads = []
    const { decoder, transport } = this.#request
    const events: string[] = []
    try {
      for (const bytes of reads) this.#splitter.push(bytes, events)
      if (events.length === 0) return
      const chunk = decoder.read(events)
      if (chunk !== null) this.#deliver(chunk)
      if (decoder.failure !== null) this.#close(decoder.failure, true)
    } catch (error) {
      const found = `${this.#what}: expected events of this engine, found ${messageOf(error)}; check its engine and version`
      this.#close(
        RolloutError.isInstance(error) ? error : fault('WRONG_PROTOCOL', transport.peer, found, { cause: error }),
        true,
      )
    }
  }

  #deliver(chunk: Chunk): void {
    const waiter = this.#waiter
    if (waiter === null) {
      this.#ready.push(chunk)
      if (this.#ready.length >= WAITING_CHUNKS && !this.#paused) {
        this.#paused = true
        this.#exchange?.pause()
      }
    } else {
      this.#waiter = null
      waiter.resolve({ done: false, value: chunk })
    }
    if (chunk.finishReason === null) return
    const cut = this.#request.decoder.cut === true
    this.#close(null, cut)
    if (cut) return
    // The socket is worth keeping: let the server end the stream.
    this.#linger = this.#request.clock.setTimeout(() => this.#exchange?.abort(), LINGER_MS)
    this.#resume()
  }

  #resume(): void {
    this.#paused = false
    this.#exchange?.resume()
  }

  #close(failure: RolloutError | null, abort: boolean): void {
    if (this.#closed) return
    this.#closed = true
    this.#reads = []
    this.#request.signal.removeEventListener('abort', this.#onAbort)
    if (abort) this.#exchange?.abort()
    const waiter = this.#waiter
    this.#waiter = null
    if (waiter === null) this.#failure = failure
    else if (failure === null) waiter.resolve(END)
    else waiter.reject(failure)
  }
}
