/**
 * The replies of vLLM 0.32's generation routes, written by hand: one JSON object, or a stream of deltas. The last event of a stream carries
 * the finish reason, and on the generate route the versions of all its tokens. What was aborted before its first token ends with an
 * empty event there, and with none at all on the completions route.
 */
import type { ServerResponse } from 'node:http'
import type { EngineCounters } from './embedded-engine.ts'
import type { Sequence, Span } from './embedded-sequence.ts'
import { MODEL, type VllmBody } from './embedded-vllm-request.ts'
import { EOS, textOf, textOfToken } from './tiny-policy.ts'

export interface VllmReply {
  token(sequence: Sequence): void
  end(sequence: Sequence, spans: readonly Span[]): void
  /** Sends what has gathered. */
  flush(): void
}

export interface VllmReplyOptions {
  /** As the server answers: with the prefix of its route. */
  readonly id: string
  readonly interval: number
  readonly counters: EngineCounters
  /** Called once when there is something to flush. */
  readonly onDirty: () => void
}

const FINGERPRINT = 'vllm-0.32.0-embedded'
export const DONE = 'data: [DONE]\n\n'

/** A delta: tokens `[from, to)` and the text that goes with them. */
interface Part {
  readonly from: number
  readonly to: number
  readonly text: string
}

export function createVllmStream(response: ServerResponse, body: VllmBody, options: VllmReplyOptions): VllmReply {
  const { id, interval, counters, onDirty } = options
  const writer = createWriter(body, id)
  // Text that may turn out to belong to a stop string is held back, unless stop strings are sent.
  const hold = body.keepStopText ? 0 : Math.max(0, ...body.sampling.stop.map((stop) => stop.length - 1))
  let sent = 0
  let sentBefore = 0
  /** Tokens whose text is in `text`. */
  let read = 0
  let text = ''
  let textSent = 0
  let pending = ''
  let ended = false

  function partUpTo(sequence: Sequence, last: boolean): Part {
    const to = sequence.tokenIds.length
    for (; read < to; read++) text += textOfToken(sequence.tokenIds[read]!)
    const shown = last ? text.length - cutOff(sequence, body) : Math.max(textSent, text.length - hold)
    const part = { from: sent, to, text: text.slice(textSent, Math.max(textSent, shown)) }
    textSent = Math.max(textSent, shown)
    sent = to
    return part
  }

  function write(event: string): void {
    if (pending === '') onDirty()
    pending += event
  }

  return {
    token(sequence) {
      const count = sequence.tokenIds.length
      if (interval > 1 && count % interval !== 1) return
      // A slow reader gets fewer, larger events.
      if (response.writableNeedDrain) return
      write(`data: ${writer.event(sequence, partUpTo(sequence, false), null)}\n\n`)
    },
    end(sequence, spans) {
      ended = true
      const silent = body.route === 'completions' && sequence.tokenIds.length === 0
      const last = silent ? '' : `data: ${writer.event(sequence, partUpTo(sequence, true), spans)}\n\n`
      const usage = body.usage ? `data: ${writer.usage(sequence)}\n\n` : ''
      write(`${last}${usage}${DONE}`)
    },
    flush() {
      if (pending === '') return
      const chunk = pending
      pending = ''
      if (response.destroyed) return
      counters.tokensDelivered += sent - sentBefore
      sentBefore = sent
      if (ended) response.end(chunk)
      else response.write(chunk)
    },
  }
}

/** The whole reply of a request that does not stream. */
export function wholeVllmReply(sequence: Sequence, spans: readonly Span[], body: VllmBody, id: string): string {
  const text = textOf(sequence.tokenIds)
  const part = { from: 0, to: sequence.tokenIds.length, text: text.slice(0, text.length - cutOff(sequence, body)) }
  return createWriter(body, id).whole(sequence, part, spans)
}

interface Writer {
  event(sequence: Sequence, part: Part, spans: readonly Span[] | null): string
  usage(sequence: Sequence): string
  whole(sequence: Sequence, part: Part, spans: readonly Span[]): string
}

function createWriter(body: VllmBody, id: string): Writer {
  const created = Math.floor(Date.now() / 1000)
  const generate = body.route === 'generate'
  const mode = body.text ? 'text' : 'tokens'
  const head = generate
    ? `"request_id":${JSON.stringify(id)}`
    : `"id":${JSON.stringify(id)},"object":"text_completion","created":${created},"model":"${MODEL}"`
  let first = true

  function choice(sequence: Sequence, part: Part, spans: readonly Span[] | null): string {
    const { finish, promptTokenIds } = sequence
    const finishReason = spans === null || finish === null ? 'null' : `"${finish.type}"`
    // The model's own end is no stop reason.
    const stopReason = JSON.stringify(finish?.type === 'stop' && finish.matched !== EOS ? finish.matched : null)
    const ids = sequence.tokenIds.slice(part.from, part.to).join(',')
    const text = body.text ? `"text":${JSON.stringify(part.text)},` : ''
    if (generate) {
      // Without tokens there are no spans.
      const versions = spans === null ? 'null' : JSON.stringify(sequence.tokenIds.length === 0 ? [] : spans)
      const logprobs = body.logprobs ? `{"content":[${content(sequence, part)}]}` : 'null'
      return `{"index":0,"finish_reason":${finishReason},"stop_reason":${stopReason},"token_ids":[${ids}],"routed_experts":null,"sampling_mask":null,"weight_versions":${versions},${text}"logprobs":${logprobs}}`
    }
    const logprobs = body.logprobs ? lists(sequence, part) : 'null'
    const tokens = body.tokenIds
      ? `,"prompt_token_ids":${first ? `[${promptTokenIds.join(',')}]` : 'null'},"token_ids":[${ids}]`
      : ''
    first = false
    return `{"index":0,${text}"logprobs":${logprobs},"finish_reason":${finishReason},"stop_reason":${stopReason}${tokens}}`
  }

  function content(sequence: Sequence, { from, to }: Part): string {
    let out = ''
    for (let i = from; i < to; i++) {
      const token = sequence.tokenIds[i]!
      const name = body.text ? `"token":${JSON.stringify(textOfToken(token))}` : `"token_id":${token}`
      const entry = `${name},"logprob":${sequence.logprobs[i]}`
      const tail = body.text ? `,"bytes":[${Buffer.from(textOfToken(token)).join(',')}]` : ',"rank":null'
      out += `${i === from ? '' : ','}{${entry}${tail},"top_logprobs":[{${entry}${tail}}]}`
    }
    return out
  }

  function lists(sequence: Sequence, { from, to }: Part): string {
    const offsets: number[] = []
    const tokens: string[] = []
    for (let i = from; i < to; i++) {
      offsets.push(i)
      tokens.push(JSON.stringify(textOfToken(sequence.tokenIds[i]!)))
    }
    const values = sequence.logprobs.slice(from, to)
    const top = values.map((value, i) => `{${tokens[i]}:${value}}`)
    return `{"text_offset":[${offsets.join(',')}],"token_logprobs":[${values.join(',')}],"tokens":[${tokens.join(',')}],"top_logprobs":[${top.join(',')}]}`
  }

  function usageOf({ promptTokenIds, tokenIds }: Sequence): string {
    const total = promptTokenIds.length + tokenIds.length
    return `{"prompt_tokens":${promptTokenIds.length},"total_tokens":${total},"completion_tokens":${tokenIds.length}}`
  }

  return {
    event(sequence, part, spans) {
      const only = choice(sequence, part, spans)
      if (generate) return `{${head},"usage":null,"output_mode":"${mode}","choices":[${only}]}`
      const print = spans === null ? '' : `,"system_fingerprint":"${FINGERPRINT}"`
      return `{${head},"choices":[${only}]${print}}`
    },
    usage(sequence) {
      const middle = generate
        ? `,"usage":${usageOf(sequence)},"output_mode":"${mode}"`
        : `,"usage":${usageOf(sequence)}`
      return `{${head}${middle},"choices":[]}`
    },
    whole(sequence, part, spans) {
      const only = choice(sequence, part, spans)
      if (!generate)
        return `{${head},"choices":[${only}],"usage":${usageOf(sequence)},"system_fingerprint":"${FINGERPRINT}"}`
      return `{${head},"model":"${MODEL}","created":${created},"usage":${usageOf(sequence)},"prompt_logprobs":null,"prompt_token_ids":null,"kv_transfer_params":null,"output_mode":"${mode}","choices":[${only}]}`
    },
  }
}

/** Characters of a matched stop string, which the text does not show unless asked to. */
function cutOff({ finish }: Sequence, { keepStopText }: VllmBody): number {
  return finish?.type === 'stop' && typeof finish.matched === 'string' && !keepStopText ? finish.matched.length : 0
}
