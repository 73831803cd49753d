/**
 * An inference server inside this process: a real engine's wire protocol over HTTP around the tiny policy, batched, paused, aborted and
 * updated like the real one. Tests, the demo and benchmarks run against it; nothing in the supervisor knows of it.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { messageOf, RolloutError } from '../errors.ts'
import { show } from '../problems.ts'
import { type CoreCounters, createEngineCore } from './embedded-core.ts'
import type { Dialect } from './embedded-http.ts'
import { checkEngineOptions, type EmbeddedEngineOptions } from './embedded-options.ts'
import { createSglangDialect } from './embedded-sglang.ts'
import type { TinyWeights } from './tiny-policy.ts'

export type { EmbeddedEngineOptions, EngineProfile } from './embedded-options.ts'

/** Live figures of one engine. */
export interface EngineCounters extends CoreCounters {
  /** Calls of the generate route, refused ones included. */
  requests: number
  /** Requests at the gate of a paused or updating server. */
  held: number
  /** Tokens written to sockets, each once. */
  tokensDelivered: number
  /** Clients that left before their reply had ended. */
  disconnects: number
  /** Times the weights changed. */
  updates: number
  /** True after a token id outside the vocabulary. */
  died: boolean
}

/** A running embedded engine. */
export interface EmbeddedEngine {
  /** Base URL without a trailing slash. */
  readonly url: string
  readonly port: number
  readonly counters: Readonly<EngineCounters>
  /** What it samples from at the moment. */
  readonly weights: TinyWeights
  /** The label new tokens are stamped with. */
  readonly weightVersion: string
  /** Factor on the time of a step, above 0. */
  setSlow(factor: number): void
  /** Ends every socket and timer. */
  close(): Promise<void>
}

/** uvicorn closes a connection that was idle for this long. */
const KEEP_ALIVE_MS = 5000

/** Rejects with INVALID_OPTIONS, every problem named, also when the port cannot be had. */
export async function startEmbeddedEngine(options: EmbeddedEngineOptions = {}): Promise<EmbeddedEngine> {
  const checked = checkEngineOptions(options)
  const counters: EngineCounters = {
    running: 0,
    waiting: 0,
    held: 0,
    requests: 0,
    aborted: 0,
    tokensGenerated: 0,
    tokensDelivered: 0,
    promptTokens: 0,
    cachedTokens: 0,
    maxRunning: 0,
    retractions: 0,
    steps: 0,
    disconnects: 0,
    updates: 0,
    died: false,
  }
  const sockets = new Set<Socket>()
  let closing: Promise<void> | null = null

  const core = createEngineCore({
    ...checked,
    version: checked.weightVersion,
    counters,
    onTurnEnd: () => dialect.turnEnded(),
  })
  const dialect: Dialect = createSglangDialect(core, checked, counters, () => {
    counters.died = true
    void close()
  })

  const server = createServer(
    { keepAliveTimeout: KEEP_ALIVE_MS, requestTimeout: 0, headersTimeout: 0, noDelay: true },
    handle,
  )
  server.on('connection', (socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
  })

  function handle(request: IncomingMessage, response: ServerResponse): void {
    // Named, so that node adds no Keep-Alive hint: uvicorn gives none, and clients find out.
    if (request.headers.connection?.toLowerCase() !== 'close') response.setHeader('connection', 'keep-alive')
    const target = request.url ?? '/'
    const cut = target.indexOf('?')
    dialect.handle(request, response, cut < 0 ? target : target.slice(0, cut))
  }

  function close(): Promise<void> {
    closing ??= new Promise((resolve) => {
      core.close()
      dialect.close()
      server.close(() => resolve())
      for (const socket of sockets) socket.destroy()
    })
    return closing
  }

  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => {
      const found = messageOf(error)
      const message = `the embedded engine cannot listen on ${checked.host}:${checked.port} (${found}); choose another port, or 0 for any free one`
      reject(
        new RolloutError('INVALID_OPTIONS', message, {
          problems: [{ path: 'port', expected: 'a free port', found }],
          cause: error,
        }),
      )
    })
    server.listen(checked.port, checked.host, resolve)
  })
  const { port } = server.address() as AddressInfo

  return {
    url: `http://${checked.host.includes(':') ? `[${checked.host}]` : checked.host}:${port}`,
    port,
    counters,
    get weights() {
      return core.weights
    },
    get weightVersion() {
      return core.version
    },
    setSlow(factor) {
      if (!Number.isFinite(factor) || factor <= 0) {
        const problem = { path: 'factor', expected: 'a factor above 0', found: show(factor) }
        throw new RolloutError('INVALID_OPTIONS', `setSlow: expected ${problem.expected}, found ${problem.found}`, {
          problems: [problem],
        })
      }
      core.setSlow(factor)
    },
    close,
  }
}
