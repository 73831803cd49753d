/**
 * A streamed generation, pushed: each chunk is handed to a sink as it is read. One network read makes at most one chunk, however many
 * events it carried. Only a terminal event is an end (F12): a stream that stops without one ends with an error, after the tokens that
 * had arrived. Cancelling closes the socket at once, and nothing is handed over after that.
 */
import type { Clock } from '../clock.ts'
import { messageOf, RolloutError } from '../errors.ts'
import type { Chunk } from './driver.ts'
import { eventSplitter } from './event-stream.ts'
import type { Exchange, ExchangeEvents } from './exchange.ts'
import { fault, first, type Headers, networkFault, statusFault } from './faults.ts'
import { cancelled, notThis, type Transport } from './transport.ts'

/** What an engine's events mean. One per attempt; it remembers what was delivered. */
export interface ChunkDecoder {
  /** Merges the events of one network read; null where they bring nothing new. */
  read(events: readonly string[]): Chunk | null
  /** The error that an event carried, if one did. Read after `read`. */
  readonly failure: RolloutError | null
}

export interface ChunkRequest {
  readonly transport: Transport
  readonly clock: Clock
  readonly path: string
  /** JSON text. */
  readonly body: string
  readonly decoder: ChunkDecoder
  /** Called when response headers have arrived. */
  readonly onAccepted?: (() => void) | undefined
  /** Asked before it is sent a second time (driver.ts). */
  readonly maySendAgain?: (() => Promise<boolean>) | undefined
  readonly maxEventBytes?: number | undefined
}

export interface ChunkSink {
  /** What it throws ends the stream, and is its error. */
  chunk(chunk: Chunk): void
  /** Once, at the end of all: null after a terminal event. */
  end(error: unknown): void
}

/** Of an error's body; more is not a message. */
const ERROR_BYTES = 64 * 1024
/** After the terminal event only `[DONE]` can follow; a server that holds the socket longer loses it. */
const LINGER_MS = 2_000
/** Its reactions run after the network read that is going on. A microtask of Node's own costs five times as much. */
const NOW = Promise.resolve()

export class ChunkReader implements ExchangeEvents {
  readonly #request: ChunkRequest
  readonly #sink: ChunkSink
  readonly #what: string
  readonly #splitter: ReturnType<typeof eventSplitter>
  #exchange: Exchange | null = null
  /** Bytes of the network read that is still going on. */
  #reads: Buffer[] = []
  #flushing = false
  #status = 0
  #headers: Headers = {}
  /** Whether the answer is a stream of events. */
  #events = false
  #refusal = ''
  /** The sink was told the end. */
  #closed = false
  /** The exchange has ended by itself. */
  #over = false
  #linger: unknown = null

  constructor(request: ChunkRequest, sink: ChunkSink) {
    this.#request = request
    this.#sink = sink
    this.#what = `POST ${request.path}`
    this.#splitter = eventSplitter(request.maxEventBytes)
  }

  start(): void {
    const { transport, path, body } = this.#request
    const exchange = transport.open(path, body, this)
    this.#exchange = exchange
    if (this.#closed) exchange.abort()
  }

  /** Stops reading the socket, so that TCP slows the server down. */
  pause(): void {
    this.#exchange?.pause()
  }

  resume(): void {
    this.#exchange?.resume()
  }

  /** Ends with the reason itself where that is one of our errors. */
  cancel(reason: unknown): void {
    this.#close(cancelled(this.#request.transport.peer, this.#what, reason), true)
  }

  /** Ends without an error: nobody wants to know more. */
  leave(): void {
    this.#close(null, true)
  }

  started(status: number, headers: Headers): void {
    const type = first(headers['content-type'])
    this.#status = status
    this.#headers = headers
    this.#events = status === 200 && (type === undefined || type.includes('event-stream'))
    this.#request.onAccepted?.()
    if (status >= 300 && status < 400)
      this.#close(statusFault(this.#request.transport.peer, this.#what, status, headers, ''), true)
  }

  data(bytes: Buffer): void {
    if (this.#closed) return
    if (!this.#events) {
      this.#refusal += bytes.toString('utf8')
      if (this.#refusal.length > ERROR_BYTES) this.#close(this.#refused(), true)
      return
    }
    this.#reads.push(bytes)
    // undici hands over one HTTP chunk at a time; the reaction runs after the last one of this read.
    if (this.#flushing) return
    this.#flushing = true
    void NOW.then(this.#flush)
  }

  ended(): void {
    this.#finish()
    if (this.#closed) return
    if (!this.#events) {
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
    this.#finish()
    if (!this.#closed) this.#close(networkFault(this.#request.transport.peer, this.#what, error, answered), false)
  }

  maySendAgain(): Promise<boolean> {
    return this.#request.maySendAgain?.() ?? Promise.resolve(true)
  }

  /** The exchange is over: reads what it brought. */
  #finish(): void {
    this.#over = true
    this.#flush()
    if (this.#linger !== null) this.#request.clock.clearTimeout(this.#linger)
  }

  #refused(): RolloutError {
    const { peer } = this.#request.transport
    if (this.#status === 200) return notThis(peer, this.#what, 'an event stream', this.#headers, this.#refusal)
    return statusFault(peer, this.#what, this.#status, this.#headers, this.#refusal)
  }

  readonly #flush = (): void => {
    this.#flushing = false
    const reads = this.#reads
    if (reads.length === 0 || this.#closed) return
    this.#reads = []
    const { decoder, transport } = this.#request
    let chunk: Chunk | null = null
    try {
      const events: string[] = []
      for (const bytes of reads) this.#splitter.push(bytes, events)
      if (events.length === 0) return
      chunk = decoder.read(events)
    } catch (error) {
      const found = `${this.#what}: expected events of this engine, found ${messageOf(error)}; check its engine and version`
      this.#close(
        RolloutError.isInstance(error) ? error : fault('WRONG_PROTOCOL', transport.peer, found, { cause: error }),
        true,
      )
      return
    }
    if (chunk !== null) this.#deliver(chunk)
    if (decoder.failure !== null) this.#close(decoder.failure, true)
  }

  #deliver(chunk: Chunk): void {
    try {
      this.#sink.chunk(chunk)
    } catch (error) {
      this.#close(error, true)
      return
    }
    if (chunk.finishReason === null) return
    // The server would go on for nobody.
    const isCut = chunk.isCut === true
    this.#close(null, isCut)
    if (isCut || this.#over) return
    // The socket is worth keeping: let the server end the stream.
    this.#linger = this.#request.clock.setTimeout(() => this.#exchange?.abort(), LINGER_MS)
    this.resume()
  }

  #close(error: unknown, abort: boolean): void {
    if (this.#closed) return
    this.#closed = true
    this.#reads = []
    if (abort) this.#exchange?.abort()
    this.#sink.end(error)
  }
}
