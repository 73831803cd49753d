/**
 * Faults of an embedded engine, whichever wire protocol it speaks: it dies, restarts, stands still, cuts its streams, talks nonsense, refuses.
 * Tests call them on a running engine, or script them by requests, tokens or time. A fault changes only what the engine does from
 * then on; what it generated and delivered stays counted.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { EngineCore } from './embedded-contract.ts'
import type { EngineCounters } from './embedded-engine.ts'
import { sendText } from './embedded-http.ts'
import type { Sequence } from './embedded-sequence.ts'
import { type StreamEnd, tamper } from './embedded-tamper.ts'
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
  /** Path of the requests that get it. @default every route that generates */
  readonly path?: string
}

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
  /** Aborts are answered with 200 and end nothing ('ignored'), or with 500 ('failed'). */
  refuseAbort(how: 'ignored' | 'failed'): void
  /** Does not notice that clients leave: their sequences run to their end. */
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

/** What the faults need of the engine. */
export interface FaultHooks {
  readonly counters: EngineCounters
  readonly scripts: readonly FaultScript[]
  /** Factor on the time of a step where no fault sets another. */
  readonly slow: number
  core(): EngineCore
  stop(): Promise<void>
  start(options: RestartOptions): Promise<void>
  closeIdleSockets(): number
}

/** What the engine needs of its faults. */
export interface FaultLayer {
  readonly faults: EngineFaults
  /** The core as the dialect sees it. */
  around(core: EngineCore): EngineCore
  /** True when a fault has answered the request. */
  intercept(request: IncomingMessage, response: ServerResponse, path: string): boolean
  turnEnded(): void
  close(): void
}

const GENERATE = new Set([
  '/generate',
  '/inference/v1/generate',
  '/v1/completions',
  '/v1/chat/completions',
  '/completion',
])
const ABORT = /\/abort_requests?$/
const PAGE = '<!doctype html><title>Sign in</title><p>Please sign in to continue.'

interface Answer {
  readonly status: number
  readonly options: AnswerOptions
  left: number
}

interface Spoiler {
  readonly afterEvents: number
  readonly end: StreamEnd
  left: number
}

export function createFaults(hooks: FaultHooks): FaultLayer {
  const counters: FaultCounters = {
    requests: 0,
    restarts: 0,
    cut: 0,
    answered: 0,
    spoilt: 0,
    abortsRefused: 0,
    socketsClosed: 0,
  }
  const listeners = new Set<(method: string, path: string) => void>()
  const open = new Set<ServerResponse>()
  const used = new WeakSet<object>()
  let scripts = [...hooks.scripts]
  const timers = new Set<NodeJS.Timeout>()
  let answers: Answer[] = []
  let spoilers: Spoiler[] = []
  let nonsense: { readonly as: 'bytes' | 'page'; left: number } | null = null
  let refusal: 'ignored' | 'failed' | null = null
  let dead = false
  let frozen = false
  let resets = 0
  /** Sequences whose clients left unnoticed; null where clients are noticed. */
  let unnoticed: Sequence[] | null = null

  const faults: EngineFaults = {
    counters,
    die: hooks.stop,
    async restart(options = {}) {
      await hooks.stop()
      counters.restarts++
      frozen = false
      dead = false
      if (unnoticed !== null) unnoticed = []
      await hooks.start(options)
    },
    freeze() {
      frozen = true
      hooks.core().freeze('keep')
    },
    thaw() {
      frozen = false
      hooks.core().thaw()
    },
    slow: (factor) => hooks.core().setSlow(factor),
    cut({ afterEvents = 0, times = 1, where = 'between' } = {}) {
      spoilers.push({ afterEvents, end: { kind: where }, left: times })
    },
    cutOpen() {
      counters.cut += open.size
      for (const response of open) response.destroy()
    },
    garbage({ as, afterEvents = 0, times = 1 }) {
      const bytes = Buffer.from('data: \u0000{]>~ nonsense\n\n')
      if (as === 'event') spoilers.push({ afterEvents, end: { kind: 'bytes', bytes }, left: times })
      else nonsense = { as, left: times }
    },
    errorInStream(code, { message = `error ${code} of a fault`, afterEvents = 0, times = 1 } = {}) {
      const bytes = Buffer.from(`data: ${errorBody(code, message)}\n\ndata: [DONE]\n\n`)
      spoilers.push({ afterEvents, end: { kind: 'bytes', bytes }, left: times })
    },
    answer(status, options = {}) {
      answers.push({ status, options, left: options.times ?? 1 })
    },
    refuseAbort(how) {
      refusal = how
    },
    ignoreDisconnects() {
      unnoticed ??= []
    },
    closeIdleSockets({ onUse = 0 } = {}) {
      counters.socketsClosed += hooks.closeIdleSockets()
      resets = onUse
    },
    deadEngine() {
      dead = true
      faults.cutOpen()
    },
    heal() {
      answers = []
      spoilers = []
      nonsense = null
      refusal = null
      dead = false
      resets = 0
      hooks.core().setSlow(hooks.slow)
      if (frozen) faults.thaw()
      const left = unnoticed ?? []
      unnoticed = null
      for (const sequence of left) hooks.core().drop(sequence)
    },
    onRequest(listener) {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
  }

  function play(script: FaultScript): void {
    if (!scripts.includes(script)) return
    scripts = scripts.filter((other) => other !== script)
    script.run(faults)
  }

  for (const script of scripts) {
    if (script.afterMs === undefined) continue
    timers.add(setTimeout(() => play(script), script.afterMs))
  }

  function interceptGenerate(request: IncomingMessage, response: ServerResponse): boolean {
    for (const script of scripts) if (hooks.counters.requests + 1 >= (script.afterRequests ?? Infinity)) play(script)
    if (dead) return refuse(request, response, 500, { body: errorBody(500, 'The engine is dead.') })
    if (nonsense !== null && nonsense.left > 0) {
      nonsense.left--
      hooks.counters.requests++
      counters.answered++
      request.resume()
      if (nonsense.as === 'bytes') request.socket.end('\u0000\u0001 nonsense\r\n\r\n')
      else sendText(response, 200, PAGE, 'text/html')
      return true
    }
    open.add(response)
    response.on('close', () => open.delete(response))
    const spoiler = spoilers.find(({ left }) => left > 0)
    if (spoiler === undefined) return false
    spoiler.left--
    tamper(response, spoiler, () => {
      if (spoiler.end.kind === 'bytes') counters.spoilt++
      else counters.cut++
    })
    return false
  }

  function refuse(request: IncomingMessage, response: ServerResponse, status: number, options: AnswerOptions): boolean {
    const { body = errorBody(status, `error ${status} of a fault`), retryAfterS } = options
    if (retryAfterS !== undefined) response.setHeader('retry-after', String(retryAfterS))
    counters.answered++
    request.resume()
    sendText(response, status, body, 'application/json')
    return true
  }

  return {
    faults,
    around(core) {
      return Object.assign(Object.create(core) as EngineCore, {
        drop(sequence: Sequence) {
          if (unnoticed === null) core.drop(sequence)
          else unnoticed.push(sequence)
        },
      })
    },
    intercept(request, response, path) {
      const { method = '', socket } = request
      counters.requests++
      for (const listener of listeners) listener(method, path)
      if (resets > 0 && used.has(socket)) {
        resets--
        counters.socketsClosed++
        socket.destroy()
        return true
      }
      used.add(socket)
      const generates = GENERATE.has(path)
      const answer = answers.find(
        ({ left, options }) => left > 0 && (options.path === undefined ? generates : options.path === path),
      )
      if (answer !== undefined) {
        answer.left--
        if (generates) hooks.counters.requests++
        return refuse(request, response, answer.status, answer.options)
      }
      if (refusal !== null && ABORT.test(path)) {
        counters.abortsRefused++
        return refuse(request, response, refusal === 'ignored' ? 200 : 500, { body: '{}' })
      }
      return generates && interceptGenerate(request, response)
    },
    turnEnded() {
      if (scripts.length === 0) return
      for (const script of scripts) if (hooks.counters.tokensGenerated >= (script.afterTokens ?? Infinity)) play(script)
    },
    close() {
      for (const timer of timers) clearTimeout(timer)
      scripts = []
    },
  }
}

/** An error as SGLang, vLLM, llama-server and OpenAI put it. */
function errorBody(code: number, message: string): string {
  return JSON.stringify({ error: { message, type: 'fault', code } })
}
