/**
 * vLLM's stream events to chunks: deltas on both routes. `/inference/v1/generate` carries log-probabilities as objects and, on its last
 * event, the spans of weight versions; `/v1/completions` carries parallel lists and no versions.
 * The end is a finish reason. `[DONE]` without one is how `/v1/completions` ends what was aborted before its first token, and how older
 * releases end every abort: an interruption, never a completion (F12). Errors inside a 200 stream get the code of their status (R9).
 */
import type { RolloutError } from '../errors.ts'
import { isRecord } from '../problems.ts'
import type { ChunkDecoder } from './chunk-reader.ts'
import type { Chunk, WireSpan } from './driver.ts'
import { excerpt, messageIn, type Peer, streamFault } from './faults.ts'
import { asRecord, type Json } from './json.ts'
import type { StopWatch } from './stop-watch.ts'
import type { Route } from './vllm-request.ts'

const DONE = '[DONE]'

export interface VllmStream {
  readonly peer: Peer
  readonly route: Route
  /** False where its numbers are no log-probabilities (`--logprobs-mode raw_logits`). */
  readonly logprobs: boolean
  /** False where nobody can set the version of the weights, so that its label means nothing. */
  readonly versions: boolean
  readonly stops: StopWatch | null
}

export function vllmDecoder({ peer, route, logprobs: wanted, versions: labelled, stops }: VllmStream): ChunkDecoder {
  let failure: RolloutError | null = null
  let tokenIds: number[] = []
  let logprobs: number[] = []
  let text: string | null = null
  let finish: Chunk['finishReason'] = null
  let isCut = false
  /** Its tokenizer holds back what ends inside a character. Sent as a prompt, it would decode all of the prompt into the text. */
  let hidden = 0
  let versions: readonly WireSpan[] | null = null

  function readEvent(data: string): void {
    if (data === DONE) {
      finish = 'abort'
      return
    }
    const event: unknown = JSON.parse(data)
    if (!isRecord(event)) throw new Error(`an event that is ${typeof event}`)
    if (event.error !== undefined || event.object === 'error') {
      readError(event)
      return
    }
    if (!Array.isArray(event.choices))
      throw new Error(`an event without choices: ${JSON.stringify(excerpt(data, peer))}`)
    // An event without a choice reports usage.
    if (event.choices.length > 0) readChoice(asRecord(event.choices[0]))
  }

  function readChoice(choice: Json): void {
    const count = readTokens(choice)
    if (typeof choice.text === 'string') readText(choice.text, count, choice)
    if (finish !== null) return
    switch (choice.finish_reason) {
      case null:
      case undefined:
        return
      case 'length':
      case 'abort':
      case 'stop':
        finish = choice.finish_reason
        break
      // The server's own judgement that the output repeats itself.
      case 'repetition':
        finish = 'stop'
        break
      default:
        throw new Error(`the finish reason ${JSON.stringify(choice.finish_reason)}`)
    }
    if (labelled) versions = spansOf(choice.weight_versions)
  }

  function readText(said: string, count: number, choice: Json): void {
    const pieces = count > 1 ? piecesOf(choice.logprobs) : null
    const end = stops?.isOpen ? stops.read(said, count, pieces) : null
    if (end !== null) {
      tokenIds.length -= count - end.tokens
      logprobs.length = Math.min(logprobs.length, tokenIds.length)
      finish = 'stop'
      isCut = typeof choice.finish_reason !== 'string'
      if (labelled) versions = spansOf(choice.weight_versions)
    }
    text = (text ?? '') + (end === null ? said : said.slice(0, end.characters))
    hidden = said === '' ? hidden + count : hiddenOf(pieces)
  }

  /** @returns how many */
  function readTokens(choice: Json): number {
    const ids: unknown = choice.token_ids ?? []
    if (!Array.isArray(ids)) throw new Error(`token ids that are ${typeof ids}`)
    // Before a stream's first token, and with its last event, releases repeat log-probabilities of tokens that were sent before.
    if (ids.length === 0) {
      if (choice.token_ids === undefined && choice.text !== undefined && choice.text !== '')
        throw new Error('text without token ids: a release that does not know return_token_ids')
      return 0
    }
    const values = wanted ? logprobsOf(choice.logprobs) : []
    if (wanted && values.length !== ids.length)
      throw new Error(`${values.length} log-probabilities of ${ids.length} tokens`)
    for (const id of ids) {
      if (typeof id !== 'number') throw new Error(`a token that is ${JSON.stringify(id)}`)
      tokenIds.push(id)
    }
    logprobs.push(...values)
    return ids.length
  }

  function readError(event: Json): void {
    const detail = isRecord(event.error) ? event.error : event
    const status = typeof detail.code === 'number' ? detail.code : 500
    failure = streamFault(peer, route, status, messageIn(event) ?? 'no message')
  }

  return {
    get failure() {
      return failure
    },
    read(events) {
      tokenIds = []
      logprobs = []
      text = null
      for (const data of events) {
        if (failure !== null || finish !== null) break
        readEvent(data)
      }
      if (tokenIds.length === 0 && finish === null && (text === null || text === '')) return null
      return { tokenIds, logprobs, text, finishReason: finish, isCut, hidden, versions }
    },
  }
}

/** Of the sampled tokens, in either form. JSON has no infinities: null stands for one, as the server's own -9999 does. */
function logprobsOf(value: unknown): number[] {
  const { content, token_logprobs } = asRecord(value)
  if (Array.isArray(content)) return content.map((entry) => numberOf(asRecord(entry).logprob))
  return Array.isArray(token_logprobs) ? token_logprobs.map(numberOf) : []
}

/** The text of each token by itself. */
function piecesOf(value: unknown): string[] | null {
  const { content, tokens } = asRecord(value)
  const pieces: unknown[] | null = Array.isArray(content)
    ? content.map((entry) => asRecord(entry).token)
    : Array.isArray(tokens)
      ? tokens
      : null
  return pieces?.every((piece) => typeof piece === 'string') === true ? pieces : null
}

/** Tokens at the end that are a part of a character, where several came at once. */
function hiddenOf(pieces: readonly string[] | null): number {
  if (pieces === null) return 0
  const last = pieces.findLastIndex((piece) => piece !== '' && !piece.endsWith('\ufffd'))
  return pieces.length - 1 - last
}

function numberOf(value: unknown): number {
  return typeof value === 'number' ? value : Number.NEGATIVE_INFINITY
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
