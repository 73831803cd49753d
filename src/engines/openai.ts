/**
 * Any OpenAI-compatible server, by what all of them have: `/v1/models`, `/v1/completions` for text, `/v1/chat/completions` for messages.
 * There are no token ids unless the server proves that it has them (`return_token_ids`), so that an interrupted sample begins again;
 * no ids of requests, no capacity, no load, no weights. One call is one try (driver.ts).
 */
import { generateBy } from './direct.ts'
import type { DriverOptions, EngineDriver } from './driver.ts'
import { fault } from './faults.ts'
import { openaiDecoder } from './openai-events.ts'
import { probeOpenai } from './openai-probe.ts'
import { CHAT, type OpenaiWays, openaiBody, problemOf, routeOf } from './openai-request.ts'
import { createStopWatch } from './stop-watch.ts'
import { createTransport } from './transport.ts'

export function createOpenaiDriver(options: DriverOptions): EngineDriver {
  const { clock, model } = options
  const transport = createTransport(options)
  const { peer } = transport
  /** Of the last probe that the server was not too busy to answer. */
  let known: OpenaiWays | null = null
  let ways: OpenaiWays = { model: model ?? '', completions: true, tokenIds: false }

  return {
    engine: 'openai',
    async probe(signal) {
      const found = await probeOpenai(transport, model, known, signal)
      ways = found.ways
      if (found.certain) known = ways
      return found.probe
    },
    load() {
      const found =
        'expected a report of its load, found no route for one in this protocol; use the engine of the server itself'
      return Promise.reject(fault('WRONG_PROTOCOL', peer, found))
    },
    weightVersion: () => Promise.resolve(null),
    refuses: (request) => problemOf(request, ways),
    generate: generateBy((request) => {
      const { prompt } = request
      const path = routeOf(prompt)
      const problem = problemOf(request, ways)
      if (problem !== null) throw fault('REQUEST_REJECTED', peer, `POST ${path}: ${problem}`)
      const { textBefore, sampling } = request
      const stops = createStopWatch({ textBefore, sampling, finds: 'begunBefore', heedsMinTokens: true })
      const decoder = openaiDecoder(peer, path, path !== CHAT && ways.tokenIds, stops)
      return { transport, clock, path, body: openaiBody(request, ways), decoder }
    }),
    /** There is no route for this: closing the socket of the stream ends the request, on servers that look. */
    abort: () => Promise.resolve(),
    /** It is never paused. */
    resume: () => Promise.resolve(),
    updateWeights({ version }) {
      const found = `expected a server that can load weights while it runs, found a protocol without a route for that; for version ${version} update with a function of your own ("apply"), or use the engine of the server itself`
      return Promise.reject(fault('UPDATE_FAILED', peer, found))
    },
    onHangUp: (listener) => transport.onHangUp(listener),
    close: () => transport.close(),
  }
}
