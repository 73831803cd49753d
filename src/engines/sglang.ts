/**
 * SGLang over its native routes: token ids in and out, log-probabilities after temperature, per-token weight versions.
 * One call is one try (driver.ts). What the routes answer was seen on a real 0.5.23 (test/e2e/engines).
 */
import type { RolloutError } from '../errors.ts'
import { generateBy } from './direct.ts'
import type { DriverOptions, EngineDriver, PauseMode } from './driver.ts'
import { fault, serverMessage, statusFault } from './faults.ts'
import { asRecord, asRecords } from './json.ts'
import { refusesChat } from './refusals.ts'
import { sglangDecoder } from './sglang-events.ts'
import { createSglangMemory } from './sglang-memory.ts'
import { probeSglang } from './sglang-probe.ts'
import { generateBody } from './sglang-request.ts'
import { createStopWatch } from './stop-watch.ts'
import { tokenize } from './tokenizer.ts'
import { createTransport, jsonOf } from './transport.ts'

/** Reading hundreds of gigabytes from a network disk; the update's own deadline is the caller's signal. */
const UPDATE_DEADLINE_MS = 60 * 60 * 1000

/** Its scheduler answers between two steps, and was seen to take 10 s for it on cores that others used. */
const FLUSH_DEADLINE_MS = 60_000

/** Requests whose client left end within this; a stranger's long one does not. */
const IDLE_WAIT_S = 5

/** It answers between two steps, and a step may hold a long prompt; ending what runs was seen to take a second. */
const PAUSE_DEADLINE_MS = 60_000

/** Of its modes only these leave no request with the cache of old weights: `in_place` does, and a later pause over it hangs. */
const PAUSES: Readonly<Record<PauseMode, string>> = { abort: 'abort', keep: 'retract' }

export function createSglangDriver(options: DriverOptions): EngineDriver {
  const { clock } = options
  const transport = createTransport(options)
  const { peer } = transport
  /** Of the last probe. */
  let deltas = false
  let vocabularySize: number | null = null
  const endIds = new Set<number>()

  async function post(path: string, body: object, signal: AbortSignal | undefined, deadlineMs?: number) {
    return transport.call({ method: 'POST', path, body, signal, ...(deadlineMs === undefined ? {} : { deadlineMs }) })
  }

  async function weightVersion(signal?: AbortSignal): Promise<string | null> {
    const info = asRecord(jsonOf(peer, await transport.call({ method: 'GET', path: '/model_info', signal })))
    return typeof info.weight_version === 'string' ? info.weight_version : null
  }

  /**
   * The only answer about running requests that comes from the scheduler itself: the load report lags up to a second and more.
   * Without a timeout it ignores what a pause holds back; with one it waits for requests that are just ending.
   */
  async function flush(signal: AbortSignal | undefined): Promise<{ readonly flushed: boolean; readonly said: string }> {
    let reply = await post('/flush_cache', {}, signal, FLUSH_DEADLINE_MS)
    if (reply.status === 400) reply = await post(`/flush_cache?timeout=${IDLE_WAIT_S}`, {}, signal, FLUSH_DEADLINE_MS)
    // A refusal here is an answer about the instance, and not about a sample.
    if (reply.status === 400) return { flushed: false, said: serverMessage(reply.text, peer) }
    if (reply.status !== 200) throw statusFault(peer, reply.what, reply.status, reply.headers, reply.text)
    return { flushed: true, said: '' }
  }

  const memory = createSglangMemory(transport, async (signal) => {
    const { flushed, said } = await flush(signal)
    if (!flushed) throw busyFault('gives its memory away', said)
  })

  return {
    engine: 'sglang',
    async probe(signal) {
      const found = await probeSglang(transport, vocabularySize, signal)
      deltas = found.deltas
      vocabularySize = found.probe.vocabularySize
      return found.probe
    },
    async load(signal) {
      const reply = await transport.call({ method: 'GET', path: '/v1/loads?include=core', signal })
      let running = 0
      let waiting = 0
      let generated: number | null = null
      for (const rank of asRecords(asRecord(jsonOf(peer, reply)).loads)) {
        running += Number(rank.num_running_reqs ?? 0)
        waiting += Number(rank.num_waiting_reqs ?? 0)
        // Null until the first step. Its counter in /metrics moves only when a request ends.
        if ('decode_moments' in rank) generated = (generated ?? 0) + generatedIn(rank.decode_moments)
      }
      return generated === null ? { running, waiting } : { running, waiting, generatedTokens: generated }
    },
    weightVersion,
    refuses: refusesChat,
    generate: generateBy((request) => {
      const refusal = refusesChat(request)
      if (refusal !== null) throw fault('REQUEST_REJECTED', peer, `POST /generate: ${refusal}`)
      const body = generateBody(request, deltas)
      const { sampling, textBefore } = request
      const watch = () => createStopWatch({ textBefore, sampling, finds: 'begunBefore', heedsMinTokens: false })
      const decoder = sglangDecoder({ peer, deltas, sampling, stops: watch(), pieceStops: watch(), endIds })
      return { transport, clock, path: '/generate', body, decoder }
    }),
    onHangUp: (listener) => transport.onHangUp(listener),
    async abort(requestId, signal) {
      const reply = await post('/abort_request', { rid: requestId }, signal)
      if (reply.status !== 200) throw statusFault(peer, reply.what, reply.status, reply.headers, reply.text)
    },
    async pause(mode, signal) {
      jsonOf(peer, await post('/pause_generation', { mode: PAUSES[mode] }, signal, PAUSE_DEADLINE_MS))
    },
    async resume(signal) {
      const reply = await post('/continue_generation', {}, signal)
      // A release that cannot be held is open.
      if (reply.status !== 404) jsonOf(peer, reply)
    },
    async updateWeights({ version, path }, signal) {
      const label = String(version)
      // Asked before, because a server that is not quiet changes its weights, keeps the old cache and then says no.
      // Retracted requests hold no cache: for them too this is the question.
      const before = await flush(signal)
      if (!before.flushed) throw busyFault('takes new weights', before.said)
      const update = { model_path: path, weight_version: label, flush_cache: true, abort_all_requests: false }
      const reply = await post('/update_weights_from_disk', update, signal, UPDATE_DEADLINE_MS)
      // A failure is said with 400, which here blames the instance and not a sample.
      if (reply.status === 400) throw updateFault(`found: ${serverMessage(reply.text, peer)}`)
      const answer = asRecord(jsonOf(peer, reply))
      if (answer.success !== true) throw updateFault(`found: ${serverMessage(reply.text, peer)}`)
      // The update flushes; asked again, the server says whether anything still holds the old weights' work.
      const after = await flush(signal)
      if (!after.flushed) throw updateFault(`found: the weights changed, but the cache was not flushed: ${after.said}`)
      const found = await weightVersion(signal)
      if (found !== label) {
        throw updateFault(`found: the server calls its weights ${JSON.stringify(found)} after the update to ${label}`)
      }
    },
    async flush(_frozen, signal) {
      const { flushed, said } = await flush(signal)
      if (!flushed) throw busyFault('empties its cache', said)
    },
    release: (signal) => memory.release(signal),
    reclaim: (signal) => memory.reclaim(signal),
    tokenize: (prompt, signal) => tokenize(transport, prompt, signal),
    close: () => transport.close(),
  }

  function updateFault(found: string): RolloutError {
    const what = 'POST /update_weights_from_disk: expected the new weights to be loaded'
    return fault('ENGINE_ERROR', peer, `${what}, ${found}; see whether the server can read the folder and is quiet`)
  }

  function busyFault(when: string, said: string): RolloutError {
    const what = `POST /flush_cache: expected a quiet server when it ${when}, found requests that run or wait`
    return fault('BUSY', peer, `${what} (${said}); end them, also those of others; nothing was changed`)
  }
}

/** Sums over decode steps: of 1, batch, time, batch squared, batch by time, and tokens. */
function generatedIn(moments: unknown): number {
  const tokens: unknown = Array.isArray(moments) ? moments[5] : 0
  return typeof tokens === 'number' && Number.isFinite(tokens) ? tokens : 0
}
