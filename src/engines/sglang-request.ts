/**
 * The body of SGLang's `POST /generate`. Every sampling default is spelled out, because the server's own differ (128 tokens)
 * and an operator can change them (`--preferred-sampling-params`).
 */
import type { GenerateRequest } from './driver.ts'

/**
 * Tokens between two events of a server that repeats the whole output in each (decision 25). With at most 64 events
 * what is parsed stays linear in the length up to 16,384 tokens; beyond, an event every 256 tokens shows that the server works.
 * The first token comes at once.
 */
function streamInterval(maxTokens: number): number {
  return Math.min(Math.max(16, Math.ceil(maxTokens / 64)), 256)
}

/** JSON text. `deltas` says that the server was started with `--incremental-streaming-output`. */
export function generateBody({ requestId, prompt, sampling, textBefore }: GenerateRequest, deltas: boolean): string {
  const rest = JSON.stringify({
    rid: requestId,
    stream: true,
    return_logprob: true,
    // Of the output only.
    logprob_start_len: -1,
    top_logprobs_num: 0,
    // Several tokens may come at once, of which one completes a stop string.
    ...(textBefore === undefined ? {} : { return_text_in_logprobs: true }),
    sampling_params: {
      n: 1,
      max_new_tokens: sampling.maxTokens,
      min_new_tokens: Math.min(sampling.minTokens, sampling.maxTokens),
      temperature: sampling.temperature,
      top_p: sampling.topP,
      top_k: sampling.topK,
      min_p: sampling.minP,
      frequency_penalty: 0,
      presence_penalty: 0,
      repetition_penalty: 1,
      stop: sampling.stop,
      stop_token_ids: sampling.stopTokenIds,
      ignore_eos: sampling.ignoreEos,
      // The text must say what the tokens say.
      skip_special_tokens: false,
      spaces_between_special_tokens: true,
      no_stop_trim: true,
      // Signed 64 bits there; read only with --enable-deterministic-inference.
      ...(sampling.seed !== null && Number.isSafeInteger(sampling.seed) ? { sampling_seed: sampling.seed } : {}),
      ...(deltas ? {} : { stream_interval: streamInterval(sampling.maxTokens) }),
    },
  })
  // Joined by hand: JSON.stringify would write an Int32Array as an object.
  const input = typeof prompt === 'string' ? `"text":${JSON.stringify(prompt)}` : `"input_ids":[${prompt.join(',')}]`
  return `{${input},${rest.slice(1)}`
}
