/**
 * vLLM over the better of its two routes for token ids: `/inference/v1/generate`, whose tokens carry weight versions, where the server
 * was started with `--enable-scale-out`, else `/v1/completions`. Which, its probe finds out. One call is one try (driver.ts).
 * What the routes answer was seen on a real 0.32.0 (test/e2e/engines).
 */
import { generateBy } from './direct.ts'
import type { DriverOptions, EngineDriver } from './driver.ts'
import { fault, statusFault } from './faults.ts'
import { sumGauges } from './gauges.ts'
import { refusesChat } from './refusals.ts'
import { createStopWatch } from './stop-watch.ts'
import { tokenize } from './tokenizer.ts'
import { createTransport } from './transport.ts'
import { createVllmControl } from './vllm-control.ts'
import { vllmDecoder } from './vllm-events.ts'
import { GENERATED, probeVllm, RUNNING, type VllmWays, WAITING } from './vllm-probe.ts'
import { COMPLETIONS, completionsBody, engineIds, GENERATE, generateBody } from './vllm-request.ts'
import { readWeightVersion, updateVllm } from './vllm-update.ts'

export function createVllmDriver(options: DriverOptions): EngineDriver {
  const { clock } = options
  const transport = createTransport(options)
  const { peer } = transport
  /** Of the last probe; before it, what every release has. */
  let ways: VllmWays = {
    route: COMPLETIONS,
    text: false,
    logprobs: true,
    labelled: false,
    abortPath: '/abort_requests',
  }
  let vocabularySize: number | null = null
  const control = createVllmControl(transport)

  return {
    engine: 'vllm',
    async probe(signal) {
      const found = await probeVllm(transport, vocabularySize, signal)
      ways = found.ways
      vocabularySize = found.probe.vocabularySize
      return found.probe
    },
    async load(signal) {
      const reply = await transport.call({ method: 'GET', path: '/metrics', signal })
      if (reply.status !== 200) throw statusFault(peer, reply.what, reply.status, reply.headers, reply.text)
      const gauges = sumGauges(reply.text, [RUNNING, WAITING, GENERATED])
      if (gauges[RUNNING] === null) {
        const found = `GET /metrics: expected ${RUNNING}, found no such gauge; start the server without --disable-log-stats`
        throw fault('WRONG_PROTOCOL', peer, found)
      }
      const load = { running: gauges[RUNNING], waiting: gauges[WAITING] ?? 0 }
      return gauges[GENERATED] === null ? load : { ...load, generatedTokens: gauges[GENERATED] }
    },
    weightVersion: (signal) => readWeightVersion(transport, signal),
    refuses: refusesChat,
    generate: generateBy((request) => {
      const { prompt } = request
      const isText = typeof prompt === 'string'
      // Text has a route of its own; no prompt at all is the server's to refuse.
      const path = isText ? COMPLETIONS : ways.route
      const refusal = refusesChat(request)
      if (refusal !== null) throw fault('REQUEST_REJECTED', peer, `POST ${path}: ${refusal}`)
      const body = path === GENERATE ? generateBody(request, ways.text) : completionsBody(request)
      const { logprobs, labelled: versions } = ways
      const { textBefore, sampling } = request
      const stops = createStopWatch({ textBefore, sampling, finds: 'begunBefore', heedsMinTokens: true })
      const decoder = vllmDecoder({ peer, route: path, logprobs, versions, stops })
      return { transport, clock, path, body, decoder }
    }),
    async abort(requestId, signal) {
      const path = ways.abortPath ?? '/abort_requests'
      const body = { request_ids: engineIds(requestId) }
      const reply = await transport.call({ method: 'POST', path, body, signal })
      if (reply.status !== 200) throw statusFault(peer, reply.what, reply.status, reply.headers, reply.text)
    },
    pause: control.pause,
    resume: control.resume,
    updateWeights: (update, signal) => updateVllm(transport, control, update, signal),
    flush: control.flush,
    release: control.release,
    reclaim: control.reclaim,
    tokenize: (prompt, signal) => tokenize(transport, prompt, signal),
    onHangUp: (listener) => transport.onHangUp(listener),
    close: () => transport.close(),
  }
}
