/**
 * Reads the bodies of vLLM 0.32's two generation routes as they do: unknown keys are ignored, on both. One refuses what does not fit the
 * context; the other refuses only a prompt that does not, inside a stream that was 200, and cuts the output short.
 */
import { isRecord, show } from '../problems.ts'
import type { EngineSampling } from './embedded-sampler.ts'
import { tokensOf } from './tiny-policy.ts'

export type VllmRoute = 'generate' | 'completions'

export interface VllmBody {
  readonly route: VllmRoute
  /** Null: the server makes one up. */
  readonly id: string | null
  readonly promptTokenIds: readonly number[]
  readonly stream: boolean
  readonly logprobs: boolean
  readonly text: boolean
  readonly tokenIds: boolean
  readonly usage: boolean
  readonly keepStopText: boolean
  readonly sampling: EngineSampling
}

export interface VllmRefusal {
  readonly status: 400 | 404
  readonly type: 'Bad Request' | 'BadRequestError' | 'NotFoundError'
  readonly message: string
  /** As an event of a stream that has begun. */
  readonly streamed: boolean
}

export const MODEL = 'tiny-policy'

/** Of the completions route. */
const MAX_STOPS = 4
const DEFAULT_COMPLETION_TOKENS = 16
/** What the tiny policy cannot do is refused aloud. */
const UNSUPPORTED = [
  'bad_words',
  'allowed_token_ids',
  'structured_outputs',
  'use_beam_search',
  'echo',
  'prompt_logprobs',
]

export function readVllmBody(
  route: VllmRoute,
  body: unknown,
  vocabularySize: number,
  contextLength: number,
): VllmBody | VllmRefusal {
  if (!isRecord(body)) return schema('the body is not a JSON object')
  const generate = route === 'generate'
  const prompt = generate ? body.token_ids : body.prompt
  const problems: string[] = []
  const params = generate ? body.sampling_params : body
  if (generate) {
    if (!isTokens(prompt)) problems.push("{'type': 'missing', 'loc': 'body.token_ids', 'msg': 'Field required'}")
    else if (prompt.length === 0) {
      problems.push(
        "{'type': 'too_short', 'loc': 'body.token_ids', 'msg': 'List should have at least 1 item after validation, not 0'}",
      )
    }
    if (!isRecord(params)) problems.push("{'type': 'missing', 'loc': 'body.sampling_params', 'msg': 'Field required'}")
    if (body.output_mode !== undefined && body.output_mode !== 'tokens' && body.output_mode !== 'text') {
      problems.push(
        `{'type': 'literal_error', 'loc': 'body.output_mode', 'msg': "Input should be 'tokens' or 'text'", 'input': ${show(body.output_mode)}}`,
      )
    }
  } else if (prompt !== undefined && typeof prompt !== 'string' && !isTokens(prompt)) {
    problems.push(`{'type': 'list_type', 'loc': 'body.prompt', 'msg': 'Input should be a string or token ids'}`)
  }
  if (problems.length > 0 || !isRecord(params))
    return schema(`${problems.length} validation errors:\n  ${problems.join('\n  ')}`)
  if (!generate && body.model !== undefined && body.model !== null && body.model !== MODEL) {
    const message = `The model \`${String(body.model)}\` does not exist. Valid aliases: ${MODEL}.`
    return { status: 404, type: 'NotFoundError', message, streamed: false }
  }
  const promptTokenIds = typeof prompt === 'string' ? tokensOf(prompt, vocabularySize) : ((prompt ?? []) as number[])
  if (promptTokenIds.length === 0) return bad('You must pass at least one prompt')
  const sampling = readSampling(params, generate ? null : DEFAULT_COMPLETION_TOKENS)
  if (typeof sampling === 'string') return bad(sampling)
  const stream = body.stream === true
  const wrong = valueProblem(params, sampling, generate, vocabularySize)
  if (wrong !== null) return bad(wrong)
  const outside = promptTokenIds.find((token) => token < 0 || token >= vocabularySize)
  if (outside !== undefined) return late(`Token id ${outside} is out of vocabulary`)
  const tooLong = lengthProblem(promptTokenIds.length, sampling.maxNewTokens, contextLength, generate)
  if (tooLong !== null) return late(tooLong)
  return {
    route,
    id: typeof body.request_id === 'string' ? body.request_id : null,
    promptTokenIds,
    stream,
    logprobs: typeof params.logprobs === 'number',
    text: !generate || body.output_mode === 'text',
    tokenIds: generate || body.return_token_ids === true,
    usage: isRecord(body.stream_options) && body.stream_options.include_usage === true,
    keepStopText: params.include_stop_str_in_output === true,
    sampling,
  }

  /** What the generate route finds only after its headers are gone. */
  function late(message: string): VllmRefusal {
    return { status: 400, type: 'BadRequestError', message, streamed: generate && stream }
  }
}

function readSampling(params: Record<string, unknown>, defaultTokens: number | null): EngineSampling | string {
  let wrong: string | null = null
  function take<T>(key: string, fallback: T, expected: string, fits: (value: unknown) => boolean): T {
    const value = params[key]
    if (value === undefined || value === null) return fallback
    if (fits(value)) return value as T
    wrong ??= `${key} should be ${expected}, got ${show(value)}. (parameter=${key})`
    return fallback
  }
  const integer = <T>(key: string, fallback: T) => take<number | T>(key, fallback, 'an integer', Number.isInteger)
  const float = (key: string, fallback: number) => take(key, fallback, 'a number', (value) => typeof value === 'number')
  const listOf = (each: (value: unknown) => boolean) => (value: unknown) => Array.isArray(value) && value.every(each)
  const isText = (value: unknown) => typeof value === 'string'

  const temperature = float('temperature', 1)
  const topK = integer('top_k', 0) as number
  const stop = take<string | string[]>('stop', [], 'a string or a list of them', (value) => {
    return isText(value) || listOf(isText)(value)
  })
  const sampling: EngineSampling = {
    maxNewTokens: integer<number | null>('max_tokens', defaultTokens),
    minNewTokens: integer('min_tokens', 0) as number,
    temperature: temperature >= 0 && temperature < 1e-5 ? 0 : temperature,
    topP: float('top_p', 1),
    topK: topK <= 0 ? Number.POSITIVE_INFINITY : topK,
    minP: float('min_p', 0),
    stop: typeof stop === 'string' ? [stop] : stop,
    stopTokenIds: take<number[]>('stop_token_ids', [], 'a list of integers', listOf(Number.isInteger)),
    ignoreEos: params.ignore_eos === true,
    ignoreStopIds: false,
    minTokensHoldStops: true,
    seed: integer<number | null>('seed', null),
  }
  return wrong ?? sampling
}

function valueProblem(
  params: Record<string, unknown>,
  { maxNewTokens, minNewTokens, temperature, topP, minP, stop }: EngineSampling,
  generate: boolean,
  vocabularySize: number,
): string | null {
  if (maxNewTokens !== null && maxNewTokens < 1)
    return `max_tokens must be at least 1, got ${maxNewTokens}. (parameter=max_tokens, value=${maxNewTokens})`
  if (minNewTokens < 0) return `min_tokens must be greater than or equal to 0, got ${minNewTokens}.`
  if (maxNewTokens !== null && minNewTokens > maxNewTokens)
    return `min_tokens must be less than or equal to max_tokens=${maxNewTokens}, got ${minNewTokens}.`
  if (!(temperature >= 0 && temperature <= 2)) return `temperature must be in [0, 2], got ${temperature}.`
  if (!(topP > 0 && topP <= 1)) return `top_p must be in (0, 1], got ${topP}.`
  if (!(minP >= 0 && minP <= 1)) return `min_p must be in [0, 1], got ${minP}.`
  if (!generate && stop.length > MAX_STOPS)
    return `1 validation error: List should have at most ${MAX_STOPS} items after validation, not ${stop.length}`
  const { logit_bias: bias, n } = params
  if (isRecord(bias)) {
    const outside = Object.keys(bias).filter((token) => !(Number(token) >= 0 && Number(token) < vocabularySize))
    if (outside.length === 0) return 'the embedded engine has no logit_bias.'
    return `token_id(s) [${outside.join(', ')}] in logit_bias contain out-of-vocab token ids. Vocabulary size: ${vocabularySize} (parameter=logit_bias, value=[${outside.join(', ')}])`
  }
  if (n !== undefined && n !== null && n !== 1)
    return `the embedded engine generates one sequence per request (n = 1), got n = ${show(n)}.`
  const penalties = { frequency_penalty: 0, presence_penalty: 0, repetition_penalty: 1 }
  for (const [key, neutral] of Object.entries(penalties)) {
    if (params[key] !== undefined && params[key] !== null && params[key] !== neutral)
      return `the embedded engine has no ${key}.`
  }
  const unsupported = UNSUPPORTED.find(
    (key) => params[key] !== undefined && params[key] !== null && params[key] !== false,
  )
  return unsupported === undefined ? null : `the embedded engine has no ${unsupported}.`
}

function lengthProblem(
  promptTokens: number,
  maxNewTokens: number | null,
  contextLength: number,
  generate: boolean,
): string | null {
  if (generate) {
    if (promptTokens <= contextLength) return null
    return `The decoder prompt (length ${promptTokens}) is longer than the maximum model length of ${contextLength}. Make sure that \`max_model_len\` is no smaller than the number of text tokens.`
  }
  if (maxNewTokens !== null && maxNewTokens > contextLength)
    return `max_tokens=${maxNewTokens} cannot be greater than max_model_len=${contextLength}. Please request fewer output tokens. (parameter=max_tokens, value=${maxNewTokens})`
  if (promptTokens + (maxNewTokens ?? 1) <= contextLength) return null
  return `This model's maximum context length is ${contextLength} tokens. However, you requested ${maxNewTokens ?? 1} output tokens and your prompt contains ${promptTokens} input tokens. Please reduce the length of the input prompt or the number of requested output tokens. (parameter=input_tokens, value=${promptTokens})`
}

function isTokens(value: unknown): value is number[] {
  return Array.isArray(value) && value.every(Number.isInteger)
}

function schema(message: string): VllmRefusal {
  return { status: 400, type: 'Bad Request', message, streamed: false }
}

function bad(message: string): VllmRefusal {
  return { status: 400, type: 'BadRequestError', message, streamed: false }
}
