/**
 * Servers without sockets, under a virtual clock: the real supervisor runs hours of work in seconds, and the same seed gives
 * the same run.
 *
 * A prompt is `[key, length]`: a server generates `length` tokens for it, one each `tokenMs`. Token `i` depends on the key
 * and `i` alone, so a resumed sample continues exactly where it was, and a lost or repeated token shows: in the output, and in a
 * prompt that goes on with others, which is refused.
 */
import type { Clock } from '../clock.ts'
import type { Chunk, DriverFactory, EngineDriver, GenerateRequest, Probe } from '../engines/driver.ts'
import { RolloutError } from '../errors.ts'
import { hash32 } from './random.ts'

/** Options of simulateServer. */
export interface SimulatedServerOptions {
  readonly id: string
  /** Sequences it runs at once. @default 8 */
  readonly capacity?: number
  /** Time of one token, in milliseconds. @default 10 */
  readonly tokenMs?: number
  /** Tokens between two chunks of a stream. @default the whole rest */
  readonly chunkTokens?: number
  /** @default 'default' */
  readonly weightVersion?: string
}

/** A server without a socket, and what can be done to it. */
export interface SimulatedServer {
  readonly id: string
  /** As InstanceOptions wants it. */
  readonly url: string
  readonly engine: DriverFactory
  readonly running: number
  /** Most sequences it ever ran at once. */
  readonly maxRunning: number
  readonly generated: number
  readonly weightVersion: string
  /** Cuts every stream, and refuses every call until `revive`. */
  die(): void
  /** Answers again, thawed; by default with the weights it was started with. */
  revive(weightVersion?: string): void
  /** Answers everything, but generates nothing until `thaw`. */
  freeze(): void
  thaw(): void
}

/** Vocabulary of the simulated servers. */
const VOCABULARY_SIZE = 50_000

/** The token that simulated servers generate at a position of the output for a key. */
export function tokenOf(key: number, position: number): number {
  return hash32(key, position) % VOCABULARY_SIZE
}

interface Stream {
  readonly key: number
  /** Position of the next token in the whole output, counted from the original prompt. */
  readonly from: number
  readonly until: number
  sent: number
  /** Tokens generated before the last freeze. */
  done: number
  startedAt: number
  timer: unknown
  readonly emit: (chunk: Chunk) => void
  readonly fail: (error: RolloutError) => void
}

/** Makes a server that lives under a clock. Hand its `url` and `engine` to createSupervisor. */
export function simulateServer(clock: Clock, options: SimulatedServerOptions): SimulatedServer {
  const { id, capacity = 8, tokenMs = 10, chunkTokens = Number.POSITIVE_INFINITY } = options
  const startVersion = options.weightVersion ?? 'default'
  const streams = new Map<string, Stream>()
  let weightVersion = startVersion
  let alive = true
  let frozen = false
  let maxRunning = 0
  let generated = 0

  function check(): void {
    if (!alive) throw new RolloutError('UNREACHABLE', `simulated server ${id} is down`, { instance: id })
  }
  function progress(stream: Stream): number {
    if (frozen) return stream.done
    return Math.min(
      stream.until - stream.from,
      stream.done + Math.floor((clock.now() - stream.startedAt) / tokenMs + 1e-9),
    )
  }
  function flush(requestId: string, stream: Stream, finishReason: Chunk['finishReason']): void {
    const end = progress(stream)
    const tokenIds: number[] = []
    const logprobs: number[] = []
    for (let index = stream.sent; index < end; index++) {
      tokenIds.push(tokenOf(stream.key, stream.from + index))
      logprobs.push(-(1 + (stream.from + index)) / 1024)
    }
    generated += tokenIds.length
    stream.sent = end
    const versions = finishReason === null ? null : [{ version: weightVersion, start: 0, end }]
    if (finishReason !== null) drop(requestId, stream)
    stream.emit({ tokenIds, logprobs, text: null, finishReason, versions })
  }
  function drop(requestId: string, stream: Stream): void {
    streams.delete(requestId)
    clock.clearTimeout(stream.timer)
  }
  function schedule(requestId: string, stream: Stream): void {
    const total = stream.until - stream.from
    const target = Math.min(total, stream.sent === 0 ? 1 : stream.sent + chunkTokens)
    stream.timer = clock.setTimeout(
      () => {
        if (progress(stream) >= total) {
          flush(requestId, stream, 'length')
        } else {
          flush(requestId, stream, null)
          schedule(requestId, stream)
        }
      },
      (target - stream.done) * tokenMs - (clock.now() - stream.startedAt),
    )
  }

  function thaw(): void {
    if (!frozen) return
    frozen = false
    for (const [requestId, stream] of streams) {
      stream.startedAt = clock.now()
      schedule(requestId, stream)
    }
  }

  function begin(request: GenerateRequest, emit: Stream['emit'], fail: Stream['fail']): void {
    check()
    const { prompt } = request
    const key = Number(prompt[0])
    const length = Number(prompt[1])
    const from = prompt.length - 2
    for (let index = 0; index < from; index++) {
      if (Number(prompt[index + 2]) === tokenOf(key, index)) continue
      const text = `the prompt goes on with a token ${index} that was not generated for key ${key}`
      throw new RolloutError('REQUEST_REJECTED', text, { instance: id, status: 400 })
    }
    const stream: Stream = {
      key,
      from,
      until: Math.min(length, from + request.sampling.maxTokens),
      sent: 0,
      done: 0,
      startedAt: clock.now(),
      timer: null,
      emit,
      fail,
    }
    streams.set(request.requestId, stream)
    maxRunning = Math.max(maxRunning, streams.size)
    if (!frozen) schedule(request.requestId, stream)
    request.onAccepted?.()
  }

  function generate(request: GenerateRequest, signal: AbortSignal): AsyncIterable<Chunk> {
    return {
      async *[Symbol.asyncIterator]() {
        const chunks: Chunk[] = []
        let failure: RolloutError | null = null
        let wake: (() => void) | null = null
        const abort = (): void => {
          const stream = streams.get(request.requestId)
          if (stream !== undefined) drop(request.requestId, stream)
          failure = new RolloutError('TRANSPORT', 'the socket was closed', { instance: id })
          wake?.()
        }
        begin(
          request,
          (chunk) => {
            chunks.push(chunk)
            wake?.()
          },
          (error) => {
            failure = error
            wake?.()
          },
        )
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
          const left = streams.get(request.requestId)
          if (left !== undefined) drop(request.requestId, left)
        }
      },
    }
  }

  const driver: EngineDriver = {
    engine: 'simulated',
    async probe(): Promise<Probe> {
      check()
      return {
        engine: 'simulated',
        engineVersion: '1',
        capacity,
        weightVersion,
        vocabularySize: VOCABULARY_SIZE,
        contextLength: null,
        paused: false,
        capabilities: {
          tokenIds: true,
          logprobs: 'sampled',
          abortById: true,
          versions: 'spans',
          updateWeights: true,
          loadReport: true,
        },
        advice: [],
      }
    },
    async load() {
      check()
      return { running: streams.size, waiting: 0 }
    },
    async weightVersion() {
      check()
      return weightVersion
    },
    generate,
    async abort(requestId) {
      check()
      const stream = streams.get(requestId)
      if (stream !== undefined) flush(requestId, stream, 'abort')
    },
    async resume() {
      check()
    },
    async updateWeights({ version }) {
      check()
      weightVersion = String(version)
    },
    async close() {
      for (const [requestId, stream] of streams) drop(requestId, stream)
    },
  }

  return {
    id,
    url: `sim://${id}`,
    engine: () => driver,
    get running() {
      return streams.size
    },
    get maxRunning() {
      return maxRunning
    },
    get generated() {
      return generated
    },
    get weightVersion() {
      return weightVersion
    },
    die() {
      alive = false
      for (const [requestId, stream] of [...streams]) {
        drop(requestId, stream)
        stream.fail(new RolloutError('TRANSPORT', `simulated server ${id} cut the stream`, { instance: id }))
      }
    },
    revive(version = startVersion) {
      alive = true
      weightVersion = version
      thaw()
    },
    freeze() {
      if (frozen) return
      for (const stream of streams.values()) {
        stream.done = progress(stream)
        clock.clearTimeout(stream.timer)
      }
      frozen = true
    },
    thaw,
  }
}
