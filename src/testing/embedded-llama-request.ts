/**
 * Reads the body of llama-server's POST /completion as it does: unknown keys are ignored, and the defaults truncate the distribution.
 */
import { isRecord } from '../problems.ts'
import type { EngineSampling } from './embedded-sampler.ts'
import { tokensOf } from './tiny-policy.ts'

export interface LlamaBody {
  readonly promptTokenIds: readonly number[]
  readonly stream: boolean
  readonly returnTokens: boolean
  readonly probabilities: boolean
  /** Probabilities after all samplers, not of the logits. */
  readonly postSampling: boolean
  /** Seconds of silence before a comment is sent; 0 is never. */
  readonly pingSeconds: number
  readonly sampling: EngineSampling
}

export interface LlamaRefusal {
  readonly status: number
  readonly error: Readonly<Record<string, unknown>>
}

const PING_SECONDS = 30

export function llamaError(
  status: number,
  type: string,
  message: string,
  more: Readonly<Record<string, unknown>> = {},
): LlamaRefusal {
  return { status, error: { code: status, message, type, ...more } }
}

export function readLlamaBody(body: unknown, vocabularySize: number, contextLength: number): LlamaBody | LlamaRefusal {
  const refuse = (message: string) => llamaError(400, 'invalid_request_error', message)
  if (!isRecord(body)) return llamaError(500, 'server_error', 'parse error: syntax error while parsing value')
  const { prompt } = body
  if (prompt === undefined) return refuse('key "prompt" not found')
  const promptTokenIds =
    typeof prompt === 'string' ? tokensOf(prompt, vocabularySize) : Array.isArray(prompt) ? (prompt as unknown[]) : null
  if (promptTokenIds === null || !promptTokenIds.every((id) => Number.isInteger(id)))
    return refuse('"prompt" elements must be a string, a list of tokens, a JSON object containing a prompt string')
  const ids = promptTokenIds as number[]
  if (ids.some((id) => id < 0 || id >= vocabularySize)) return refuse('Prompt contains invalid tokens')
  if (ids.length === 0) return refuse('"prompt" must not be empty')
  if (ids.length >= contextLength) {
    const message = `request (${ids.length} tokens) exceeds the available context size (${contextLength} tokens), try increasing it`
    const sizes = { n_prompt_tokens: ids.length, n_ctx: contextLength }
    return llamaError(400, 'exceed_context_size_error', message, sizes)
  }
  const predict = numberIn(body, 'n_predict', numberIn(body, 'max_tokens', -1))
  if (predict < -1) return refuse(`Value of n_predict is out of range: ${predict}`)
  const topK = numberIn(body, 'top_k', 40)
  const seed = numberIn(body, 'seed', -1)
  const ignoreEos = body.ignore_eos === true
  return {
    promptTokenIds: ids,
    stream: body.stream === true,
    returnTokens: body.return_tokens === true,
    probabilities: numberIn(body, 'n_probs', 0) > 0,
    postSampling: body.post_sampling_probs === true,
    pingSeconds: numberIn(body, 'sse_ping_interval', PING_SECONDS),
    sampling: {
      maxNewTokens: predict < 0 ? null : predict,
      // The end-of-sequence token is never sampled, rather than sampled and passed over.
      minNewTokens: ignoreEos ? Number.MAX_SAFE_INTEGER : 0,
      temperature: Math.max(0, numberIn(body, 'temperature', 0.8)),
      topP: numberIn(body, 'top_p', 0.95),
      topK: topK <= 0 ? Number.POSITIVE_INFINITY : topK,
      minP: numberIn(body, 'min_p', 0.05),
      stop: Array.isArray(body.stop) ? body.stop.filter((each) => typeof each === 'string' && each !== '') : [],
      stopTokenIds: [],
      ignoreEos,
      ignoreStopIds: true,
      minTokensHoldStops: false,
      seed: seed < 0 ? null : seed,
    },
  }
}

function numberIn(body: Readonly<Record<string, unknown>>, key: string, fallback: number): number {
  const value = body[key]
  return typeof value === 'number' ? value : fallback
}
