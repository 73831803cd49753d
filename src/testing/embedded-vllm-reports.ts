/**
 * What an embedded vLLM says about itself. Its gauges move with its steps, so that requests which arrive at a paused server are in none.
 */
import type { EngineCounters } from './embedded-engine.ts'
import type { CheckedEngineOptions } from './embedded-options.ts'
import { MODEL } from './embedded-vllm-request.ts'

const VERSION = '0.32.0'

export interface VllmReports {
  version(): object
  serverInfo(): object
  models(): object
  /** Prometheus text. */
  metrics(paused: VllmPause | null): string
}

/** What the gauges said when a pause began, and say until it ends. */
export interface VllmPause {
  /** Requests that ran, where they were kept. */
  readonly kept: number | null
  readonly waiting: number
}

export function createVllmReports(options: CheckedEngineOptions, counters: EngineCounters): VllmReports {
  const { capacity, contextLength } = options
  const startedAt = Math.floor(Date.now() / 1000)
  return {
    version: () => ({ version: VERSION }),
    serverInfo: () => ({
      vllm_config: {
        model_config: {
          model: MODEL,
          tokenizer: MODEL,
          dtype: 'float64',
          seed: options.seed,
          max_model_len: contextLength,
          max_logprobs: 20,
          logprobs_mode: options.logprobsMode,
          skip_tokenizer_init: false,
          enable_sleep_mode: options.memorySaver,
          served_model_name: MODEL,
        },
        scheduler_config: {
          runner_type: 'generate',
          max_num_seqs: capacity,
          max_num_queued_reqs: Number.isFinite(options.maxQueued) ? capacity + options.maxQueued : null,
          policy: 'fcfs',
          stream_interval: options.streamInterval,
        },
        parallel_config: { data_parallel_size: 1 },
      },
      vllm_env: { VLLM_SERVER_DEV_MODE: options.devMode },
      system_env: {},
    }),
    models: () => ({
      object: 'list',
      data: [
        {
          id: MODEL,
          object: 'model',
          created: startedAt,
          owned_by: 'vllm',
          root: MODEL,
          parent: null,
          max_model_len: contextLength,
        },
      ],
    }),
    metrics(paused) {
      const kept = paused?.kept ?? null
      const running = kept === null ? counters.running : Math.min(kept, counters.running + counters.waiting)
      const waiting = paused === null ? counters.waiting : Math.min(paused.waiting, counters.waiting)
      const labels = `{engine="0",model_name="${MODEL}"}`
      const line = (name: string, type: string, value: number) =>
        `# TYPE vllm:${name} ${type}\nvllm:${name}${labels} ${value.toFixed(1)}\n`
      return [
        line('num_requests_running', 'gauge', running),
        line('num_requests_waiting', 'gauge', waiting),
        line('num_preemptions_total', 'counter', counters.retractions),
        line('prompt_tokens_total', 'counter', counters.promptTokens),
        line('prompt_tokens_cached_total', 'counter', counters.cachedTokens),
        line('generation_tokens_total', 'counter', counters.tokensGenerated),
        line('iteration_tokens_total_count', 'counter', counters.steps),
      ].join('')
    },
  }
}
