/**
 * Between the sockets of an embedded engine and its wire protocol: where the faults of embedded-faults.ts are made. Requests pass here on
 * their way in, and streams that are to go wrong on their way out.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { EngineCore } from './embedded-contract.ts'
import type { EngineCounters } from './embedded-engine.ts'
import type {
  AnswerOptions,
  EngineFaults,
  FaultCounters,
  FaultScript,
  RestartOptions,
  RouteFault,
} from './embedded-faults.ts'
import { sendText } from './embedded-http.ts'
import { createRouteFaults } from './embedded-route-faults.ts'
import { type StreamEnd, tamper } from './embedded-tamper.ts'

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
  /** Answers the request by a fault, or lets it pass. */
  handle(request: IncomingMessage, response: ServerResponse, path: string, pass: () => void): void
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
  const routes = createRouteFaults({
    stop: () => void hooks.stop(),
    restart: () => void faults.restart(),
    struck: () => counters.answered++,
  })
  /** What will be done about clients that left unnoticed; null where it is done at once. */
  let unnoticed: (() => void)[] | null = null

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
    route: (path: string, how: RouteFault, { times = 1 } = {}) => routes.order(path, how, times),
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
      routes.heal()
      spoilers = []
      nonsense = null
      refusal = null
      dead = false
      resets = 0
      hooks.core().setSlow(hooks.slow)
      if (frozen) faults.thaw()
      const left = unnoticed ?? []
      unnoticed = null
      for (const notice of left) notice()
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

  function generate(request: IncomingMessage, response: ServerResponse, pass: () => void): void {
    for (const script of scripts) if (hooks.counters.requests + 1 >= (script.afterRequests ?? Infinity)) play(script)
    if (dead) {
      refuse(request, response, 500, { body: errorBody(500, 'The engine is dead.') })
      return
    }
    if (spoilers.some(({ left }) => left > 0)) spoil(response)
    open.add(response)
    response.on('close', () => open.delete(response))
    if (unnoticed !== null) hideClose(response)
    pass()
  }

  /** Whoever listens from now on learns late that the client has left. */
  function hideClose(response: ServerResponse): void {
    const on = response.on.bind(response) as (event: string, listener: () => void) => ServerResponse
    const later = (notice: () => void) => () => {
      if (unnoticed === null) notice()
      else unnoticed.push(notice)
    }
    Object.assign(response, {
      on: (event: string, listener: () => void) => on(event, event === 'close' ? later(listener) : listener),
    })
  }

  /** For the first stream that gets so far. */
  function spoil(response: ServerResponse): void {
    const spoiler = spoilers.find(({ left }) => left > 0)!
    tamper(response, spoiler, () => {
      if (spoiler.left-- <= 0) return false
      if (spoiler.end.kind === 'bytes') counters.spoilt++
      else counters.cut++
      return true
    })
  }

  function talkNonsense(request: IncomingMessage, response: ServerResponse, as: 'bytes' | 'page'): void {
    counters.answered++
    request.resume()
    if (as === 'bytes') request.socket.end('\u0000\u0001 nonsense\r\n\r\n')
    else sendText(response, 200, PAGE, 'text/html')
  }

  /** Engines are probed with requests that they refuse; those that stream are meant. */
  function generateOrNot(request: IncomingMessage, response: ServerResponse, pass: () => void): void {
    const answer = answers.find(({ left, options }) => left > 0 && options.path === undefined)
    const garbled = nonsense !== null && nonsense.left > 0 ? nonsense : null
    if (answer === undefined && garbled === null) {
      generate(request, response, pass)
      return
    }
    peek(request, (body) => {
      const due = answer ?? garbled
      if (due === null || due.left <= 0 || !/"stream": ?true/.test(body)) {
        generate(request, response, pass)
        return
      }
      due.left--
      hooks.counters.requests++
      if (answer !== undefined) refuse(request, response, answer.status, answer.options)
      else talkNonsense(request, response, garbled!.as)
    })
  }

  function refuse(request: IncomingMessage, response: ServerResponse, status: number, options: AnswerOptions): void {
    const { body = errorBody(status, `error ${status} of a fault`), retryAfterS } = options
    if (retryAfterS !== undefined) response.setHeader('retry-after', String(retryAfterS))
    counters.answered++
    request.resume()
    sendText(response, status, body, 'application/json')
  }

  return {
    faults,
    handle(request, response, path, pass) {
      const { method = '', socket } = request
      counters.requests++
      for (const listener of listeners) listener(method, path)
      if (resets > 0 && used.has(socket)) {
        resets--
        counters.socketsClosed++
        socket.destroy()
        return
      }
      used.add(socket)
      const answer = answers.find(({ left, options }) => left > 0 && options.path === path)
      if (answer !== undefined) {
        answer.left--
        refuse(request, response, answer.status, answer.options)
      } else if (refusal !== null && ABORT.test(path)) {
        counters.abortsRefused++
        refuse(request, response, refusal === 'ignored' ? 200 : 500, { body: '{}' })
      } else if (GENERATE.has(path)) {
        generateOrNot(request, response, pass)
      } else {
        routes.handle(request, response, path, pass)
      }
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

/** Reads the whole body, and leaves it there for the next reader. */
function peek(request: IncomingMessage, then: (body: string) => void): void {
  const parts: Buffer[] = []
  const read = (): void => {
    for (let part: unknown = request.read(); part instanceof Buffer; part = request.read()) parts.push(part)
    if (!request.complete) return
    request.off('readable', read)
    const body = Buffer.concat(parts)
    request.unshift(body)
    then(body.toString())
  }
  request.on('readable', read)
}

/** An error as SGLang, vLLM, llama-server and OpenAI put it. */
function errorBody(code: number, message: string): string {
  return JSON.stringify({ error: { message, type: 'fault', code } })
}
