/**
 * Reads the bodies of the two OpenAI routes. What the protocol does not know is ignored, token ids included: a prompt of them is refused.
 */
import { isRecord } from '../problems.ts'
import type { EngineSampling } from './embedded-sampler.ts'
import { tokensOf } from './tiny-policy.ts'

export const MODEL = 'embedded'

export type OpenaiKind = 'completions' | 'chat'

export interface OpenaiBody {
  readonly kind: OpenaiKind
  readonly promptTokenIds: readonly number[]
  readonly stream: boolean
  readonly usage: boolean
  readonly logprobs: boolean
  readonly sampling: EngineSampling
}

export interface OpenaiRefusal {
  readonly status: number
  readonly type: string
  readonly message: string
  readonly code: string | null
}

/** What the completions route generates unless told otherwise. */
const COMPLETION_TOKENS = 16

export function readOpenaiBody(
  kind: OpenaiKind,
  body: unknown,
  vocabularySize: number,
  contextLength: number,
): OpenaiBody | OpenaiRefusal {
  const refuse = (message: string, code: string | null = null): OpenaiRefusal => {
    return { status: 400, type: 'invalid_request_error', message, code }
  }
  if (!isRecord(body)) return refuse('We could not parse the JSON body of your request.')
  if (body.model !== MODEL) {
    const message = `The model \`${String(body.model)}\` does not exist`
    return { status: 404, type: 'invalid_request_error', message, code: 'model_not_found' }
  }
  const text = kind === 'chat' ? textOfMessages(body.messages) : body.prompt
  if (typeof text !== 'string' || text === '')
    return refuse(kind === 'chat' ? "Invalid type for 'messages'" : "Invalid type for 'prompt': expected a string")
  const number = (key: string, fallback: number): number =>
    typeof body[key] === 'number' ? (body[key] as number) : fallback
  const promptTokenIds = tokensOf(text, vocabularySize)
  const room = contextLength - promptTokenIds.length
  const asked = number('max_tokens', number('max_completion_tokens', kind === 'chat' ? room : COMPLETION_TOKENS))
  if (asked < 1)
    return refuse(`Invalid 'max_tokens': integer below minimum value. Expected a value >= 1, but got ${asked}`)
  if (asked > room) {
    return refuse(
      `This model's maximum context length is ${contextLength} tokens. However, you requested ${promptTokenIds.length + asked} tokens (${promptTokenIds.length} in the messages, ${asked} in the completion).`,
      'context_length_exceeded',
    )
  }
  const { stop, stream_options: streamOptions, logprobs } = body
  const seed = number('seed', -1)
  return {
    kind,
    promptTokenIds,
    stream: body.stream === true,
    usage: isRecord(streamOptions) && streamOptions.include_usage === true,
    logprobs: logprobs === true || typeof logprobs === 'number',
    sampling: {
      maxNewTokens: asked,
      minNewTokens: 0,
      temperature: number('temperature', 1),
      topP: number('top_p', 1),
      topK: Number.POSITIVE_INFINITY,
      minP: 0,
      stop: typeof stop === 'string' ? [stop] : Array.isArray(stop) ? stop.map(String) : [],
      stopTokenIds: [],
      ignoreEos: false,
      ignoreStopIds: true,
      minTokensHoldStops: false,
      seed: seed < 0 ? null : seed,
    },
  }
}

function textOfMessages(messages: unknown): string | null {
  if (!Array.isArray(messages) || messages.length === 0) return null
  const texts = messages.map((each: unknown) => (isRecord(each) ? each.content : null))
  return texts.every((each) => typeof each === 'string') ? texts.join('') : null
}
