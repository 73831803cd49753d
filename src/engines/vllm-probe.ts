/**
 * What a vLLM server says about itself. Without `VLLM_SERVER_DEV_MODE=1` it says little and can be told nothing; without
 * `--enable-scale-out` it has no route that stamps tokens with versions. What is missing is null, declared, and advised.
 * The requests of a probe are invalid, so that no release runs one.
 */
import type { Probe } from './driver.ts'
import { fault, statusFault } from './faults.ts'
import { sumGauges } from './gauges.ts'
import { asRecord, asRecords, asText, atLeast, type Json, positive } from './json.ts'
import { jsonOf, type Reply, type Transport } from './transport.ts'
import { COMPLETIONS, GENERATE, type Route } from './vllm-request.ts'
import { isUnfinished } from './vllm-update.ts'

/** How to speak to the server, as its probe found it. */
export interface VllmWays {
  readonly route: Route
  /** The generate route can send text beside the ids. */
  readonly text: boolean
  readonly logprobs: boolean
  /** There is a label of the weights, and a route to set it. */
  readonly labelled: boolean
  readonly abortPath: string | null
}

export interface VllmProbe {
  readonly probe: Probe
  readonly ways: VllmWays
}

export const RUNNING = 'vllm:num_requests_running'
export const WAITING = 'vllm:num_requests_waiting'
export const GENERATED = 'vllm:generation_tokens_total'

/** The first answer of `/server_info` looks at the machine, which was seen to take 7 s; later ones take 20 ms. */
const SERVER_INFO_MS = 60_000
/** More than any vocabulary, and the refusal names its size. */
const NO_TOKEN = 2_147_483_647

export async function probeVllm(
  transport: Transport,
  vocabularySize: number | null,
  signal: AbortSignal | undefined,
): Promise<VllmProbe> {
  const { peer } = transport
  const get = (path: string, deadlineMs?: number) =>
    transport.call({ method: 'GET', path, signal, ...(deadlineMs === undefined ? {} : { deadlineMs }) })
  const post = (path: string, body: object) => transport.call({ method: 'POST', path, body, signal })
  const [health, version, models, generate, tokenize, metrics, weights, pausedReply] = await Promise.all([
    get('/health'),
    get('/version'),
    get('/v1/models'),
    post(GENERATE, { token_ids: [], output_mode: '?', sampling_params: {} }),
    post('/tokenize', { prompt: 'a' }),
    get('/metrics'),
    get('/weight_info'),
    get('/is_paused'),
  ])
  const served = recognise(transport, health, version, models)
  const dev = weights.status === 200
  const info = dev ? asRecord(jsonOf(peer, await get('/server_info?config_format=json', SERVER_INFO_MS))) : {}
  const config = asRecord(info.vllm_config)
  const model = asRecord(config.model_config)
  const scaleOut = generate.status === 400 || generate.status === 422
  const gauges = sumGauges(metrics.status === 200 ? metrics.text : '', [RUNNING, WAITING])
  const mode = asText(model.logprobs_mode)
  const isLogits = mode?.endsWith('logits') === true
  const weightVersion = dev ? asText(asRecord(jsonOf(peer, weights)).weight_version) : null
  const abortPath = scaleOut ? '/inference/v1/abort_requests' : dev ? '/abort_requests' : null
  const capacity = positive(asRecord(config.scheduler_config).max_num_seqs)
  const engineVersion = asText(asRecord(jsonOf(peer, version)).version)
  return {
    ways: {
      route: scaleOut ? GENERATE : COMPLETIONS,
      text: generate.text.includes('output_mode') && tokenize.status === 200,
      logprobs: !isLogits,
      labelled: weightVersion !== null,
      abortPath,
    },
    probe: {
      engine: 'vllm',
      engineVersion,
      capacity:
        capacity === null ? null : capacity * (positive(asRecord(config.parallel_config).data_parallel_size) ?? 1),
      weightVersion,
      vocabularySize: vocabularySize ?? vocabularyIn(await post(COMPLETIONS, ASK_VOCABULARY)),
      contextLength: positive(served.max_model_len) ?? positive(model.max_model_len),
      paused: pausedReply.status === 200 && asRecord(jsonOf(peer, pausedReply)).is_paused === true,
      capabilities: {
        tokenIds: true,
        logprobs: isLogits ? 'none' : mode === 'processed_logprobs' ? 'sampled' : 'raw',
        abortById: abortPath !== null,
        versions: weightVersion === null ? 'none' : scaleOut ? 'spans' : 'label',
        updateWeights: dev,
        loadReport: gauges[RUNNING] !== null,
        pause: pausedReply.status !== 200 || !dev ? [] : recomputes(engineVersion) ? ['abort', 'keep'] : ['abort'],
        release: dev && model.enable_sleep_mode === true,
      },
      advice: adviceFor(dev, scaleOut, mode, gauges[RUNNING] !== null, weightVersion),
    },
  }
}

/** The oldest release whose reset of running requests was seen to compute them anew. */
function recomputes(engineVersion: string | null): boolean {
  return engineVersion !== null && atLeast(engineVersion, [0, 32, 0])
}

/** The model of a vLLM that works; anything else is named by what it looks like. */
function recognise({ peer }: Transport, health: Reply, version: Reply, models: Reply): Json {
  for (const reply of [models, version]) {
    if (reply.status === 401 || reply.status === 403 || reply.status >= 500)
      throw statusFault(peer, reply.what, reply.status, reply.headers, reply.text)
  }
  const list = models.status === 200 ? asRecords(asRecord(jsonOf(peer, models)).data) : []
  const owner = list[0]?.owned_by
  if (version.status !== 200 || (owner !== 'vllm' && owner !== undefined)) {
    const looks =
      typeof owner === 'string'
        ? `an OpenAI-compatible server owned by "${owner}"`
        : `status ${version.status} and nothing known`
    throw fault(
      'WRONG_PROTOCOL',
      peer,
      `GET /version: expected a vLLM server, found ${looks}; correct the url, or set the engine that runs there`,
    )
  }
  // The front answers for a while after its engine has died.
  if (health.status === 503) {
    const found = 'GET /health: expected a working engine, found 503: the engine behind it is dead; restart the server'
    throw fault('ENGINE_ERROR', peer, found, { status: 503 })
  }
  return list[0] ?? {}
}

/** No route names the size of the vocabulary. The check of `logit_bias` names it in its refusal, also while paused. */
const ASK_VOCABULARY = { prompt: [1], max_tokens: 1, logit_bias: { [NO_TOKEN]: 0 } }

function vocabularyIn(reply: Reply): number | null {
  const size = reply.status === 400 ? /Vocabulary size: (\d+)/.exec(reply.text)?.[1] : undefined
  return size === undefined ? null : positive(Number(size))
}

function adviceFor(
  dev: boolean,
  scaleOut: boolean,
  mode: string | null,
  loadReport: boolean,
  weightVersion: string | null,
): string[] {
  const advice: string[] = []
  if (!dev) {
    advice.push(
      'start it with VLLM_SERVER_DEV_MODE=1 in its environment, and keep its port private: without it weights cannot be updated, and neither the number of sequences it runs at once nor its --logprobs-mode can be read',
    )
  }
  if (!scaleOut)
    advice.push('start it with --enable-scale-out: without it no token says which weights it was sampled from')
  if (mode === null || mode.startsWith('raw')) {
    const now = mode === null ? 'its log-probabilities are taken to be' : `with ${mode} they are`
    advice.push(
      `start it with --logprobs-mode processed_logprobs: ${now} of the distribution before temperature, so that rollouts at a temperature other than 1 and 0 are refused`,
    )
  } else if (mode !== 'processed_logprobs') {
    advice.push(`start it with --logprobs-mode processed_logprobs: with ${mode} it reports no log-probabilities`)
  }
  if (!loadReport) advice.push('start it without --disable-log-stats: nothing else says how many sequences it runs')
  if (weightVersion !== null && isUnfinished(weightVersion))
    advice.push('restart it: an update of its weights did not end, and what it generates is undefined')
  return advice
}
