/**
 * llama-server's stream events to chunks: one event per token, then one with `stop: true`, and no `[DONE]`.
 *
 * The server sends no event for a token that ends inside a UTF-8 character, only for the one that completes it: the tokens before that one
 * are counted (`tokens_predicted`) and never named. A token that nobody knows must not be left out (I8), so the attempt is cut where its
 * tokens have a gap, and is an interruption: the sample goes on from the tokens before it. A gap at the very end is only a shorter output.
 *
 * The server has no stop ids, and holds back text that may become a stop string, which is lost where the socket is closed meanwhile. Both are
 * enforced here: the sample ends with such a token and the socket is closed.
 */
import type { RolloutError } from '../errors.ts'
import { isRecord } from '../problems.ts'
import type { CheckedSampling } from '../rollout/task.ts'
import type { ChunkDecoder } from './chunk-reader.ts'
import type { Chunk } from './driver.ts'
import { excerpt, messageIn, type Peer, streamFault } from './faults.ts'
import { asRecord, asRecords, type Json } from './json.ts'
import { COMPLETION } from './llama-server-request.ts'
import type { StopWatch } from './stop-watch.ts'

export function llamaServerDecoder(
  peer: Peer,
  { stopTokenIds, ignoreEos }: Pick<CheckedSampling, 'stopTokenIds' | 'ignoreEos'>,
  stops: StopWatch | null,
): ChunkDecoder {
  const stopIds = new Set(ignoreEos ? [] : stopTokenIds)
  let failure: RolloutError | null = null
  let isCut = false
  let received = 0
  let tokenIds: number[] = []
  let logprobs: number[] = []
  let text: string | null = null
  let finish: Chunk['finishReason'] = null

  function readEvent(data: string): void {
    const event: unknown = JSON.parse(data)
    if (!isRecord(event)) throw new Error(`an event that is ${typeof event}`)
    if (event.error !== undefined) readError(event)
    else if (event.stop === true) readEnd(event)
    else if (event.stop === false) readTokens(event, data)
    else throw new Error(`an event that is neither a token nor the end: ${JSON.stringify(excerpt(data, peer))}`)
  }

  function readTokens(event: Json, data: string): void {
    const ids: unknown = event.tokens
    if (!Array.isArray(ids)) throw new Error('an event without tokens: a release that does not know return_tokens')
    if (ids.length === 0) return
    if (typeof event.tokens_predicted === 'number' && event.tokens_predicted > received + ids.length) {
      end('abort')
      return
    }
    const found = asRecords(event.completion_probabilities)
    if (found.length !== ids.length) throw new Error(`${found.length} log-probabilities of ${ids.length} tokens`)
    const said = typeof event.content === 'string' ? event.content : ''
    const stop = stops === null ? null : stops.read(said, ids.length, null)
    text = (text ?? '') + (stop === null ? said : said.slice(0, stop.characters))
    for (const [index, id] of ids.entries()) {
      if (typeof id !== 'number') throw new Error(`a token that is ${JSON.stringify(excerpt(data, peer))}`)
      tokenIds.push(id)
      logprobs.push(logprobOf(found[index]!))
      received++
      if (stopIds.has(id)) {
        end('stop')
        return
      }
    }
    if (stop !== null) end('stop')
  }

  /** The server does not know that this is the end. */
  function end(reason: 'stop' | 'abort'): void {
    finish = reason
    isCut = true
  }

  function readEnd(event: Json): void {
    switch (event.stop_type) {
      case 'word':
        // The text must say what the tokens say; the server takes the stop string out of it.
        if (typeof event.stopping_word === 'string') text = (text ?? '') + event.stopping_word
        finish = 'stop'
        break
      case 'eos':
        finish = 'stop'
        break
      case 'limit':
        finish = 'length'
        break
      default:
        throw new Error(`the stop type ${JSON.stringify(event.stop_type)}`)
    }
  }

  function readError(event: Json): void {
    const { code } = asRecord(event.error)
    const status = typeof code === 'number' ? code : 500
    failure = streamFault(peer, COMPLETION, status, messageIn(event) ?? 'no message')
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
      return { tokenIds, logprobs, text, finishReason: finish, isCut, versions: null }
    },
  }
}

/** Of the logits, or a probability after all samplers. JSON has no infinities: null stands for one. */
function logprobOf({ logprob, prob }: Json): number {
  if (typeof logprob === 'number') return logprob
  return typeof prob === 'number' ? Math.log(prob) : Number.NEGATIVE_INFINITY
}
