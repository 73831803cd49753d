/**
 * The body of llama-server's `POST /completion`. Every sampling default is spelled out, because the server's own cut the distribution
 * (top-k 40, top-p 0.95, min-p 0.05), and so is the order of the samplers: by default it truncates before it divides by the temperature,
 * the other engines after.
 */
import type { CheckedSampling } from '../rollout/task.ts'
import type { GenerateRequest } from './driver.ts'

export const COMPLETION = '/completion'

/** Seeds are signed 32 bits there, and -1 means a random one. */
const SEEDS = 2 ** 31

/** JSON text. */
export function completionBody({ prompt, sampling }: GenerateRequest): string {
  const rest = JSON.stringify({
    stream: true,
    n_predict: sampling.maxTokens,
    samplers: ['temperature', 'top_k', 'top_p', 'min_p'],
    temperature: sampling.temperature,
    top_k: Math.max(0, sampling.topK),
    top_p: sampling.topP,
    min_p: sampling.minP,
    repeat_penalty: 1,
    frequency_penalty: 0,
    presence_penalty: 0,
    ignore_eos: sampling.ignoreEos,
    // Of the sampled token only.
    n_probs: 1,
    post_sampling_probs: isReshaped(sampling),
    return_tokens: true,
    cache_prompt: true,
    ...(sampling.seed === null ? {} : { seed: sampling.seed % SEEDS }),
  })
  // Joined by hand: JSON.stringify would write an Int32Array as an object.
  const input = typeof prompt === 'string' ? JSON.stringify(prompt) : `[${(prompt as readonly number[]).join(',')}]`
  return `{"prompt":${input},${rest.slice(1)}`
}

/**
 * True where the sampled distribution is not that of the logits: then probabilities are asked for as they are after all samplers.
 * Greedy choice has no distribution to speak of; it reports that of the logits, as the other engines do.
 */
function isReshaped({ temperature, topP, topK, minP, ignoreEos }: CheckedSampling): boolean {
  if (temperature === 0) return false
  // It ends no sample past the end-of-sequence token: it never samples that token.
  return temperature !== 1 || topP < 1 || topK > 0 || minP > 0 || ignoreEos
}
