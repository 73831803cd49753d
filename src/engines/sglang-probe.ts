/**
 * What an SGLang server says about itself, from several routes: `/server_info` keeps start values (never the weights label),
 * `/model_info` keeps the label true, `/v1/loads` knows the scheduler's limits, `/ready` alone knows a pause.
 * Only `/server_info` must be there; anything else missing is null, as documented in Probe.
 */
import type { Probe } from './driver.ts'
import { fault, statusFault } from './faults.ts'
import { asRecord, asRecords, atLeast, type Json, positive } from './json.ts'
import { jsonOf, type Reply, type Transport } from './transport.ts'

export interface SglangProbe {
  readonly probe: Probe
  /** Whether streams carry deltas. */
  readonly deltas: boolean
}

export async function probeSglang(
  transport: Transport,
  vocabularySize: number | null,
  signal: AbortSignal | undefined,
): Promise<SglangProbe> {
  const get = (path: string) => transport.call({ method: 'GET', path, signal })
  const [serverInfo, modelInfo, loadsReply, models, ready, pause] = await Promise.all([
    get('/server_info'),
    get('/model_info'),
    get('/v1/loads?include=core'),
    get('/v1/models'),
    get('/ready'),
    // A method that the route does not take: only whether there is one.
    get('/pause_generation'),
  ])
  const server = recognise(transport, serverInfo, models)
  const model = modelInfo.status === 404 ? {} : asRecord(jsonOf(transport.peer, modelInfo))
  const loads = loadsReply.status === 200 ? asRecords(asRecord(jsonOf(transport.peer, loadsReply)).loads) : []
  const served = models.status === 200 ? asRecords(asRecord(jsonOf(transport.peer, models)).data) : []
  const paused = ready.status === 503
  const engineVersion = typeof server.version === 'string' ? server.version : null
  const deltas = server.incremental_streaming_output === true
  const capacity = capacityOf(server, loads)
  const isRecent = engineVersion !== null && atLeast(engineVersion, SPANS_SINCE)
  return {
    deltas,
    probe: {
      engine: 'sglang',
      engineVersion,
      capacity,
      weightVersion: typeof model.weight_version === 'string' ? model.weight_version : null,
      vocabularySize: paused ? vocabularySize : (vocabularySize ?? (await askVocabularySize(transport, signal))),
      contextLength: positive(served[0]?.max_model_len) ?? positive(server.context_length),
      paused,
      capabilities: {
        tokenIds: true,
        logprobs: 'sampled',
        abortById: true,
        versions: isRecent ? 'spans' : 'label',
        updateWeights: true,
        loadReport: loadsReply.status === 200,
        pause: pause.status !== 405 ? [] : isRecent ? ['abort', 'keep'] : ['abort'],
        release: server.enable_memory_saver === true,
      },
      advice: adviceFor(server, deltas, capacity, engineVersion),
    },
  }
}

/** The oldest release that was seen to send `weight_versions`, and to compute retracted requests anew; older ones that do are read all the same. */
const SPANS_SINCE = [0, 5, 23]

/** The configuration of an SGLang; anything else is named by what it looks like. */
function recognise({ peer }: Transport, reply: Reply, models: Reply): Json {
  if (reply.status === 401 || reply.status === 403 || reply.status >= 500)
    throw statusFault(peer, reply.what, reply.status, reply.headers, reply.text)
  const info = reply.status === 200 ? asRecord(jsonOf(peer, reply)) : {}
  if ('internal_states' in info || 'max_running_requests' in info || 'model_path' in info) return info
  const owner =
    models.status === 200 && models.text.includes('"owned_by"')
      ? asRecords(asRecord(jsonOf(peer, models)).data)[0]?.owned_by
      : undefined
  const looks =
    typeof owner === 'string'
      ? `an OpenAI-compatible server owned by "${owner}"`
      : `status ${reply.status} and nothing known`
  throw fault(
    'WRONG_PROTOCOL',
    peer,
    `GET /server_info: expected an SGLang server, found ${looks}; correct the url, or set the engine that runs there`,
  )
}

/** Per data-parallel rank what its scheduler really allows, else what the load report says, else what the operator asked for. */
function capacityOf(server: Json, loads: readonly Json[]): number | null {
  const perRank = positive(asRecords(server.internal_states)[0]?.effective_max_running_requests_per_dp)
  if (perRank !== null) return perRank * (positive(server.dp_size) ?? 1)
  let sum = 0
  for (const load of loads) sum += positive(load.max_running_requests) ?? 0
  return sum > 0 ? sum : positive(server.max_running_requests)
}

/**
 * No route names the size of the vocabulary, and one id beyond it kills the server. The check of `logit_bias` names it in its refusal.
 * The request is invalid twice, so that no release runs it; it is never sent to a paused server, which would hold it.
 */
async function askVocabularySize(transport: Transport, signal: AbortSignal | undefined): Promise<number | null> {
  const body = { prompt: [1], max_tokens: 1, logit_bias: { 2147483647: 0 }, json_schema: '{}', regex: '.' }
  const reply = await transport.call({ method: 'POST', path: '/v1/completions', body, signal })
  const largest = /logit_bias must has keys in \[0, (\d+)\]/.exec(reply.text)?.[1]
  return largest === undefined ? null : Number(largest) + 1
}

function adviceFor(server: Json, deltas: boolean, capacity: number | null, version: string | null): string[] {
  const advice: string[] = []
  if (!deltas)
    advice.push('start it with --incremental-streaming-output: without it every stream event repeats the whole output')
  if (positive(server.max_running_requests) === null) {
    const now = capacity === null ? 'unknown' : `${capacity}, found by the server itself`
    advice.push(`set --max-running-requests: the number of sequences it runs at once is ${now}`)
  }
  if (server.enable_deterministic_inference === false)
    advice.push('start it with --enable-deterministic-inference if tasks set a seed: seeds are ignored without it')
  if (version !== null && !atLeast(version, SPANS_SINCE))
    advice.push(`update it: ${version} may not say which weights sampled which tokens; ${SPANS_SINCE.join('.')} does`)
  return advice
}
