/**
 * What `run` writes: one JSON line for each sample, or for each request of the OpenAI batch form. The fields that resuming needs come
 * first (output-memory.ts), so that a later run need not parse the rest.
 */
import { hash } from 'node:crypto'
import type { Completion, RolloutError } from '../index.ts'
import type { BatchRequest, PromptLine } from '../input/line-fields.ts'

/** One sample, in our own form. */
export function sampleLine({ id, meta }: PromptLine, sample: number, completion: Completion): string {
  const { outcome, finishReason, text, tokenIds, logprobs, logprobBasis, versions, error, timings } = completion
  return `${JSON.stringify({
    id,
    sample,
    outcome,
    finishReason,
    text,
    tokenIds: Array.from(tokenIds),
    logprobs: Array.from(logprobs),
    logprobBasis,
    versions,
    error: error === null ? null : errorFields(error),
    timings: {
      waitedMs: round(timings.waitedMs),
      firstTokenMs: timings.firstTokenMs === null ? null : round(timings.firstTokenMs),
      totalMs: round(timings.totalMs),
    },
    meta,
  })}\n`
}

/** Clocks know less than they print. */
function round(ms: number): number {
  return Math.round(ms * 100) / 100
}

const FINISH = { stop: 'stop', length: 'length', toolCalls: 'tool_calls' } as const

/** All samples of one request, in the form of the OpenAI batch API. What failed of it is in `error`; the rest is there all the same. */
export function batchLine(
  { id, batch }: PromptLine & { readonly batch: BatchRequest },
  completions: readonly Completion[],
  unixTime: number,
): string {
  const name = hash('sha1', JSON.stringify(id), 'hex').slice(0, 24)
  const completed = completions.filter(({ outcome }) => outcome === 'completed')
  const failed = completions.find(({ outcome }) => outcome !== 'completed')
  const tokens = completed.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0)
  const { promptTokens } = batch
  const body = {
    id: `cmpl-${name}`,
    object: batch.chat ? 'chat.completion' : 'text_completion',
    created: unixTime,
    model: batch.model,
    choices: completed.map((completion) => choice(completion, batch)),
    usage: {
      ...(promptTokens === null ? {} : { prompt_tokens: promptTokens, total_tokens: promptTokens + tokens }),
      completion_tokens: tokens,
    },
  }
  return `${JSON.stringify({
    id: `batch_req_${name}`,
    custom_id: id,
    error: failed === undefined ? null : batchError(failed, completions.length - completed.length),
    response: completed.length === 0 ? null : { status_code: 200, request_id: `req_${name}`, body },
  })}\n`
}

function choice(completion: Completion, { chat, logprobs }: BatchRequest): object {
  const { sample, finishReason, tokenIds } = completion
  const text = completion.text ?? ''
  return {
    index: sample,
    ...(chat ? { message: { role: 'assistant', content: text } } : { text }),
    finish_reason: finishReason === null ? null : FINISH[finishReason],
    logprobs: logprobs ? choiceLogprobs(completion, chat) : null,
    token_ids: Array.from(tokenIds),
  }
}

/** Tokens by id, in the spelling of vLLM and SGLang: engines send ids, and an id has no text of its own. */
function choiceLogprobs({ tokenIds, logprobs }: Completion, chat: boolean): object {
  const names = Array.from(tokenIds, (id) => `token_id:${id}`)
  if (!chat) return { tokens: names, token_logprobs: Array.from(logprobs) }
  return {
    content: names.map((token, index) => ({ token, logprob: logprobs[index] ?? null, bytes: null, top_logprobs: [] })),
  }
}

function batchError(failed: Completion, count: number): object {
  const { code, message } = failed.error ?? { code: failed.outcome, message: `the sample was ${failed.outcome}` }
  return { code, message: count === 1 ? message : `${count} samples failed; the first: ${message}` }
}

function errorFields({ code, message, retryable, instance, status }: RolloutError): object {
  return { code, message, retryable, instance: instance ?? null, status: status ?? null }
}
