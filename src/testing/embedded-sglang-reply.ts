/**
 * The replies of POST /generate, written by hand: one JSON object, or a stream of events that repeat everything so far (the default)
 * or carry deltas. A long cumulative stream costs memory copies, not re-rendering: what was rendered once stays as bytes.
 */
import type { ServerResponse } from 'node:http'
import { begunLength } from '../rollout/stop-text.ts'
import type { EngineCounters } from './embedded-engine.ts'
import type { Sequence, Span } from './embedded-sequence.ts'
import { textOf, textOfToken } from './tiny-policy.ts'

export interface ReplyContext {
  readonly id: string
  readonly promptTokens: number
  readonly logprobs: boolean
  readonly texts: boolean
  readonly noStopTrim: boolean
  readonly startedAt: number
  /** The label the server answers under at the moment. */
  readonly weightVersion: () => string
}

export interface EventStream {
  token(sequence: Sequence): void
  end(sequence: Sequence, spans: readonly Span[]): void
  /** Sends what has gathered. */
  flush(): void
}

export interface EventStreamOptions {
  readonly incremental: boolean
  readonly interval: number
  readonly counters: EngineCounters
  /** Called once when there is something to flush. */
  readonly onDirty: () => void
}

const DONE = 'data: [DONE]\n\n'

export function createEventStream(
  response: ServerResponse,
  context: ReplyContext,
  options: EventStreamOptions,
): EventStream {
  const { incremental, interval, counters } = options
  const soFar = incremental ? null : { text: createBytes(), ids: createBytes(), logprobs: createBytes() }
  let sent = 0
  let sentBefore = 0
  let pending: (string | Buffer)[] = []
  let ended = false
  let longestStop: number | undefined

  /** The same for every event until the version changes. */
  let head = ''
  let headVersion: string | null = null
  function headNow(): string {
    const version = context.weightVersion()
    if (version !== headVersion) head = metaHead(context, null, false, version)
    headVersion = version
    return head
  }

  function write(...parts: (string | Buffer)[]): void {
    if (pending.length === 0) options.onDirty()
    pending.push(...parts)
  }

  function flush(): void {
    if (pending.length === 0) return
    const parts = pending
    pending = []
    if (response.destroyed) return
    counters.tokensDelivered += sent - sentBefore
    sentBefore = sent
    const chunk =
      soFar === null
        ? parts.join('')
        : Buffer.concat(parts.map((part) => (typeof part === 'string' ? Buffer.from(part) : part)))
    if (ended) response.end(chunk)
    else response.write(chunk)
  }

  return {
    token(sequence) {
      const count = sequence.tokenIds.length
      if (sent > 0 && count - sent < interval) return
      // A slow reader gets fewer, larger events, as the real server drains its queue.
      if (response.writableNeedDrain) return
      // The real scheduler sends nothing while the text may be becoming a stop string.
      const { stop } = sequence.sampling
      longestStop ??= Math.max(...stop.map(({ length }) => length))
      if (stop.length > 0 && begunLength(textOf(sequence.tokenIds.slice(-longestStop)), stop) > 0) return
      const text = textFrom(sequence.tokenIds, sent)
      const ids = listOf(sequence.tokenIds, sent)
      const logprobs = context.logprobs ? logprobsOf(sequence, sent, context.texts) : ''
      sent = count
      const meta = `"meta_info":${headNow()},"num_retractions":${sequence.retractions}`
      if (soFar === null) {
        const list = context.logprobs
          ? `,"input_token_logprobs":[],"output_token_logprobs":[${logprobs}],"output_token_logprobs_length":${count}`
          : ''
        write(`data: {"text":"${text}","output_ids":[${ids}],${meta}${list},${metaCounts(sequence)}}}\n\n`)
        return
      }
      const { text: texts, ids: allIds, logprobs: allLogprobs } = soFar
      texts.append(text)
      allIds.append(allIds.empty ? ids : `,${ids}`)
      write('data: {"text":"', texts.bytes(), '","output_ids":[', allIds.bytes(), `],${meta}`)
      if (context.logprobs) {
        allLogprobs.append(allLogprobs.empty ? logprobs : `,${logprobs}`)
        write(
          ',"input_token_logprobs":[],"output_token_logprobs":[',
          allLogprobs.bytes(),
          `],"output_token_logprobs_length":${count}`,
        )
      }
      write(`,${metaCounts(sequence)}}}\n\n`)
    },
    end(sequence, spans) {
      const from = incremental ? sent : 0
      sent = sequence.tokenIds.length
      ended = true
      write(`data: ${finalReply(sequence, spans, context, from, incremental)}\n\n${DONE}`)
    },
    flush,
  }
}

/** The whole reply, or with `from` the last delta of an incremental stream. */
export function finalReply(
  sequence: Sequence,
  spans: readonly Span[],
  context: ReplyContext,
  from = 0,
  incremental = false,
): string {
  const queued = sequence.finish?.type === 'abort' && sequence.finish.from === 'waiting'
  const version = spans.at(-1)?.version ?? context.weightVersion()
  const text = finalText(sequence, context.noStopTrim)
  // Aborted in the queue, an incremental stream ends with all of the text and log-probabilities, and only the last id. So does the real one.
  const idsFrom = queued && incremental ? Math.max(0, sequence.tokenIds.length - 1) : from
  const rest = queued ? 0 : from
  const list = context.logprobs
    ? `,"input_token_logprobs":[],"output_token_logprobs":[${logprobsOf(sequence, rest, context.texts)}],"output_token_logprobs_length":${sequence.tokenIds.length}`
    : ''
  const head = metaHead(context, finishOf(sequence), queued, version)
  const middle = queued ? '' : `,"num_retractions":${sequence.retractions}`
  const counts = queued ? `"completion_tokens":${sequence.tokenIds.length}` : metaCounts(sequence)
  const now = Date.now() / 1000
  const times = `,"e2e_latency":${(performance.now() - context.startedAt) / 1000},"response_sent_to_client_ts":${now}`
  return `{"text":${JSON.stringify(text.slice(rest === 0 ? 0 : shownText(sequence, from)))},"output_ids":[${listOf(sequence.tokenIds, idsFrom)}],"meta_info":${head}${middle}${list},${counts},"weight_versions":${JSON.stringify(spans)}${times}}}`
}

/** Without a closing brace: the caller goes on with the fields that follow. */
function metaHead(
  context: ReplyContext,
  finish: string | null,
  queued = false,
  version = context.weightVersion(),
): string {
  const prompt = queued ? '' : `"prompt_tokens":${context.promptTokens},`
  return `{"id":${JSON.stringify(context.id)},"finish_reason":${finish},${prompt}"weight_version":${JSON.stringify(version)}`
}

function metaCounts(sequence: Sequence): string {
  return `"reasoning_tokens":0,"completion_tokens":${sequence.tokenIds.length},"cached_tokens":${sequence.cachedTokens}`
}

function finishOf({ finish, tokenIds }: Sequence): string {
  switch (finish?.type) {
    case 'stop':
      return JSON.stringify(finish)
    case 'length':
      return `{"type":"length","length":${tokenIds.length}}`
    case 'abort':
      return finish.from === 'waiting'
        ? '{"type":"abort","message":"Abort in waiting queue"}'
        : '{"type":"abort","message":"Aborted","status_code":null,"err_type":null}'
    case undefined:
      return 'null'
  }
}

/** The text without what matched a stop condition. */
function finalText({ finish, tokenIds }: Sequence, noStopTrim: boolean): string {
  const text = textOf(tokenIds)
  if (finish?.type !== 'stop' || noStopTrim) return text
  const matched = typeof finish.matched === 'number' ? textOfToken(finish.matched) : finish.matched
  return text.slice(0, text.length - matched.length)
}

function shownText({ tokenIds }: Sequence, count: number): number {
  return textOf(tokenIds.slice(0, count)).length
}

function textFrom(tokenIds: readonly number[], from: number): string {
  let text = ''
  for (let i = from; i < tokenIds.length; i++) text += textOfToken(tokenIds[i]!)
  return text
}

function listOf(tokenIds: readonly number[], from: number): string {
  if (from === 0) return tokenIds.join(',')
  return from === tokenIds.length - 1 ? String(tokenIds[from]) : tokenIds.slice(from).join(',')
}

function logprobsOf({ tokenIds, logprobs }: Sequence, from: number, texts: boolean): string {
  let text = ''
  for (let i = from; i < tokenIds.length; i++) {
    const piece = texts ? JSON.stringify(textOfToken(tokenIds[i]!)) : 'null'
    text += `${i === from ? '' : ','}[${logprobs[i]},${tokenIds[i]},${piece}]`
  }
  return text
}

interface Bytes {
  readonly empty: boolean
  append(text: string): void
  /** All so far; later appends do not change what was returned. */
  bytes(): Buffer
}

/** A growing text, kept as bytes: appending is amortised O(added), reading free. */
function createBytes(): Bytes {
  let buffer = Buffer.allocUnsafe(256)
  let length = 0
  return {
    get empty() {
      return length === 0
    },
    append(text) {
      const needed = length + text.length * 3
      if (needed > buffer.length) {
        const larger = Buffer.allocUnsafe(Math.max(needed, buffer.length * 2))
        buffer.copy(larger, 0, 0, length)
        buffer = larger
      }
      length += buffer.write(text, length)
    },
    bytes: () => buffer.subarray(0, length),
  }
}
