/**
 * One HTTP exchange over a pool, with undici's raw handler: the cheapest way to a body (no Readable, no AbortSignal per request).
 * After `abort` no event is delivered. A request that dies on a reused socket before one byte of its answer most likely met a server that
 * had just closed the idle connection (F13): it is sent again, until it fails on a connection made for it. Whoever minds that the server may
 * as well have restarted is asked before.
 */
import { buildConnector, type Dispatcher, Pool } from 'undici'
import { codeIn, type Headers } from './faults.ts'

export interface ExchangeEvents {
  started(status: number, headers: Headers): void
  data(bytes: Buffer): void
  ended(): void
  /** `answered` says whether response headers had arrived. */
  failed(error: unknown, answered: boolean): void
  /** Whether a request that died on a reused socket may be sent again; what rejects says no. @default always */
  maySendAgain?(): Promise<boolean>
}

export interface Exchange {
  /** Stops reading the socket, so that TCP slows the server down. */
  pause(): void
  resume(): void
  /** Destroys the request and its socket, which every engine takes as a cancellation. */
  abort(): void
}

export interface ExchangePool {
  readonly pool: Pool
  /** True while undici hands over a connection that was just made. */
  connecting(): boolean
}

/** A server may be slow to answer, not to accept: the kernel does that. */
const CONNECT_TIMEOUT_MS = 10_000
/** Below the 5 s after which uvicorn closes idle connections. */
const KEEP_ALIVE_MS = 4_000
/** `connections: null` opens one per request in flight: the supervisor's leases are the bound, undici never queues. */
export function exchangePool(origin: string, connections: number | null): ExchangePool {
  const connect = buildConnector({ timeout: CONNECT_TIMEOUT_MS })
  let connecting = false
  const pool = new Pool(origin, {
    connections,
    pipelining: 1,
    // Their default is 300 s each, shorter than a long generation; our own clocks bound every call.
    headersTimeout: 0,
    bodyTimeout: 0,
    keepAliveTimeout: KEEP_ALIVE_MS,
    connect(options, callback) {
      connect(options, (...result) => {
        connecting = true
        try {
          callback(...result)
        } finally {
          connecting = false
        }
      })
    },
  })
  return { pool, connecting: () => connecting }
}

export function exchange(over: ExchangePool, options: Dispatcher.DispatchOptions, events: ExchangeEvents): Exchange {
  let controller: Dispatcher.DispatchController | null = null
  let reused = false
  let answered = false
  let done = false
  let paused = false

  const handler: Dispatcher.DispatchHandler = {
    onRequestStart(started) {
      // undici keeps no way to drop a request that waits for its connection; it ends here, unsent.
      if (done) return started.abort(new Error('aborted'))
      controller = started
      reused = !over.connecting()
      if (paused) started.pause()
    },
    onResponseStart(_, status, headers) {
      if (done || status < 200) return
      answered = true
      events.started(status, headers)
    },
    onResponseData(_, bytes) {
      if (!done) events.data(bytes)
    },
    onResponseEnd() {
      if (done) return
      done = true
      events.ended()
    },
    onResponseError(_, error) {
      if (done) return
      if (reused && !answered && isDeadSocket(error)) {
        controller = null
        if (events.maySendAgain === undefined) over.pool.dispatch(options, handler)
        else void askFirst(error)
        return
      }
      fail(error)
    },
  }

  async function askFirst(error: unknown): Promise<void> {
    const may = await events.maySendAgain!().catch(() => false)
    if (done) return
    if (may) over.pool.dispatch(options, handler)
    else fail(error)
  }

  function fail(error: unknown): void {
    done = true
    events.failed(error, answered)
  }

  over.pool.dispatch(options, handler)

  return {
    pause() {
      paused = true
      controller?.pause()
    },
    resume() {
      paused = false
      controller?.resume()
    },
    abort() {
      if (done) return
      done = true
      controller?.abort(new Error('aborted'))
    },
  }
}

function isDeadSocket(error: unknown): boolean {
  const code = codeIn(error)
  return code === 'UND_ERR_SOCKET' || code === 'ECONNRESET' || code === 'EPIPE'
}
