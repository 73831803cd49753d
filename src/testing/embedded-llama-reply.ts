/**
 * The replies of llama-server's POST /completion: one event per token and an empty last one with `stop: true`, no `[DONE]`; or one object.
 */
import type { ServerResponse } from 'node:http'
import type { EngineCounters } from './embedded-engine.ts'
import type { LlamaBody } from './embedded-llama-request.ts'
import type { Sequence } from './embedded-sequence.ts'
import { createStopText } from './embedded-stop-text.ts'
import { EOS, logSoftmax, remember, type TinyWeights, textOfToken } from './tiny-policy.ts'

export interface LlamaReply {
  token(sequence: Sequence): void
  end(sequence: Sequence): void
  /** Sends what has gathered. */
  flush(): void
}

export interface LlamaReplyOptions {
  readonly counters: EngineCounters
  readonly weights: () => TinyWeights
  /** Called once when there is something to flush. */
  readonly onDirty: () => void
}

export function createLlamaReply(response: ServerResponse, body: LlamaBody, options: LlamaReplyOptions): LlamaReply {
  const { counters, weights, onDirty } = options
  const text = createStopText(body.sampling.stop)
  const rawLogprob = createRawScorer(body.promptTokenIds)
  const probabilities: unknown[] = []
  let whole = ''
  let read = 0
  let pending: string[] = []
  let written = 0
  let last = ''

  function write(event: object): void {
    if (pending.length === 0 && last === '') onDirty()
    pending.push(`data: ${JSON.stringify(event)}\n\n`)
  }

  function readTokens(sequence: Sequence): void {
    const { tokenIds, promptTokenIds } = sequence
    for (; read < tokenIds.length; read++) {
      const id = tokenIds[read]!
      const piece = textOfToken(id)
      const content = text.push(piece)
      whole += content
      const probability = probabilityOf(id, piece, sequence.logprobs[read]!)
      if (!body.stream) {
        probabilities.push(probability)
        continue
      }
      write({
        index: 0,
        content,
        tokens: [id],
        stop: false,
        id_slot: -1,
        tokens_predicted: read + 1,
        tokens_evaluated: promptTokenIds.length,
        ...(body.probabilities ? { completion_probabilities: [probability] } : {}),
      })
    }
  }

  function probabilityOf(id: number, token: string, sampled: number): object {
    const bytes = [...Buffer.from(token)]
    if (body.postSampling) {
      const prob = Math.exp(sampled)
      return { id, token, bytes, prob, top_probs: [{ id, token, bytes, prob }] }
    }
    const logprob = rawLogprob(weights(), id)
    return { id, token, bytes, logprob, top_logprobs: [{ id, token, bytes, logprob }] }
  }

  return {
    token: readTokens,
    end(sequence) {
      readTokens(sequence)
      const { finish, tokenIds, promptTokenIds } = sequence
      const matched = finish?.type === 'stop' ? finish.matched : null
      const final = {
        index: 0,
        content: body.stream ? '' : whole,
        tokens: body.stream || !body.returnTokens ? [] : tokenIds,
        id_slot: 0,
        stop: true,
        model: 'embedded',
        tokens_predicted: tokenIds.length,
        tokens_evaluated: promptTokenIds.length,
        generation_settings: {},
        prompt: '',
        has_new_line: false,
        truncated: false,
        stop_type: matched === null ? 'limit' : matched === EOS ? 'eos' : 'word',
        stopping_word: typeof matched === 'string' ? matched : '',
        tokens_cached: promptTokenIds.length + tokenIds.length - 1,
        timings: {},
      }
      if (body.stream) {
        write(final)
        last = 'stream'
      } else {
        onDirty()
        last = JSON.stringify({ ...final, ...(body.probabilities ? { completion_probabilities: probabilities } : {}) })
      }
    },
    flush() {
      const events = pending
      pending = []
      if (response.destroyed || response.writableEnded) return
      counters.tokensDelivered += read - written
      written = read
      if (last === '') response.write(events.join(''))
      else if (body.stream) response.end(events.join(''))
      else response.writeHead(200, { 'content-type': 'application/json; charset=utf-8' }).end(last)
    },
  }
}

/** Log-probabilities of the logits, whatever the samplers did: a context of its own, one token further with every call. */
function createRawScorer(promptTokenIds: readonly number[]): (weights: TinyWeights, id: number) => number {
  let sum: Float64Array | null = null
  let count = 0
  let previous = 0
  return (weights, id) => {
    const size = weights.vocabularySize
    if (sum === null) {
      sum = new Float64Array(size)
      for (const token of promptTokenIds) {
        remember(weights, token, sum)
        count++
        previous = token
      }
    }
    const distribution = new Float64Array(size)
    logSoftmax(weights, sum, count, previous, 1, distribution)
    remember(weights, id, sum)
    count++
    previous = id
    return distribution[id]!
  }
}
