/**
 * What a llama-server says about itself. While it loads its model every route answers 503; the gauges of its load are there only with
 * `--metrics`, its slots unless `--no-slots`. What is missing is null, declared, and advised.
 */
import type { Load, Probe } from './driver.ts'
import { fault, statusFault } from './faults.ts'
import { sumGauges } from './gauges.ts'
import { asRecord, asRecords, asText, positive } from './json.ts'
import { jsonOf, type Reply, type Transport } from './transport.ts'

const RUNNING = 'llamacpp:requests_processing'
const WAITING = 'llamacpp:requests_deferred'
/** Calls of the model, and how many sequences each of them had on average: `tokens_predicted_total` moves only when a request ends. */
const DECODES = 'llamacpp:n_decode_total'
const SEQUENCES = 'llamacpp:n_busy_slots_per_decode'

/** Where its load can be read. The slots do not say how many requests wait for one. */
export type LoadRoute = '/metrics' | '/slots'

export interface LlamaServerProbe {
  readonly probe: Probe
  readonly loadRoute: LoadRoute | null
}

export async function probeLlamaServer(
  transport: Transport,
  signal: AbortSignal | undefined,
): Promise<LlamaServerProbe> {
  const { peer } = transport
  const get = (path: string) => transport.call({ method: 'GET', path, signal })
  const [propsReply, models, metrics, slots] = await Promise.all([
    get('/props'),
    get('/v1/models'),
    get('/metrics'),
    get('/slots'),
  ])
  const props = recognise(transport, propsReply)
  const model = models.status === 200 ? asRecords(asRecord(jsonOf(peer, models)).data)[0] : undefined
  const loadRoute = metrics.status === 200 ? '/metrics' : slots.status === 200 ? '/slots' : null
  const advice: string[] = []
  if (loadRoute !== '/metrics') {
    const now = loadRoute === null ? 'nothing says how many sequences it runs' : 'nothing says how many requests wait'
    advice.push(`start it with --metrics: without it ${now}`)
  }
  return {
    loadRoute,
    probe: {
      engine: 'llama-server',
      engineVersion: asText(props.build_info),
      capacity: positive(props.total_slots),
      weightVersion: null,
      vocabularySize: positive(asRecord(model?.meta).n_vocab),
      contextLength: positive(asRecord(props.default_generation_settings).n_ctx),
      paused: false,
      capabilities: {
        tokenIds: true,
        logprobs: 'sampled',
        abortById: false,
        versions: 'none',
        updateWeights: false,
        loadReport: loadRoute !== null,
        pause: [],
        release: false,
      },
      advice,
    },
  }
}

/** The properties of a llama-server that works; anything else is named by what it answers. */
function recognise({ peer }: Transport, reply: Reply): Readonly<Record<string, unknown>> {
  const { status } = reply
  if (status === 401 || status === 403 || status >= 500)
    throw statusFault(peer, reply.what, status, reply.headers, reply.text)
  const props = status === 200 ? asRecord(jsonOf(peer, reply)) : {}
  if (positive(props.total_slots) !== null) return props
  throw fault(
    'WRONG_PROTOCOL',
    peer,
    `GET /props: expected a llama-server with total_slots, found status ${status} and no such property; correct the url, or set the engine that runs there`,
  )
}

export async function readLoad(transport: Transport, route: LoadRoute, signal: AbortSignal | undefined): Promise<Load> {
  const reply = await transport.call({ method: 'GET', path: route, signal })
  const { peer } = transport
  if (route === '/slots') {
    const slots = asRecords(jsonOf(peer, reply))
    return { running: slots.filter((slot) => slot.is_processing === true).length, waiting: 0 }
  }
  if (reply.status !== 200) throw statusFault(peer, reply.what, reply.status, reply.headers, reply.text)
  const gauges = sumGauges(reply.text, [RUNNING, WAITING, DECODES, SEQUENCES])
  const { [RUNNING]: running, [WAITING]: waiting, [DECODES]: decodes, [SEQUENCES]: sequences } = gauges
  if (running === null) {
    const found = `GET /metrics: expected ${RUNNING}, found no such gauge; check the engine and version of this instance`
    throw fault('WRONG_PROTOCOL', peer, found)
  }
  const load = { running, waiting: waiting ?? 0 }
  return decodes === null ? load : { ...load, generatedTokens: Math.round(decodes * (sequences ?? 1)) }
}
