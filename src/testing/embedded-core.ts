/**
 * The engine without HTTP: a waiting queue, a running batch of at most `capacity` sequences (I3), one token per running sequence per step.
 * A step takes (stepMs + perSequenceMs * batch) * slow milliseconds of wall clock; with both 0 it runs as fast as it can.
 * Freezing, retracting, flushing and swapping weights do what the real scheduler does with its KV cache, right or wrong.
 */
import type { CoreOptions, EngineCore } from './embedded-contract.ts'
import { createPrefixCache } from './embedded-prefix-cache.ts'
import { createSampler } from './embedded-sampler.ts'
import { contextOf, type Finish, finishOf, type LiveSequence, type Sequence, spansOf } from './embedded-sequence.ts'
import { createRandom, hash32 } from './random.ts'
import { remember } from './tiny-policy.ts'

/** An engine that is later than this forgets the time it lost, rather than stepping in a burst. */
const MAX_LAG_MS = 50
/**
 * Between two looks at the sockets, when steps take no time or when catching up: this many steps, and more of them for a small batch.
 * About a millisecond; fewer steps would spend most of the time in writes.
 */
const STEPS_PER_TURN = 16
const TOKENS_PER_TURN = 256

export function createEngineCore(options: CoreOptions): EngineCore {
  const { capacity, stepMs, perSequenceMs, counters } = options
  const random = createRandom(options.seed)
  const sampler = createSampler(options.logprobs)
  const prefixes = createPrefixCache()
  let { weights, version, slow } = options
  let waiting: LiveSequence[] = []
  let running: LiveSequence[] = []
  let frozen = false
  /** Nobody may join the batch, as in an engine that is frozen. */
  let shut = false
  /** Within a step nobody may join the batch: the step admits at its end. */
  let stepping = false
  let closed = false
  let dueAt = 0
  let cancelTurn: (() => void) | null = null

  function count(): void {
    counters.running = running.length
    counters.waiting = waiting.length
    if (running.length > counters.maxRunning) counters.maxRunning = running.length
  }

  function stepCostMs(): number {
    return (stepMs + perSequenceMs * running.length) * slow
  }

  /** Keeps one turn scheduled while there is something to do. */
  function arm(): void {
    if (cancelTurn !== null || frozen || closed || running.length === 0) return
    const waitMs = dueAt - performance.now()
    if (waitMs <= 0) {
      const handle = setImmediate(turn)
      cancelTurn = () => clearImmediate(handle)
    } else {
      const handle = setTimeout(turn, Math.max(1, Math.round(waitMs)))
      cancelTurn = () => clearTimeout(handle)
    }
  }

  function disarm(): void {
    cancelTurn?.()
    cancelTurn = null
  }

  function turn(): void {
    cancelTurn = null
    const now = performance.now()
    if (now - dueAt > MAX_LAG_MS) dueAt = now
    const limit = Math.max(STEPS_PER_TURN, TOKENS_PER_TURN / Math.max(1, running.length))
    for (let steps = 0; steps < limit && dueAt <= now && running.length > 0; steps++) {
      step()
      dueAt += stepCostMs()
    }
    options.onTurnEnd()
    arm()
  }

  function step(): void {
    counters.steps++
    stepping = true
    let left = 0
    for (let i = 0; i < running.length; i++) {
      const live = running[i]!
      advance(live)
      if (live.state === 'running') running[left++] = live
    }
    running.length = left
    stepping = false
    admit()
  }

  function advance(live: LiveSequence): void {
    const { tokenIds, promptTokenIds, sampling } = live
    const last = tokenIds.length === 0 ? promptTokenIds[promptTokenIds.length - 1]! : tokenIds[tokenIds.length - 1]!
    // Seeded streams do not change with the batch.
    const position = tokenIds.length + (options.seeds === 'byPosition' ? promptTokenIds.length : 0)
    const uniform =
      options.seeds !== 'ignored' && sampling.seed !== null
        ? hash32(sampling.seed, position) / 4294967296
        : random.next()
    const token = sampler.sample(weights, live, last, sampling, tokenIds.length, uniform)
    tokenIds.push(token)
    live.logprobs.push(sampler.logprob)
    counters.tokensGenerated++
    const finish = finishOf(live)
    if (finish === null) live.listener.token()
    else end(live, finish)
  }

  function end(live: LiveSequence, finish: Finish): void {
    if (live.state === 'ended') return
    if (live.state === 'running') prefixes.add(contextOf(live), live)
    if (finish.type === 'abort') counters.aborted++
    counters.tokensEnded += live.tokenIds.length
    live.state = 'ended'
    live.finish = finish
    live.listener.end()
  }

  function admit(): void {
    if (!shut && !stepping) {
      let taken = 0
      while (running.length < capacity && taken < waiting.length) {
        const live = waiting[taken++]!
        prefill(live)
        live.state = 'running'
        running.push(live)
      }
      if (taken > 0) waiting = taken === waiting.length ? [] : waiting.slice(taken)
    }
    count()
  }

  /** Computes the cache of all but the last token of the context; the step adds that one. */
  function prefill(live: LiveSequence): void {
    const context = contextOf(live)
    const found = prefixes.find(context, live)
    if (live.retractions === 0) {
      live.cachedTokens = found
      counters.cachedTokens += found
      counters.promptTokens += context.length
    }
    for (; live.covered < context.length - 1; live.covered++) remember(weights, context[live.covered]!, live.memorySum)
    if (live.covered > found) prefixes.add(context, live)
  }

  function wake(): void {
    const wasIdle = running.length === 0
    admit()
    if (wasIdle && running.length > 0) {
      // A step that was begun for nobody is not owed.
      disarm()
      dueAt = Math.max(dueAt, performance.now()) + stepCostMs()
    }
    arm()
  }

  function remove(live: LiveSequence): void {
    running = running.filter((other) => other !== live)
    waiting = waiting.filter((other) => other !== live)
  }

  function abort(sequence: Sequence): void {
    const live = sequence as LiveSequence
    if (live.state === 'ended') return
    if (live.state === 'running' && !options.abortsAtOnce) {
      live.abortAsked = true
      return
    }
    remove(live)
    end(live, { type: 'abort', from: live.state })
    wake()
    options.onTurnEnd()
  }

  /** Takes every running sequence out of the batch, its cache kept only for who begins like it. */
  function retract(): LiveSequence[] {
    const retracted = running
    running = []
    for (const live of retracted) {
      prefixes.add(contextOf(live), live)
      live.memorySum = new Float64Array(weights.vocabularySize)
      live.covered = 0
      live.state = 'waiting'
      live.retractions++
      counters.retractions++
    }
    return retracted
  }

  return {
    get weights() {
      return weights
    },
    get version() {
      return version
    },
    submit(promptTokenIds, sampling, listener) {
      const room = Math.max(0, options.contextLength - promptTokenIds.length - options.reservedTokens)
      const live: LiveSequence = {
        promptTokenIds,
        sampling,
        listener,
        tokenIds: [],
        logprobs: [],
        state: 'waiting',
        finish: null,
        cachedTokens: 0,
        retractions: 0,
        maxNewTokens: Math.min(sampling.maxNewTokens ?? room, room),
        abortAsked: false,
        changes: [],
        memorySum: new Float64Array(weights.vocabularySize),
        covered: 0,
      }
      if (live.maxNewTokens === 0) {
        queueMicrotask(() => {
          end(live, { type: 'length' })
          options.onTurnEnd()
        })
        return live
      }
      waiting.push(live)
      wake()
      return live
    },
    abort,
    abortAll() {
      const queued = waiting
      waiting = []
      for (const live of queued) end(live, { type: 'abort', from: 'waiting' })
      if (options.abortsAtOnce) {
        const batch = running
        running = []
        for (const live of batch) end(live, { type: 'abort', from: 'running' })
      }
      for (const live of running) live.abortAsked = true
      count()
      options.onTurnEnd()
    },
    drop(sequence) {
      const live = sequence as LiveSequence
      if (live.state === 'ended') return
      if (frozen && live.state === 'running') {
        live.abortAsked = true
        return
      }
      remove(live)
      end(live, { type: 'abort', from: live.state === 'running' ? 'running' : 'waiting' })
      wake()
    },
    freeze(mode) {
      shut = true
      if (mode === 'finish') return
      frozen = true
      disarm()
      if (mode === 'retract') waiting.push(...retract())
      count()
    },
    thaw() {
      if (!shut) return
      shut = false
      frozen = false
      admit()
      dueAt = performance.now() + stepCostMs()
      arm()
    },
    preempt() {
      waiting.unshift(...retract())
      wake()
    },
    flush(matter = 'matters') {
      if (running.length > 0 || (matter === 'matters' && waiting.length > 0 && !frozen)) return false
      prefixes.flush()
      return true
    },
    setWeights(newWeights) {
      weights = newWeights
    },
    setVersion(newVersion) {
      if (newVersion === version) return
      for (const live of [...running, ...waiting]) {
        if (live.tokenIds.length > 0) live.changes.push({ version, tokens: live.tokenIds.length })
      }
      version = newVersion
    },
    spansOf: (sequence) => spansOf(sequence as LiveSequence, version),
    setSlow(factor) {
      slow = factor
    },
    close() {
      closed = true
      disarm()
      running = []
      waiting = []
      count()
    },
  }
}
