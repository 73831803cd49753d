/**
 * The driver of a simulated server. It proves what it did as the drivers of real engines do: an update whose label or flush does not
 * show at the server has failed.
 */
import type { Clock } from '../clock.ts'
import type { Capabilities, Chunk, EngineDriver, GenerateRequest, Probe } from '../engines/driver.ts'
import { RolloutError, type RolloutErrorCode } from '../errors.ts'
import type { ControlCall, ControlFailure, ControlFaults } from './simulated-control.ts'
import { SIMULATED_VOCABULARY, type SimulatedEngine } from './simulated-engine.ts'

export interface SimulatedDriverOptions {
  readonly id: string
  readonly clock: Clock
  readonly server: SimulatedEngine
  readonly faults: ControlFaults
  readonly capabilities: Capabilities
  readonly keepsWeights: boolean
  readonly loadMs: number
  /** Written to. */
  readonly calls: string[]
}

/** What a liar says of its weights. */
const OTHER = 'other'
/** What is left of weights whose memory was given away. */
const DISCARDED = 'discarded'

export function createSimulatedDriver(options: SimulatedDriverOptions): EngineDriver {
  const { id, clock, server, faults, capabilities, calls } = options

  function fault(code: RolloutErrorCode, text: string): RolloutError {
    return new RolloutError(code, `simulated server ${id}: ${text}`, { instance: id })
  }
  function label(): string | null {
    return capabilities.versions === 'none' ? null : server.label
  }
  /** A call that changes something: noted, and refused where the server has no such route. */
  function control<T>(
    call: ControlCall,
    what: string,
    isThere: boolean,
    signal: AbortSignal | undefined,
    act: (failure: ControlFailure | null) => T | Promise<T>,
    lie: () => T,
  ): Promise<T> {
    calls.push(what)
    if (!isThere) return Promise.reject(fault('INSTANCE_FAULT', `${what}: expected a route for this, found none (404)`))
    return faults.run(call, signal, act, lie)
  }
  const busy = (what: string) => fault('BUSY', `${what}: expected a quiet server, found requests that run`)
  const idle = (): boolean => server.running + server.strangers === 0
  const nothing = (): void => {}

  return {
    engine: 'simulated',
    probe: (signal) => {
      const say = (weightVersion: string | null): Probe => ({
        engine: 'simulated',
        engineVersion: '1',
        capacity: server.capacity,
        weightVersion,
        vocabularySize: SIMULATED_VOCABULARY,
        contextLength: null,
        paused: server.paused !== null,
        capabilities,
        advice: [],
      })
      return faults.run(
        'probe',
        signal,
        () => say(label()),
        () => say(OTHER),
      )
    },
    async load(signal) {
      if (!capabilities.loadReport) throw fault('WRONG_PROTOCOL', 'expected a report of its load, found none')
      return faults.run(
        'load',
        signal,
        () => ({
          running: server.running + server.strangers,
          waiting: server.waiting,
          generatedTokens: server.counted,
        }),
        () => ({ running: 0, waiting: 0 }),
      )
    },
    weightVersion: (signal) => faults.run<string | null>('weightVersion', signal, label, () => OTHER),
    generate: (request, signal) => stream(server, id, request, signal),
    abort(requestId, signal) {
      const act = (): void => server.abort(requestId)
      return faults.run('abort', signal, capabilities.abortById ? act : nothing, nothing)
    },
    pause(mode, signal) {
      const isThere = capabilities.pause.includes(mode)
      return control('pause', `pause ${mode}`, isThere, signal, () => server.pause(mode), nothing)
    },
    resume: (signal) => control('resume', 'resume', true, signal, () => server.resume(), nothing),
    updateWeights({ version, frozen }, signal) {
      const what = `updateWeights ${version}`
      async function update(failure: ControlFailure | null): Promise<void> {
        const canStart = frozen && server.paused !== null ? server.strangers === 0 : idle()
        if (!canStart) throw busy(what)
        if (server.released)
          throw fault('ENGINE_ERROR', `${what}: expected a server with its memory, found it given away`)
        if (options.loadMs > 0) await sleep(clock, options.loadMs, signal)
        server.mustLive()
        if (failure === 'failAfter') return server.load(String(version), server.label)
        server.load(String(version))
        if (!server.flush(frozen))
          throw fault('ENGINE_ERROR', `${what}: the weights changed, the cache was not flushed`)
      }
      return control('updateWeights', what, capabilities.updateWeights, signal, update, () => {
        const found = `${what}: the server calls its weights "${server.label}" afterwards`
        if (server.label !== String(version)) throw fault('ENGINE_ERROR', found)
      })
    },
    flush(frozen, signal) {
      const flush = (): void => {
        if (!server.flush(frozen)) throw busy('flush')
      }
      return control('flush', 'flush', capabilities.updateWeights, signal, flush, nothing)
    },
    release(signal) {
      const release = (): void => {
        if (!idle()) throw busy('release')
        server.setReleased(true)
        if (!options.keepsWeights) server.load(DISCARDED, server.label)
      }
      return control('release', 'release', capabilities.release, signal, release, nothing)
    },
    reclaim(signal) {
      const { keepsWeights: weightsKept } = options
      const reclaim = () => {
        server.setReleased(false)
        return { weightsKept }
      }
      return control('reclaim', 'reclaim', capabilities.release, signal, reclaim, () => ({ weightsKept }))
    },
    async close() {
      faults.close()
      server.close()
    },
  }
}

function stream(
  server: SimulatedEngine,
  id: string,
  request: GenerateRequest,
  signal: AbortSignal,
): AsyncIterable<Chunk> {
  return {
    async *[Symbol.asyncIterator]() {
      const chunks: Chunk[] = []
      let failure: RolloutError | null = null
      let wake: (() => void) | null = null
      const fail = (error: RolloutError): void => {
        failure = error
        wake?.()
      }
      const abort = (): void => {
        server.leave(request.requestId)
        fail(new RolloutError('TRANSPORT', 'the socket was closed', { instance: id }))
      }
      const emit = (chunk: Chunk): void => {
        chunks.push(chunk)
        wake?.()
      }
      server.begin(request, emit, fail)
      signal.addEventListener('abort', abort, { once: true })
      try {
        for (;;) {
          const chunk = chunks.shift()
          if (chunk !== undefined) {
            yield chunk
            if (chunk.finishReason !== null) return
          } else if (failure !== null) {
            throw failure
          } else {
            await new Promise<void>((resolve) => {
              wake = resolve
            })
          }
        }
      } finally {
        signal.removeEventListener('abort', abort)
        // A reader that leaves early closes the socket.
        server.leave(request.requestId)
      }
    },
  }
}

function sleep(clock: Clock, ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => {
      clock.clearTimeout(timer)
      reject(signal?.reason as Error)
    }
    const timer = clock.setTimeout(() => {
      signal?.removeEventListener('abort', onAbort)
      resolve()
    }, ms)
    signal?.addEventListener('abort', onAbort, { once: true })
  })
}
