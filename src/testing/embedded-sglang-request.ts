/**
 * Reads the body of POST /generate as SGLang 0.5.23 does: unknown keys of the request are ignored, unknown sampling keys are not.
 * Three kinds of refusal come out, because the real server words them in three ways.
 */
import { isRecord, show } from '../problems.ts'
import type { EngineSampling } from './embedded-sampler.ts'
import { tokensOf } from './tiny-policy.ts'

export interface GenerateBody {
  /** Null: the server makes one up. */
  readonly id: string | null
  readonly promptTokenIds: readonly number[]
  readonly stream: boolean
  readonly logprobs: boolean
  /** The text of each token beside its log-probability. */
  readonly texts: boolean
  readonly sampling: EngineSampling
  readonly noStopTrim: boolean
  readonly streamInterval: number | null
}

export type Refusal =
  /** 400 before the stream begins; body {"object":"error",...}. */
  | { readonly kind: 'schema'; readonly message: string }
  /** 400 before the stream begins; body {"error":"..."}. */
  | { readonly kind: 'contract'; readonly message: string }
  /** 400 {"error":{"message"}}, or an event of a stream that is 200. */
  | { readonly kind: 'value'; readonly message: string; readonly stream: boolean }

const SAMPLING_KEYS = [
  'max_new_tokens',
  'stop',
  'stop_token_ids',
  'stop_regex',
  'temperature',
  'top_p',
  'top_k',
  'min_p',
  'frequency_penalty',
  'presence_penalty',
  'repetition_penalty',
  'min_new_tokens',
  'n',
  'json_schema',
  'regex',
  'ebnf',
  'structural_tag',
  'ignore_eos',
  'skip_special_tokens',
  'spaces_between_special_tokens',
  'no_stop_trim',
  'stream_interval',
  'logit_bias',
  'sampling_seed',
  'custom_params',
  'beam_width',
  'watermark',
  'choice',
]

/** What the tiny policy cannot do is refused aloud. */
const UNSUPPORTED = [
  'stop_regex',
  'json_schema',
  'regex',
  'ebnf',
  'structural_tag',
  'logit_bias',
  'beam_width',
  'watermark',
]

export function readGenerateBody(body: unknown, vocabularySize: number): GenerateBody | Refusal {
  if (!isRecord(body)) return schema('the body is not a JSON object')
  const { rid, input_ids: inputIds, text, sampling_params: params } = body
  if (rid !== undefined && rid !== null && typeof rid !== 'string')
    return schema(`rid: expected a string, found ${show(rid)}`)
  if (text !== undefined && text !== null && typeof text !== 'string')
    return schema(`text: expected a string, found ${show(text)}`)
  if (
    inputIds !== undefined &&
    inputIds !== null &&
    !(Array.isArray(inputIds) && inputIds.every((id) => Number.isInteger(id)))
  ) {
    return schema(`input_ids: expected a list of integers, found ${show(inputIds)}`)
  }
  if (params !== undefined && params !== null && !isRecord(params))
    return schema(`sampling_params: expected an object, found ${show(params)}`)
  for (const key of ['stream', 'return_logprob', 'return_text_in_logprobs']) {
    if (body[key] !== undefined && body[key] !== null && typeof body[key] !== 'boolean')
      return schema(`${key}: expected a boolean, found ${show(body[key])}`)
  }
  const stream = body.stream === true
  const sampling = readSampling(isRecord(params) ? params : {})
  if (typeof sampling === 'string') return { kind: 'contract', message: sampling }

  const value = (message: string): Refusal => ({ kind: 'value', message, stream })
  if (typeof text !== 'string' && !Array.isArray(inputIds))
    return value('At least one of text, input_ids, image, video, or audio should be provided')
  if (typeof text === 'string' && Array.isArray(inputIds))
    return value('text and input_ids cannot be provided at the same time')
  const promptTokenIds: readonly number[] =
    typeof text === 'string' ? tokensOf(text, vocabularySize) : (inputIds as number[])
  if (promptTokenIds.length === 0) return value('The input is empty: at least one token is needed.')
  const problem = problemOf(sampling)
  if (problem !== null) return value(problem)
  return {
    id: typeof rid === 'string' ? rid : null,
    promptTokenIds,
    stream,
    logprobs: body.return_logprob === true,
    texts: body.return_text_in_logprobs === true,
    sampling: sampling.engine,
    noStopTrim: sampling.noStopTrim,
    streamInterval: sampling.streamInterval,
  }
}

interface ReadSampling {
  readonly engine: EngineSampling
  readonly noStopTrim: boolean
  readonly streamInterval: number | null
  readonly n: number
  readonly topK: number
  readonly unsupported: string | null
}

/** The message of a contract error where a key or a type is wrong. */
function readSampling(params: Record<string, unknown>): ReadSampling | string {
  let wrong: string | null = null
  for (const key of Object.keys(params)) {
    if (!SAMPLING_KEYS.includes(key))
      return `unknown field \`${key}\`, expected one of ${SAMPLING_KEYS.map((name) => `\`${name}\``).join(', ')}`
  }
  function take<T>(key: string, fallback: T, expected: string, fits: (value: unknown) => boolean): T {
    const value = params[key]
    if (value === undefined || value === null) return fallback
    if (fits(value)) return value as T
    wrong ??= `invalid type at \`${key}\`: expected ${expected}, found ${show(value)}`
    return fallback
  }
  const integer = (key: string, fallback: number) => take(key, fallback, 'i64', Number.isInteger)
  const float = (key: string, fallback: number) => take(key, fallback, 'f64', (value) => typeof value === 'number')
  const flag = (key: string) => take(key, false, 'a boolean', (value) => typeof value === 'boolean')

  const temperature = float('temperature', 1)
  const topK = integer('top_k', -1)
  const stop = take<string | string[]>('stop', [], 'a string or a list of strings', (value) => {
    return typeof value === 'string' || (Array.isArray(value) && value.every((item) => typeof item === 'string'))
  })
  const stopTokenIds = take<number[]>(
    'stop_token_ids',
    [],
    'a list of i64',
    (value) => Array.isArray(value) && value.every(Number.isInteger),
  )
  const result: ReadSampling = {
    engine: {
      maxNewTokens: params.max_new_tokens === null ? null : integer('max_new_tokens', 128),
      minNewTokens: integer('min_new_tokens', 0),
      // Below this the real server is greedy, too.
      temperature: temperature >= 0 && temperature < 1e-6 ? 0 : temperature,
      topP: float('top_p', 1),
      topK: topK === -1 ? Number.POSITIVE_INFINITY : topK,
      minP: float('min_p', 0),
      stop: typeof stop === 'string' ? [stop] : stop,
      stopTokenIds,
      ignoreEos: flag('ignore_eos'),
      ignoreStopIds: flag('ignore_eos'),
      minTokensHoldStops: false,
      seed: params.sampling_seed === undefined || params.sampling_seed === null ? null : integer('sampling_seed', 0),
    },
    noStopTrim: flag('no_stop_trim'),
    streamInterval:
      params.stream_interval === undefined || params.stream_interval === null ? null : integer('stream_interval', 1),
    n: integer('n', 1),
    topK,
    unsupported: UNSUPPORTED.find((key) => asksFor(params[key])) ?? (penalty(params) ? 'penalties' : null),
  }
  return wrong ?? result
}

function problemOf({ engine, n, topK, unsupported, streamInterval }: ReadSampling): string | null {
  if (!(engine.temperature >= 0)) return `temperature must be a non-negative finite number, got ${engine.temperature}.`
  if (!(engine.topP > 0 && engine.topP <= 1)) return `top_p must be in (0, 1], got ${engine.topP}.`
  if (!(engine.minP >= 0 && engine.minP <= 1)) return `min_p must be in [0, 1], got ${engine.minP}.`
  if (topK !== -1 && topK < 1) return `top_k must be -1 (disable) or at least 1, got ${topK}.`
  if (engine.minNewTokens < 0) return `min_new_tokens must be in [0, max_new_tokens], got ${engine.minNewTokens}.`
  if (engine.maxNewTokens !== null) {
    if (engine.maxNewTokens < 0) return `max_new_tokens must be at least 0, got ${engine.maxNewTokens}.`
    if (engine.minNewTokens > engine.maxNewTokens)
      return `min_new_tokens must be in [0, max_new_tokens(${engine.maxNewTokens})], got ${engine.minNewTokens}.`
  }
  if (engine.stop.length > 32) return `at most 32 stop strings are allowed, got ${engine.stop.length}`
  if (streamInterval !== null && streamInterval < 1) return `stream_interval must be at least 1, got ${streamInterval}.`
  if (n !== 1) return `the embedded engine generates one sequence per request (n = 1), got n = ${n}.`
  if (unsupported !== null) return `the embedded engine has no ${unsupported}.`
  return null
}

function asksFor(value: unknown): boolean {
  if (value === undefined || value === null || value === '') return false
  return !(isRecord(value) && Object.keys(value).length === 0)
}

function penalty(params: Record<string, unknown>): boolean {
  const neutral: Record<string, number> = { frequency_penalty: 0, presence_penalty: 0, repetition_penalty: 1 }
  return Object.entries(neutral).some(
    ([key, value]) => params[key] !== undefined && params[key] !== null && params[key] !== value,
  )
}

function schema(message: string): Refusal {
  return { kind: 'schema', message: `1 validation error: ${message}` }
}
