/**
 * The connections of one instance, and bounded control calls over them. Streams have a pool of their own, as large as the supervisor's
 * leases make it, so that neither a stream nor a control call ever waits behind another stream (rule 7).
 * Every call ends: by its answer, its deadline on the injected clock, its signal, its size limit, or `close`.
 */
import { setMaxListeners } from 'node:events'
import { RolloutError } from '../errors.ts'
import type { DriverOptions } from './driver.ts'
import { type Exchange, type ExchangeEvents, exchange, exchangePool } from './exchange.ts'
import { excerpt, fault, first, type Headers, networkFault, type Peer, statusFault } from './faults.ts'

export interface Call {
  readonly method: 'GET' | 'POST'
  readonly path: string
  /** Sent as JSON. */
  readonly body?: unknown
  /** @default 10 000 */
  readonly deadlineMs?: number
  readonly signal?: AbortSignal | undefined
}

export interface Reply {
  readonly what: string
  readonly status: number
  readonly headers: Headers
  readonly text: string
}

export interface Transport {
  readonly peer: Peer
  /** One control call. Any status but a redirect is an answer; throws where there is none. */
  call(call: Call): Promise<Reply>
  /** One streamed POST of a JSON text. */
  open(path: string, body: string, events: ExchangeEvents): Exchange
  onHangUp(listener: () => void): void
  close(): Promise<void>
}

/** Control routes answer in milliseconds; a server that needs longer is not well. */
export const DEADLINE_MS = 10_000
/** A server's whole configuration is some 20 kB; this bounds what a wrong server can make us hold. */
const REPLY_BYTES = 16 * 1024 * 1024
/** Enough for a burst of aborts beside an update, few enough to spare the server's file table. */
const CONTROL_CONNECTIONS = 16

export function createTransport({ id, url, apiKey, clock }: DriverOptions): Transport {
  const { origin, pathname } = new URL(url)
  const prefix = pathname.replace(/\/+$/, '')
  const peer: Peer = { id, url: origin + prefix, apiKey }
  const streams = exchangePool(origin, null)
  const control = exchangePool(origin, CONTROL_CONNECTIONS)
  const accept = apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }
  const json = { ...accept, 'content-type': 'application/json' }

  return {
    peer,
    call({ method, path, body, deadlineMs = DEADLINE_MS, signal }) {
      const what = `${method} ${path}`
      return new Promise((resolve, reject) => {
        if (signal?.aborted) return reject(cancelled(peer, what, signal.reason))
        const parts: Buffer[] = []
        let bytes = 0
        let status = 0
        let headers: Headers = {}
        const settle = (action: () => void) => {
          clock.clearTimeout(timer)
          signal?.removeEventListener('abort', onAbort)
          action()
        }
        const giveUp = (error: RolloutError) => {
          request.abort()
          settle(() => reject(error))
        }
        const onAbort = () => giveUp(cancelled(peer, what, signal?.reason))
        const onDeadline = () =>
          giveUp(
            fault(
              'UNREACHABLE',
              peer,
              `${what}: expected an answer within ${deadlineMs} ms, found none; see whether the server still works`,
            ),
          )
        const timer = clock.setTimeout(onDeadline, deadlineMs)
        if (signal !== undefined) listen(signal, onAbort)
        const options =
          body === undefined
            ? { method, path: prefix + path, headers: accept }
            : { method, path: prefix + path, headers: json, body: JSON.stringify(body) }
        const request = exchange(control, options, {
          started(code, received) {
            status = code
            headers = received
          },
          data(part) {
            bytes += part.length
            parts.push(part)
            if (bytes > REPLY_BYTES) {
              giveUp(
                fault(
                  'WRONG_PROTOCOL',
                  peer,
                  `${what}: expected a short answer, found more than ${REPLY_BYTES} bytes; check the url`,
                ),
              )
            }
          },
          ended() {
            const text = Buffer.concat(parts, bytes).toString('utf8')
            if (status >= 300 && status < 400) settle(() => reject(statusFault(peer, what, status, headers, text)))
            else settle(() => resolve({ what, status, headers, text }))
          },
          failed(error, answered) {
            settle(() => reject(networkFault(peer, what, error, answered)))
          },
        })
      })
    },
    open(path, body, events) {
      return exchange(streams, { method: 'POST', path: prefix + path, headers: json, body }, events)
    },
    onHangUp(listener) {
      streams.pool.on('disconnect', listener)
      control.pool.on('disconnect', listener)
    },
    async close() {
      const closed = fault('CLOSED', peer, 'the driver was closed')
      await Promise.all([streams.pool.destroy(closed), control.pool.destroy(closed)])
    },
  }
}

/** One signal may end the calls and streams of a whole fleet, which Node would announce as a leak. */
export function listen(signal: AbortSignal, onAbort: () => void): void {
  setMaxListeners(0, signal)
  signal.addEventListener('abort', onAbort, { once: true })
}

/** The error of a call or stream that was aborted: the reason itself where that is one of ours. */
export function cancelled(peer: Peer, what: string, reason: unknown): RolloutError {
  return RolloutError.isInstance(reason)
    ? reason
    : fault('CANCELLED', peer, `${what}: cancelled by its signal`, { cause: reason })
}

/** The JSON of an answer with status 200. */
export function jsonOf(peer: Peer, reply: Reply): unknown {
  if (reply.status !== 200) throw statusFault(peer, reply.what, reply.status, reply.headers, reply.text)
  try {
    return JSON.parse(reply.text)
  } catch {
    throw notThis(peer, reply.what, 'JSON', reply.headers, reply.text)
  }
}

/** An answer in another language than the engine's. */
export function notThis(peer: Peer, what: string, expected: string, headers: Headers, text: string): RolloutError {
  const type = first(headers['content-type']) ?? 'no content type'
  return fault(
    'WRONG_PROTOCOL',
    peer,
    `${what}: expected ${expected}, found ${excerpt(type, peer)}: ${JSON.stringify(excerpt(text, peer))}; point the url at the inference server itself, not at a page or a proxy`,
  )
}
