/**
 * SGLang's stream events to chunks of new tokens. Servers send either the whole output in every event (the default) or deltas
 * (`--incremental-streaming-output`); which one is told from the event itself, by comparing its list with its `completion_tokens`,
 * so that a server restarted with other flags cannot corrupt a sample (I8). Ids and log-probabilities come from one list and so are
 * always of equal length; what was delivered never shrinks or repeats (an abort in the queue sends a short list of ids and, among deltas,
 * the whole list of log-probabilities, F12). What was delivered is not parsed again (sglang-cumulative.ts).
 */
import type { RolloutError } from '../errors.ts'
import { isRecord } from '../problems.ts'
import { endOfStop } from '../rollout/stop-text.ts'
import type { CheckedSampling } from '../rollout/task.ts'
import type { ChunkDecoder } from './chunk-reader.ts'
import type { Chunk, WireSpan } from './driver.ts'
import { excerpt, messageIn, type Peer, streamFault } from './faults.ts'
import { createCumulativeParser } from './sglang-cumulative.ts'
import { createTokenEventReader } from './sglang-token-event.ts'
import type { StopWatch } from './stop-watch.ts'

const DONE = '[DONE]'
/** Cut-off UTF-8: the next token may turn it into a character. */
const INCOMPLETE = /\ufffd+$/

export interface SglangStream {
  readonly peer: Peer
  /** What the server said at its last probe; it decides only where an event has no `completion_tokens`. */
  readonly deltas: boolean
  readonly sampling: Pick<CheckedSampling, 'stop' | 'stopTokenIds' | 'ignoreEos'>
  readonly stops: StopWatch | null
  /** The same once more, to look at the text of each token by itself: what it sends of the whole can be behind its tokens. */
  readonly pieceStops: StopWatch | null
  /** Tokens that end a sample on this server without being asked to. It names none: they are learnt from samples that end so. */
  readonly endIds: Set<number>
}

export function sglangDecoder({ peer, deltas, sampling, stops, pieceStops, endIds }: SglangStream): ChunkDecoder {
  const parser = createCumulativeParser()
  const tokenEvent = createTokenEventReader()
  let form: 'unknown' | 'cumulative' | 'deltas' = 'unknown'
  /** Tokens delivered. */
  let seen = 0
  /** As much of the text as matters for stop strings. */
  let tail = ''
  const longest = Math.max(0, ...sampling.stop.map(({ length }) => length))
  /** While a stop string that began before may end: the text that was sent, and that of the tokens by themselves. */
  let shownText = ''
  let speltText = ''
  let textSent = 0
  let textHeld = ''
  /** Label of all events so far; null where it is missing or changed on the way. */
  let label: string | null | undefined
  let failure: RolloutError | null = null
  let tokenIds: number[] = []
  let logprobs: number[] = []
  let text: string | null = null
  let finish: Chunk['finishReason'] = null
  let isCut = false
  let versions: readonly WireSpan[] | null = null

  function readEvent(data: string): void {
    if (form === 'deltas' && stops === null && tokenEvent.read(data) && tokenEvent.total === seen + 1) {
      readToken()
      return
    }
    const event = parser.parse(data, form === 'cumulative' ? seen : 0)
    if (!isRecord(event)) throw new Error(`an event that is ${typeof event}`)
    if (event.error !== undefined || event.object === 'error') {
      readError(event)
      return
    }
    const meta = event.meta_info
    if (!isRecord(meta)) throw new Error(`an event without meta_info: ${JSON.stringify(excerpt(data, peer))}`)
    const reason = isRecord(meta.finish_reason) ? meta.finish_reason : null
    const had = tokenIds.length
    const skipped = readTokens(event.output_ids, meta, reason?.type === 'abort')
    const fresh = readText(event.text, skipped === 0 && form === 'deltas', reason !== null)
    if (typeof meta.weight_version !== 'string') label = null
    else if (label === undefined) label = meta.weight_version
    else if (label !== meta.weight_version) label = null
    const count = tokenIds.length - had
    if (reason !== null) readEnd(reason, meta, count > 0)
    else if (form === 'deltas' && count === 1) tokenEvent.learn(data, seen)
    if (fresh === null) return
    const known = stops?.isOpen ? untilStop(stops, fresh, meta, had) : fresh
    addText(known, finish === 'abort' && count > 0 ? untilUnseenStop(known, count) : known)
  }

  /** The event is one more token under the label of the last. */
  function readToken(): void {
    tokenIds.push(tokenEvent.tokenId)
    logprobs.push(tokenEvent.logprob)
    seen++
    const fresh = withHeld(tokenEvent.text)
    addText(fresh, fresh)
  }

  function addText(known: string, shown: string): void {
    text = (text ?? '') + shown
    if (longest > 0) tail = (tail + known).slice(-longest)
  }

  /**
   * The one more token that an aborted request gets may complete a stop string (`endsWithItsLast`). One that ends before, the server has seen and not
   * taken for one: it misses those that came in many more tokens than its tokenizer makes of them.
   */
  function untilUnseenStop(fresh: string, count: number): string {
    const end = endOfStop(tail + fresh, sampling.stop, count === 1 ? tail.length : tail.length + fresh.length - 1)
    if (end === -1) return fresh
    finish = 'stop'
    return fresh.slice(0, end - tail.length)
  }

  /**
   * Ends the stream at a stop string that began before it. Where the newest token ends inside a character, the server sends text only up to the last
   * space before: then the tokens themselves say that they complete one.
   */
  function untilStop(watch: StopWatch, fresh: string, meta: Record<string, unknown>, had: number): string {
    const count = tokenIds.length - had
    const pieces = piecesOf(meta.output_token_logprobs, count)
    const shown = shownText.length
    const spelt = speltText.length
    shownText += fresh
    speltText += pieces?.join('') ?? ''
    const inText = watch.read(fresh, count, pieces)
    const inPieces = pieces === null ? null : (pieceStops?.read(pieces.join(''), count, pieces) ?? null)
    const end = inPieces !== null && (inText === null || inPieces.tokens < inText.tokens) ? inPieces : inText
    if (end === null || failure !== null) return fresh
    tokenIds.length = had + end.tokens
    logprobs.length = Math.min(logprobs.length, tokenIds.length)
    seen -= count - end.tokens
    isCut = finish === null
    finish = 'stop'
    versions ??= labelSpan()
    return end === inText ? fresh.slice(0, end.characters) : speltText.slice(shown, spelt + end.characters)
  }

  /** Returns how many of the event's tokens were delivered before. */
  function readTokens(ids: unknown, meta: Record<string, unknown>, aborted: boolean): number {
    const triples: readonly unknown[] | null = Array.isArray(meta.output_token_logprobs)
      ? meta.output_token_logprobs
      : null
    const list: readonly unknown[] = triples ?? (Array.isArray(ids) ? ids : [])
    const { left } = parser
    const length = left + list.length
    const total = meta.completion_tokens
    let skip = 0
    if (typeof total !== 'number') {
      skip = deltas ? 0 : seen
    } else if (length === total) {
      skip = seen
      if (seen > 0 && form === 'unknown') form = 'cumulative'
    } else if (seen + length === total) {
      form = 'deltas'
    } else if (aborted) {
      skip = length
    } else {
      throw new Error(`${length} tokens after ${seen} where the server counts ${total}: tokens are missing`)
    }
    for (let i = skip - left; i < list.length; i++) {
      const entry = list[i]
      if (typeof entry === 'number') tokenIds.push(entry)
      else if (Array.isArray(entry) && typeof entry[1] === 'number') {
        tokenIds.push(entry[1])
        // JSON has no infinities.
        logprobs.push(typeof entry[0] === 'number' ? entry[0] : Number.NEGATIVE_INFINITY)
      } else throw new Error(`a token that is ${JSON.stringify(entry)}`)
    }
    seen += Math.max(0, length - skip)
    return skip
  }

  /** What is new of it. */
  function readText(sent: unknown, delta: boolean, final: boolean): string | null {
    if (typeof sent !== 'string') return null
    if (delta) return withHeld(sent)
    const stable = final ? sent : sent.replace(INCOMPLETE, '')
    const fresh = stable.slice(textSent)
    textSent = Math.max(textSent, stable.length)
    textHeld = sent.slice(stable.length)
    return fresh
  }

  /** A delta of the text, after what was held back before it. */
  function withHeld(sent: string): string {
    const fresh = textHeld + sent
    textSent += fresh.length
    textHeld = ''
    return fresh
  }

  function readEnd(reason: Record<string, unknown>, meta: Record<string, unknown>, hasNew: boolean): void {
    const { type } = reason
    if (type === 'abort' && typeof reason.status_code === 'number') {
      fail(reason.status_code, reason.message)
      return
    }
    if (type !== 'stop' && type !== 'length' && type !== 'abort')
      throw new Error(`the finish reason ${JSON.stringify(type)}`)
    finish = type === 'abort' && hasNew && endsWithItsLast() ? 'stop' : type
    if (type === 'stop' && typeof reason.matched === 'number' && !sampling.stopTokenIds.includes(reason.matched))
      endIds.add(reason.matched)
    versions = spansOf(meta.weight_versions) ?? labelSpan()
  }

  /** A running request takes part in one more step after its abort, and nobody looks at what came of it. */
  function endsWithItsLast(): boolean {
    const last = tokenIds[tokenIds.length - 1]!
    return !sampling.ignoreEos && (endIds.has(last) || sampling.stopTokenIds.includes(last))
  }

  function labelSpan(): WireSpan[] | null {
    return typeof label === 'string' ? [{ version: label, start: 0, end: seen }] : null
  }

  function readError(event: Record<string, unknown>): void {
    const detail = isRecord(event.error) ? event.error : event
    // Releases that give no code raise these for refused requests only.
    fail(typeof detail.code === 'number' ? detail.code : 400, messageIn(event) ?? 'no message')
  }

  function fail(status: number, message: unknown): void {
    failure = streamFault(peer, '/generate', status, String(message))
  }

  return {
    get failure() {
      return failure
    },
    read(events) {
      let count = events.length
      while (count > 0 && events[count - 1] === DONE) count--
      if (count === 0) return null
      tokenIds = []
      logprobs = []
      text = null
      // In the cumulative form the last event says all that the others said; an error after it says nothing of the tokens.
      const latest = count > 1 && events[count - 1]?.startsWith('{"error"') ? count - 2 : count - 1
      for (let i = 0; i < count && failure === null && finish === null; i++) {
        if (form === 'cumulative' && i < latest) i = latest
        const data = events[i]
        if (data !== undefined) readEvent(data)
      }
      if (tokenIds.length === 0 && finish === null && (text === null || text === '')) return null
      return { tokenIds, logprobs, text, finishReason: finish, isCut, versions }
    },
  }
}

/** The text of each of the last tokens by itself, where it was asked for. */
function piecesOf(triples: unknown, count: number): string[] | null {
  if (!Array.isArray(triples)) return null
  const pieces: unknown[] = triples
    .slice(triples.length - count)
    .map((triple) => (Array.isArray(triple) ? triple[2] : null))
  return pieces.every((piece) => typeof piece === 'string') ? pieces : null
}

function spansOf(value: unknown): WireSpan[] | null {
  if (!Array.isArray(value)) return null
  const spans: WireSpan[] = []
  for (const span of value) {
    if (!isRecord(span) || typeof span.start !== 'number' || typeof span.end !== 'number') return null
    spans.push({ version: String(span.version), start: span.start, end: span.end })
  }
  return spans
}
