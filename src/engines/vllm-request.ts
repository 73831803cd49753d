/**
 * Bodies of vLLM's two generation routes. Every sampling default is spelled out: the server's own come from the model's
 * generation_config.json, and the routes differ (16 tokens on one, all of the context on the other).
 */
import type { CheckedSampling } from '../rollout/task.ts'
import type { GenerateRequest } from './driver.ts'

/** Token ids in and out, with the versions of their weights (`--enable-scale-out`). */
export const GENERATE = '/inference/v1/generate'
export const COMPLETIONS = '/v1/completions'

export type Route = typeof GENERATE | typeof COMPLETIONS

/**
 * The ids under which the engine may know a request: each route makes its own of the one it is sent. It claims to have aborted any
 * id, and ends only what it knows (R4), so all are named.
 */
export function engineIds(requestId: string): string[] {
  return [`generate-tokens-${requestId}`, `cmpl-${requestId}-0`]
}

/** JSON text. `text` asks for the text beside the ids, which a server without a tokenizer refuses. */
export function generateBody({ requestId, prompt, sampling }: GenerateRequest, text: boolean): string {
  const rest = JSON.stringify({
    request_id: requestId,
    stream: true,
    ...(text ? { output_mode: 'text' } : {}),
    sampling_params: { ...samplingOf(sampling), detokenize: text || sampling.stop.length > 0 },
  })
  return `{"token_ids":${idsOf(prompt)},${rest.slice(1)}`
}

/** JSON text. Without `model` the server takes the one it was started with. */
export function completionsBody({ requestId, prompt, sampling }: GenerateRequest): string {
  const rest = JSON.stringify({
    request_id: requestId,
    stream: true,
    return_token_ids: true,
    ...samplingOf(sampling),
  })
  const input = typeof prompt === 'string' ? JSON.stringify(prompt) : idsOf(prompt)
  return `{"prompt":${input},${rest.slice(1)}`
}

function samplingOf(sampling: CheckedSampling): object {
  return {
    n: 1,
    max_tokens: sampling.maxTokens,
    min_tokens: Math.min(sampling.minTokens, sampling.maxTokens),
    temperature: sampling.temperature,
    top_p: sampling.topP,
    top_k: sampling.topK,
    min_p: sampling.minP,
    frequency_penalty: 0,
    presence_penalty: 0,
    repetition_penalty: 1,
    stop: sampling.stop,
    // As on SGLang, and as the supervisor judges the last token of an interrupted sample: who ignores the end ignores these too.
    stop_token_ids: sampling.ignoreEos ? [] : sampling.stopTokenIds,
    ignore_eos: sampling.ignoreEos,
    // The text must say what the tokens say.
    skip_special_tokens: false,
    spaces_between_special_tokens: true,
    include_stop_str_in_output: true,
    // Of the sampled token only.
    logprobs: 0,
    ...(sampling.seed === null ? {} : { seed: sampling.seed }),
  }
}

/** Joined by hand: JSON.stringify would write an Int32Array as an object. */
function idsOf(prompt: GenerateRequest['prompt']): string {
  return `[${(prompt as readonly number[] | Int32Array).join(',')}]`
}
