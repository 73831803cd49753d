/**
 * The stream events of OpenAI-compatible servers to chunks: deltas of text, and of token ids where the server proved that it has them.
 * Log-probabilities without ids belong to no token of ours and are left out. Only a finish reason is an end; `[DONE]` without one is an
 * interruption (F12). Errors inside a 200 stream get the code of their status (R9).
 */
import type { RolloutError } from '../errors.ts'
import { isRecord } from '../problems.ts'
import type { ChunkDecoder } from './chunk-reader.ts'
import type { Chunk } from './driver.ts'
import { excerpt, messageIn, type Peer, streamFault } from './faults.ts'
import { asRecord, type Json } from './json.ts'
import type { OpenaiRoute } from './openai-request.ts'
import type { StopWatch } from './stop-watch.ts'

const DONE = '[DONE]'

/** `wantsIds` says whether every token must have an id; only then there is anything to go on from, and a stop string that began before. */
export function openaiDecoder(
  peer: Peer,
  route: OpenaiRoute,
  wantsIds: boolean,
  stops: StopWatch | null,
): ChunkDecoder {
  let failure: RolloutError | null = null
  let tokenIds: number[] = []
  let logprobs: number[] = []
  let text: string | null = null
  let finish: Chunk['finishReason'] = null
  let isCut = false
  let hidden = 0

  function readEvent(data: string): void {
    if (data === DONE) {
      finish = 'abort'
      return
    }
    const event: unknown = JSON.parse(data)
    if (!isRecord(event)) throw new Error(`an event that is ${typeof event}`)
    if (isRecord(event.error) || typeof event.error === 'string') {
      readError(event)
      return
    }
    if (!Array.isArray(event.choices))
      throw new Error(`an event without choices: ${JSON.stringify(excerpt(data, peer))}`)
    // An event without a choice reports usage.
    if (event.choices.length > 0) readChoice(asRecord(event.choices[0]))
  }

  function readChoice(choice: Json): void {
    const delta = asRecord(choice.delta)
    const said = choice.text ?? delta.content
    const had = tokenIds.length
    if (wantsIds) readTokens(choice)
    const count = tokenIds.length - had
    const reason = choice.finish_reason
    const end = stops?.isOpen && typeof said === 'string' ? stops.read(said, count, piecesOf(choice, count)) : null
    if (end !== null) {
      tokenIds.length = had + end.tokens
      logprobs.length = tokenIds.length
      finish = 'stop'
      isCut = typeof reason !== 'string'
    }
    hidden = said === '' ? hidden + count : 0
    if (typeof said === 'string' && said !== '')
      text = (text ?? '') + (end === null ? said : said.slice(0, end.characters))
    // Thinking, refusals and tool calls are no text of the sample, but they are progress.
    else if (Object.keys(delta).some((key) => key !== 'role' && key !== 'content' && !isEmpty(delta[key]))) text ??= ''
    if (typeof reason !== 'string' || finish !== null) return
    finish = finishOf(reason)
    // An output without text is a text.
    text ??= ''
  }

  function readTokens(choice: Json): void {
    const ids: unknown = choice.token_ids ?? []
    if (!Array.isArray(ids) || !ids.every((id) => typeof id === 'number'))
      throw new Error('token ids that are no numbers')
    if (ids.length === 0) {
      if (typeof choice.text === 'string' && choice.text !== '') throw new Error('text without token ids')
      return
    }
    const { token_logprobs: values } = asRecord(choice.logprobs)
    if (!Array.isArray(values) || values.length !== ids.length)
      throw new Error(`other than ${ids.length} log-probabilities of ${ids.length} tokens`)
    tokenIds.push(...ids)
    // JSON has no infinities: null stands for one.
    for (const value of values) logprobs.push(typeof value === 'number' ? value : Number.NEGATIVE_INFINITY)
  }

  function readError(event: Json): void {
    const { code } = asRecord(event.error)
    const number = Number(code)
    const status = Number.isInteger(number) && number >= 400 ? number : 500
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
      if (tokenIds.length === 0 && finish === null && text === null) return null
      return { tokenIds, logprobs, text, finishReason: finish, isCut, hidden, versions: null }
    },
  }
}

/** The text of each token by itself. */
function piecesOf({ logprobs }: Json, count: number): string[] | null {
  const { tokens } = asRecord(logprobs)
  return Array.isArray(tokens) && tokens.length === count && tokens.every((token) => typeof token === 'string')
    ? tokens
    : null
}

function finishOf(reason: string): Chunk['finishReason'] {
  switch (reason) {
    case 'length':
    case 'max_tokens':
      return 'length'
    case 'tool_calls':
    case 'function_call':
      return 'toolCalls'
    case 'abort':
    case 'cancelled':
      return 'abort'
    // Servers have words of their own for a stop: eos_token, stop_sequence, content_filter.
    default:
      return 'stop'
  }
}

function isEmpty(value: unknown): boolean {
  return value === null || value === undefined || value === '' || (Array.isArray(value) && value.length === 0)
}
