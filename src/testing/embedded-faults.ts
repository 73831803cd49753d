/**
 * Faults of an embedded engine, whichever wire protocol it speaks: it dies, restarts, stands still, cuts its streams, talks nonsense, refuses.
 * Tests call them on a running engine, or script them by requests, tokens or time. A fault changes only what the engine does from
 * then on; what it generated and delivered stays counted.
 */
import type { TinyWeights } from './tiny-policy.ts'

/** Which streams a fault strikes, and when. */
export interface StreamFaultOptions {
  /** Events of a stream that get through first. @default 0 */
  readonly afterEvents?: number
  /** How many of the next generations it strikes. @default 1 */
  readonly times?: number
}

/** A refusal in place of an answer. */
export interface AnswerOptions {
  /** @default an error body as all engines understand */
  readonly body?: string
  /** Sent as `Retry-After`, in seconds. */
  readonly retryAfterS?: number
  /** How many of the next requests get it. @default 1 */
  readonly times?: number
  /** @default generations, on whichever route */
  readonly path?: string
}

/**
 * How a call of a control route goes wrong. Before: it is never answered, or the server dies or restarts under it, and nothing was done.
 * After: the same once all was done. Pretended: it is answered with 200, and nothing was done. A refusal is `answer(status, { path })`,
 * and so is a lie about the weights: `answer(200, { path: '/model_info', body })`.
 */
export type RouteFault = 'hang' | 'hangAfter' | 'die' | 'dieAfter' | 'restart' | 'restartAfter' | 'pretend'

/** What a server that restarts has. */
export interface RestartOptions {
  /** @default the weights that the engine was started with */
  readonly weights?: TinyWeights
  /** @default the label that the engine was started with */
  readonly weightVersion?: string
}

/** How often each fault has struck. */
export interface FaultCounters {
  /** Requests of any kind that reached the server. */
  requests: number
  restarts: number
  /** Streams that were cut. */
  cut: number
  /** Requests answered by a fault in place of the engine. */
  answered: number
  /** Streams in which nonsense or an error came. */
  spoilt: number
  abortsRefused: number
  /** Connections that were closed while idle, or under a request. */
  socketsClosed: number
}

/** The faults of one embedded engine, to be called at any time. */
export interface EngineFaults {
  readonly counters: Readonly<FaultCounters>
  /** Closes every socket and stops listening. Resolves when connections are refused. */
  die(): Promise<void>
  /** Dies, and comes back on the same port as a server that knows nothing. Also revives a dead one. */
  restart(options?: RestartOptions): Promise<void>
  /** Answers everything, generates nothing. */
  freeze(): void
  thaw(): void
  /** Factor on the time of a step, above 0. */
  slow(factor: number): void
  /** Streams end without a terminal event: between two events, with half of one sent, or in the middle of a UTF-8 character. */
  cut(options?: StreamFaultOptions & { readonly where?: 'between' | 'event' | 'character' }): void
  /** Cuts every stream that is open now. */
  cutOpen(): void
  /** Nonsense: what is not HTTP, a web page with status 200, or an event that no engine sends. */
  garbage(options: StreamFaultOptions & { readonly as: 'bytes' | 'page' | 'event' }): void
  /** An error with this code as an event of a stream that began with status 200. */
  errorInStream(code: number, options?: StreamFaultOptions & { readonly message?: string }): void
  /** This status in place of an answer. */
  answer(status: number, options?: AnswerOptions): void
  /** The next `times` calls (1 by default) of this path go wrong, without its query. */
  route(path: string, how: RouteFault, options?: { readonly times?: number }): void
  /** Aborts are answered with 200 and end nothing ('ignored'), or with 500 ('failed'). */
  refuseAbort(how: 'ignored' | 'failed'): void
  /** Does not notice that clients of later generations leave: their sequences run to their end. */
  ignoreDisconnects(): void
  /** Closes idle keep-alive connections now, and with `onUse` as many used ones under the next request that comes over them. */
  closeIdleSockets(options?: { readonly onUse?: number }): void
  /** The engine is dead behind a living front: open streams are cut, generations answered with 500, all else as before. */
  deadEngine(): void
  /** Takes back every fault that stands; a server that died stays dead. */
  heal(): void
  /** Calls back with method and path of every request, before it is answered. Returns the end of it. */
  onRequest(listener: (method: string, path: string) => void): () => void
}

/** A fault that strikes by itself, once: when the first of the moments that it names has come. */
export interface FaultScript {
  /** Generations asked for, this one included, counted since the start of the engine. */
  readonly afterRequests?: number
  /** Tokens generated; looked at after steps. */
  readonly afterTokens?: number
  /** Milliseconds since the start of the engine. */
  readonly afterMs?: number
  readonly run: (faults: EngineFaults) => unknown
}
