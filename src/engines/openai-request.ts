/**
 * Bodies of the two OpenAI routes, with nothing in them that a compatible server may not know, unless its probe proved that it takes
 * and returns token ids: such a server (vLLM, SGLang) knows their other fields too.
 */
import { type CheckedSampling, isTokenIds } from '../rollout/task.ts'
import type { GenerateRequest } from './driver.ts'

export const COMPLETIONS = '/v1/completions'
export const CHAT = '/v1/chat/completions'

export type OpenaiRoute = typeof COMPLETIONS | typeof CHAT

/** What the probe found out. */
export interface OpenaiWays {
  readonly model: string
  readonly completions: boolean
  /** Takes and returns token ids, with their log-probabilities, on the completions route. */
  readonly tokenIds: boolean
}

/** Chat messages have a route of their own. */
export function routeOf(prompt: GenerateRequest['prompt']): OpenaiRoute {
  return typeof prompt === 'string' || isTokenIds(prompt) ? COMPLETIONS : CHAT
}

/** What is wrong with a request for a server of these ways, or null. */
export function problemOf(
  { prompt, sampling }: Pick<GenerateRequest, 'prompt' | 'sampling'>,
  ways: OpenaiWays,
): string | null {
  const route = routeOf(prompt)
  if (typeof prompt !== 'string' && isTokenIds(prompt) && !ways.tokenIds)
    return 'expected text or chat messages, found token ids, which this server did not return when it was asked to; send the prompt as text, or use the engine of the server itself'
  if (route === COMPLETIONS && !ways.completions)
    return 'expected chat messages, found text, for which this server has no route; send chat messages'
  if (route === COMPLETIONS && ways.tokenIds) return null
  const { topK, minP, minTokens, stopTokenIds, ignoreEos } = sampling
  const asked = Object.entries({
    topK: topK > 0,
    minP: minP > 0,
    minTokens: minTokens > 0,
    stopTokenIds: stopTokenIds.length > 0,
    ignoreEos,
  })
  const found = asked.filter(([, set]) => set).map(([name]) => name)
  if (found.length === 0) return null
  return `expected sampling that every OpenAI-compatible server knows, found ${found.join(', ')}; leave them out, or use the engine of the server itself`
}

/** JSON text. */
export function openaiBody({ prompt, sampling }: GenerateRequest, { model, tokenIds }: OpenaiWays): string {
  if (routeOf(prompt) === CHAT) return JSON.stringify({ ...common(model, sampling), messages: prompt })
  const extended = tokenIds ? { ...extensions(sampling), return_token_ids: true, logprobs: 1 } : {}
  const rest = JSON.stringify({ ...common(model, sampling), ...extended })
  // Joined by hand: JSON.stringify would write an Int32Array as an object.
  const input = typeof prompt === 'string' ? JSON.stringify(prompt) : `[${(prompt as readonly number[]).join(',')}]`
  return `{"prompt":${input},${rest.slice(1)}`
}

function common(model: string, sampling: CheckedSampling): object {
  return {
    model,
    stream: true,
    n: 1,
    max_tokens: sampling.maxTokens,
    temperature: sampling.temperature,
    top_p: sampling.topP,
    ...(sampling.stop.length > 0 ? { stop: sampling.stop } : {}),
    ...(sampling.seed === null ? {} : { seed: sampling.seed }),
  }
}

function extensions({ topK, minP, minTokens, maxTokens, stopTokenIds, ignoreEos }: CheckedSampling): object {
  return {
    top_k: topK,
    min_p: minP,
    min_tokens: Math.min(minTokens, maxTokens),
    stop_token_ids: ignoreEos ? [] : stopTokenIds,
    ignore_eos: ignoreEos,
    skip_special_tokens: false,
    // The text must say what the tokens say; vLLM's word for it, and SGLang's.
    include_stop_str_in_output: true,
    no_stop_trim: true,
  }
}
