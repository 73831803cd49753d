/**
 * An inference server inside this process: a real engine's wire protocol over HTTP around the tiny policy, batched, paused, aborted and
 * updated like the real one. Tests, the demo and benchmarks run against it; nothing in the supervisor knows of it.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { messageOf, RolloutError } from '../errors.ts'
import { show } from '../problems.ts'
import type { CoreCounters, CoreManners, EngineCore } from './embedded-contract.ts'
import { createEngineCore } from './embedded-core.ts'
import { createFaults } from './embedded-fault-layer.ts'
import type { EngineFaults, RestartOptions } from './embedded-faults.ts'
import type { Dialect } from './embedded-http.ts'
import { createLlamaDialect, llamaManners } from './embedded-llama.ts'
import { createOpenaiDialect, openaiManners } from './embedded-openai.ts'
import {
  type CheckedEngineOptions,
  checkEngineOptions,
  type EmbeddedEngineOptions,
  type EngineProfile,
} from './embedded-options.ts'
import { createSglangDialect, sglangManners } from './embedded-sglang.ts'
import { createVllmDialect, vllmManners } from './embedded-vllm.ts'
import type { TinyWeights } from './tiny-policy.ts'

export type { EmbeddedEngineOptions, EngineProfile, LogprobsMode } from './embedded-options.ts'

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
  /** True after what kills the real engine: a token id outside the vocabulary (SGLang), a generation over weights that did not load (vLLM). */
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
  /** What can go wrong with it, on call. */
  readonly faults: EngineFaults
  /** Factor on the time of a step, above 0. */
  setSlow(factor: number): void
  /** Ends every socket and timer. */
  close(): Promise<void>
}

interface DialectParts {
  readonly manners: (options: CheckedEngineOptions) => CoreManners
  readonly createDialect: (
    core: EngineCore,
    options: CheckedEngineOptions,
    counters: EngineCounters,
    die: () => void,
  ) => Dialect
}

const DIALECTS: Readonly<Record<EngineProfile, DialectParts>> = {
  sglang: { manners: sglangManners, createDialect: createSglangDialect },
  vllm: { manners: vllmManners, createDialect: createVllmDialect },
  'llama-server': { manners: llamaManners, createDialect: createLlamaDialect },
  openai: { manners: openaiManners, createDialect: createOpenaiDialect },
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
    tokensEnded: 0,
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
  let stopping: Promise<void> | null = null
  let port = checked.port

  const layer = createFaults({
    counters,
    scripts: checked.faults,
    slow: checked.slow,
    core: () => core,
    stop,
    start: boot,
    closeIdleSockets() {
      const before = sockets.size
      server.closeIdleConnections()
      return before - [...sockets].filter((socket) => !socket.destroyed).length
    },
  })
  const { manners, createDialect } = DIALECTS[checked.profile]
  let core: EngineCore
  let dialect: Dialect
  let server: Server

  /** A server that knows nothing of the one before it, on the same port. */
  async function boot({ weights = checked.weights, weightVersion = checked.weightVersion }: RestartOptions = {}) {
    const options = { ...checked, weights, weightVersion }
    core = createEngineCore({
      ...options,
      ...manners(options),
      version: weightVersion,
      counters,
      onTurnEnd() {
        own.turnEnded()
        layer.turnEnded()
      },
    })
    counters.held = 0
    counters.died = false
    const own = createDialect(core, options, counters, () => {
      counters.died = true
      void stop()
    })
    dialect = own
    server = createServer(
      { keepAliveTimeout: KEEP_ALIVE_MS, requestTimeout: 0, headersTimeout: 0, noDelay: true },
      handle,
    )
    server.on('connection', (socket) => {
      sockets.add(socket)
      socket.on('close', () => sockets.delete(socket))
    })
    port = await listen(server, checked.host, port)
    stopping = null
  }

  function handle(request: IncomingMessage, response: ServerResponse): void {
    // Named, so that node adds no Keep-Alive hint: uvicorn gives none, and clients find out.
    if (request.headers.connection?.toLowerCase() !== 'close') response.setHeader('connection', 'keep-alive')
    const target = request.url ?? '/'
    const cut = target.indexOf('?')
    const path = cut < 0 ? target : target.slice(0, cut)
    layer.handle(request, response, path, () => dialect.handle(request, response, path))
  }

  function stop(): Promise<void> {
    stopping ??= new Promise((resolve) => {
      core.close()
      dialect.close()
      server.close(() => resolve())
      for (const socket of sockets) socket.destroy()
    })
    return stopping
  }

  function close(): Promise<void> {
    layer.close()
    return stop()
  }

  await boot()

  return {
    url: `http://${checked.host.includes(':') ? `[${checked.host}]` : checked.host}:${port}`,
    port,
    counters,
    faults: layer.faults,
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

/** Resolves to the port. */
function listen(server: Server, host: string, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', (error) => {
      const found = messageOf(error)
      const message = `the embedded engine cannot listen on ${host}:${port} (${found}); choose another port, or 0 for any free one`
      reject(
        new RolloutError('INVALID_OPTIONS', message, {
          problems: [{ path: 'port', expected: 'a free port', found }],
          cause: error,
        }),
      )
    })
    server.listen(port, host, () => resolve((server.address() as AddressInfo).port))
  })
}
