/**
 * What happens inside a simulated server: streams of tokens at exact times, a cache that may be stale, and requests that stand still
 * while it is held. Whatever changes, what was due before is sampled before, under the weights of then.
 */
import type { Clock } from '../clock.ts'
import type { Chunk, GenerateRequest, PauseMode, WireSpan } from '../engines/driver.ts'
import { RolloutError } from '../errors.ts'
import { hash32 } from './random.ts'
import { createSimulatedCache, logprobUnder, mixed } from './simulated-cache.ts'

export interface SimulatedEngineOptions {
  readonly id: string
  readonly capacity?: number
  readonly tokenMs?: number
  readonly chunkTokens?: number
  readonly weightVersion?: string
  /** Its streams end with version spans. */
  readonly spans: boolean
}

export interface SimulatedEngine {
  readonly capacity: number
  readonly alive: boolean
  readonly running: number
  readonly waiting: number
  readonly strangers: number
  readonly maxRunning: number
  readonly generated: number
  /** The same with what is due and not yet sampled. */
  readonly counted: number
  readonly label: string
  readonly paused: PauseMode | null
  readonly released: boolean
  mustLive(): void
  begin(request: GenerateRequest, emit: (chunk: Chunk) => void, fail: (error: RolloutError) => void): void
  /** Ends one with what it has. */
  abort(requestId: string): void
  /** Its client has left. */
  leave(requestId: string): void
  pause(mode: PauseMode): void
  resume(): void
  /** False while requests run, unless they are frozen and may be computed anew. */
  flush(frozen: boolean): boolean
  setLabel(label: string): void
  setReleased(released: boolean): void
  die(): void
  revive(weightVersion?: string): void
  freeze(): void
  thaw(): void
  load(version: string, label?: string): void
  stayBusy(requests: number): void
  close(): void
}

/** Vocabulary of the simulated servers. */
export const SIMULATED_VOCABULARY = 50_000

/** The token that simulated servers generate at a position of the output for a key. */
export function tokenOf(key: number, position: number): number {
  return hash32(key, position) % SIMULATED_VOCABULARY
}

interface Stream {
  readonly key: number
  /** Of the prefix cache. */
  readonly context: string
  /** Position of the next token in the whole output, counted from the original prompt. */
  readonly from: number
  readonly until: number
  /** The weights that its KV was computed under; null while it is held at the door. */
  kv: string | null
  tokenIds: number[]
  logprobs: number[]
  /** Tokens sampled, and of those the ones sent. */
  sampled: number
  sent: number
  readonly spans: WireSpan[]
  /** Tokens generated before it last stood still. */
  done: number
  startedAt: number
  timer: unknown
  readonly emit: (chunk: Chunk) => void
  readonly fail: (error: RolloutError) => void
}

export function createSimulatedEngine(clock: Clock, options: SimulatedEngineOptions): SimulatedEngine {
  const { id, capacity = 8, tokenMs = 10, chunkTokens = Number.POSITIVE_INFINITY, spans: givesSpans } = options
  const startVersion = options.weightVersion ?? 'default'
  const streams = new Map<string, Stream>()
  const cache = createSimulatedCache()
  let label = startVersion
  let weights = startVersion
  let alive = true
  let frozen = false
  let paused: PauseMode | null = null
  let released = false
  let strangers = 0
  let running = 0
  let maxRunning = 0
  let generated = 0

  const isStill = (): boolean => frozen || paused !== null

  function mustLive(): void {
    if (!alive) throw new RolloutError('UNREACHABLE', `simulated server ${id} is down`, { instance: id })
  }
  function progress(stream: Stream): number {
    if (isStill() || stream.kv === null) return stream.done
    return Math.min(
      stream.until - stream.from,
      stream.done + Math.floor((clock.now() - stream.startedAt) / tokenMs + 1e-9),
    )
  }
  /** Samples what is due under the weights of this moment. */
  function sample(stream: Stream): void {
    const end = progress(stream)
    if (stream.kv === null || end === stream.sampled) return
    stream.kv = mixed(stream.kv, weights)
    for (let index = stream.sampled; index < end; index++) {
      stream.tokenIds.push(tokenOf(stream.key, stream.from + index))
      stream.logprobs.push(logprobUnder(stream.kv, stream.from + index))
    }
    const last = stream.spans.at(-1)
    const span = { version: label, start: stream.sampled, end }
    if (last?.version === label) stream.spans[stream.spans.length - 1] = { ...last, end }
    else stream.spans.push(span)
    generated += end - stream.sampled
    stream.sampled = end
    cache.put(stream.context, stream.kv)
  }
  function emit(requestId: string, stream: Stream, finishReason: Chunk['finishReason']): void {
    sample(stream)
    const { tokenIds, logprobs, spans } = stream
    stream.tokenIds = []
    stream.logprobs = []
    stream.sent = stream.sampled
    const all = spans.length === 0 ? [{ version: label, start: 0, end: 0 }] : spans
    const versions = finishReason === null || !givesSpans ? null : all
    if (finishReason !== null) drop(requestId, stream)
    stream.emit({ tokenIds, logprobs, text: null, finishReason, versions })
  }
  function drop(requestId: string, stream: Stream): void {
    if (!streams.delete(requestId)) return
    if (stream.kv !== null) running--
    clock.clearTimeout(stream.timer)
  }
  function schedule(requestId: string, stream: Stream): void {
    const total = stream.until - stream.from
    const target = Math.min(total, stream.sent === 0 ? 1 : stream.sent + chunkTokens)
    stream.timer = clock.setTimeout(
      () => {
        if (progress(stream) >= total) {
          emit(requestId, stream, 'length')
        } else {
          emit(requestId, stream, null)
          schedule(requestId, stream)
        }
      },
      (target - stream.done) * tokenMs - (clock.now() - stream.startedAt),
    )
  }

  /** Whatever is changed, what is due before is sampled before; streams stand still and move on by it. */
  function change(action: () => void): void {
    const wasStill = isStill()
    for (const stream of streams.values()) sample(stream)
    action()
    if (wasStill === isStill()) return
    for (const [requestId, stream] of streams) {
      clock.clearTimeout(stream.timer)
      stream.done = stream.sampled
      if (!isStill()) run(requestId, stream)
    }
  }
  function run(requestId: string, stream: Stream): void {
    if (stream.kv === null) admit(stream)
    stream.startedAt = clock.now()
    schedule(requestId, stream)
  }
  function admit(stream: Stream): void {
    stream.kv = cache.enter(stream.context, weights)
    running++
    maxRunning = Math.max(maxRunning, running)
  }

  function begin(request: GenerateRequest, emit: Stream['emit'], fail: Stream['fail']): void {
    mustLive()
    if (released) throw new RolloutError('ENGINE_ERROR', `simulated server ${id} has no memory`, { instance: id })
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
      context: `${key} ${length}`,
      from,
      until: Math.min(length, from + request.sampling.maxTokens),
      kv: null,
      tokenIds: [],
      logprobs: [],
      sampled: 0,
      sent: 0,
      spans: [],
      done: 0,
      startedAt: clock.now(),
      timer: null,
      emit,
      fail,
    }
    streams.set(request.requestId, stream)
    if (paused === null) admit(stream)
    if (!isStill()) schedule(request.requestId, stream)
    request.onAccepted?.()
  }

  function die(): void {
    alive = false
    paused = null
    released = false
    for (const [requestId, stream] of [...streams]) {
      drop(requestId, stream)
      stream.fail(new RolloutError('TRANSPORT', `simulated server ${id} cut the stream`, { instance: id }))
    }
  }

  return {
    capacity,
    get alive() {
      return alive
    },
    get running() {
      return running
    },
    get waiting() {
      return streams.size - running
    },
    get strangers() {
      return strangers
    },
    get maxRunning() {
      return maxRunning
    },
    get generated() {
      return generated
    },
    get counted() {
      let due = generated
      for (const stream of streams.values()) due += progress(stream) - stream.sampled
      return due
    },
    get label() {
      return label
    },
    get paused() {
      return paused
    },
    get released() {
      return released
    },
    mustLive,
    begin,
    abort(requestId) {
      const stream = streams.get(requestId)
      if (stream !== undefined) emit(requestId, stream, 'abort')
    },
    leave(requestId) {
      const stream = streams.get(requestId)
      if (stream !== undefined) drop(requestId, stream)
    },
    pause(mode) {
      change(() => {
        paused = mode
      })
      if (mode === 'abort') for (const [requestId, stream] of [...streams]) emit(requestId, stream, 'abort')
    },
    resume() {
      change(() => {
        paused = null
      })
    },
    flush(recompute) {
      if (strangers > 0 || (running > 0 && !(recompute && paused !== null))) return false
      cache.flush()
      for (const stream of streams.values()) if (stream.kv !== null) stream.kv = weights
      return true
    },
    setLabel(to) {
      change(() => {
        label = to
      })
    },
    setReleased(to) {
      released = to
      cache.flush()
    },
    die,
    revive(version = startVersion) {
      change(() => {
        alive = true
        frozen = false
        label = version
        weights = version
      })
      cache.flush()
      for (const stream of streams.values()) if (stream.kv !== null) stream.kv = weights
    },
    freeze() {
      change(() => {
        frozen = true
      })
    },
    thaw() {
      change(() => {
        frozen = false
      })
    },
    load(version, says = version) {
      change(() => {
        weights = version
        label = says
      })
    },
    stayBusy(requests) {
      strangers = requests
    },
    close() {
      for (const [requestId, stream] of streams) drop(requestId, stream)
    },
  }
}
