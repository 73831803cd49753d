/**
 * What an embedded SGLang says about itself. With real delays the load report is as old as the real one's: up to 15 steps.
 */
import type { EngineCounters } from './embedded-engine.ts'
import type { CheckedEngineOptions } from './embedded-options.ts'
import type { SglangManager } from './embedded-sglang-manager.ts'

const VERSION = '0.5.23'
const MODEL = 'tiny-policy'
const LOAD_REFRESH_STEPS = 15

export interface SglangReports {
  /** Called after steps: refreshes what the real server refreshes then. */
  stepped(): void
  serverInfo(): object
  modelInfo(): object
  loads(): object
  models(): object
  /** Prometheus text. */
  metrics(): string
}

export function createSglangReports(
  options: CheckedEngineOptions,
  counters: EngineCounters,
  manager: SglangManager,
): SglangReports {
  const { capacity, contextLength, realDelays } = options
  const startedAt = Date.now()
  // One token of room per sequence and position: the pool never binds before the slots do.
  const poolTokens = capacity * contextLength
  let snapshot = { running: 0, waiting: 0, steps: 0, tokensGenerated: 0 }

  function look(): typeof snapshot {
    return realDelays ? snapshot : counters
  }

  return {
    stepped() {
      const { running, waiting, steps, tokensGenerated } = counters
      if (realDelays && (steps - snapshot.steps >= LOAD_REFRESH_STEPS || running === 0))
        snapshot = { running, waiting, steps, tokensGenerated }
    },
    serverInfo: () => ({
      model_path: MODEL,
      tokenizer_path: MODEL,
      served_model_name: MODEL,
      host: options.host,
      device: 'embedded',
      dtype: 'float64',
      random_seed: options.seed,
      context_length: contextLength,
      max_running_requests: capacity,
      max_queued_requests: Number.isFinite(options.maxQueued) ? options.maxQueued : null,
      tp_size: 1,
      dp_size: 1,
      // Later versions are in /model_info only: this is the value of the start.
      weight_version: options.weightVersion,
      incremental_streaming_output: options.incremental,
      stream_interval: options.streamInterval,
      skip_tokenizer_init: false,
      enable_metrics: true,
      enable_memory_saver: options.memorySaver,
      enable_weights_cpu_backup: options.weightsBackup,
      enable_deterministic_inference: options.deterministic,
      status: 'ready',
      max_total_num_tokens: poolTokens,
      max_req_input_len: contextLength - 1,
      startup_time: startedAt / 1000,
      internal_states: [
        {
          effective_max_running_requests_per_dp: capacity,
          last_gen_throughput: 0,
          memory_usage: { token_capacity: poolTokens },
        },
      ],
      version: VERSION,
      frontend: 'embedded',
    }),
    modelInfo: () => ({
      model_path: manager.modelPath,
      served_model_name: MODEL,
      tokenizer_path: MODEL,
      is_generation: true,
      preferred_sampling_params: null,
      weight_version: manager.weightVersion,
      load_format: 'auto',
      reasoning_parser: null,
      tool_call_parser: null,
      disaggregation_mode: 'null',
      has_image_understanding: false,
      has_audio_understanding: false,
      model_type: 'tiny_policy',
      architectures: ['TinyPolicy'],
    }),
    loads() {
      const { running, waiting, steps, tokensGenerated } = look()
      const load = {
        timestamp: Date.now() / 1000,
        dp_rank: 0,
        num_running_reqs: running,
        num_waiting_reqs: waiting,
        num_used_tokens: 0,
        num_total_tokens: 0,
        max_total_num_tokens: poolTokens,
        max_running_requests: capacity,
        token_usage: 0,
        gen_throughput: 0,
        cache_hit_rate: counters.promptTokens === 0 ? 0 : counters.cachedTokens / counters.promptTokens,
        utilization: running / capacity,
        // Sums over steps: of 1, batch, time, batch squared, batch by time, and tokens.
        decode_moments: steps === 0 ? null : [steps, tokensGenerated, 0, 0, 0, tokensGenerated],
      }
      return {
        timestamp: new Date().toISOString(),
        version: VERSION,
        accelerator: null,
        num_accelerators: 1,
        loads: [load],
      }
    },
    models: () => ({
      object: 'list',
      data: [
        {
          id: MODEL,
          object: 'model',
          created: Math.floor(startedAt / 1000),
          owned_by: 'sglang',
          root: MODEL,
          parent: null,
          max_model_len: contextLength,
        },
      ],
    }),
    metrics() {
      const { running, waiting } = look()
      const labels = `{engine_type="unified",model_name="${MODEL}"}`
      const line = (name: string, type: string, value: number) =>
        `# TYPE sglang:${name} ${type}\nsglang:${name}${labels} ${value}\n`
      return [
        line('num_running_reqs', 'gauge', running),
        line('num_queue_reqs', 'gauge', waiting),
        line('num_retracted_reqs', 'gauge', counters.retractions),
        line('max_total_num_tokens', 'gauge', poolTokens),
        line('prompt_tokens_total', 'counter', counters.promptTokens),
        // Counted when a request ends.
        line('generation_tokens_total', 'counter', counters.tokensEnded),
        line('cached_tokens_total', 'counter', counters.cachedTokens),
        line('num_requests_total', 'counter', counters.requests),
        line('num_aborted_requests_total', 'counter', counters.aborted),
      ].join('')
    },
  }
}
