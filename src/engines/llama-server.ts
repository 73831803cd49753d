/**
 * llama-server (llama.cpp) over its own `POST /completion`, whose tokens have ids; the OpenAI routes' have none. It knows requests only by
 * their sockets, has no pause and no versions, and changes its weights only by a restart. One call is one try (driver.ts).
 * What its routes answer was seen on a real build (test/e2e/engines).
 */
import { generateBy } from './direct.ts'
import type { DriverOptions, EngineDriver, GenerateRequest } from './driver.ts'
import { fault } from './faults.ts'
import { asRecord } from './json.ts'
import { llamaServerDecoder } from './llama-server-events.ts'
import { type LoadRoute, probeLlamaServer, readLoad } from './llama-server-probe.ts'
import { COMPLETION, completionBody } from './llama-server-request.ts'
import { refusesChat } from './refusals.ts'
import { createStopWatch } from './stop-watch.ts'
import { tokenizeDeadlineMs } from './tokenizer.ts'
import { createTransport, jsonOf } from './transport.ts'

export function createLlamaServerDriver(options: DriverOptions): EngineDriver {
  const { clock } = options
  const transport = createTransport(options)
  const { peer } = transport
  /** Of the last probe. */
  let loadRoute: LoadRoute | null = '/metrics'

  return {
    engine: 'llama-server',
    async probe(signal) {
      const found = await probeLlamaServer(transport, signal)
      loadRoute = found.loadRoute
      return found.probe
    },
    load: (signal) => readLoad(transport, loadRoute ?? '/metrics', signal),
    weightVersion: () => Promise.resolve(null),
    refuses,
    generate: generateBy((request) => {
      const refusal = refuses(request)
      if (refusal !== null) throw fault('REQUEST_REJECTED', peer, `POST ${COMPLETION}: ${refusal}`)
      const { textBefore, sampling } = request
      const stops = createStopWatch({ textBefore, sampling, finds: 'all', heedsMinTokens: false })
      const decoder = llamaServerDecoder(peer, sampling, stops)
      return { transport, clock, path: COMPLETION, body: completionBody(request), decoder }
    }),
    /** It has no route for this: closing the socket of the stream ends the request. */
    abort: () => Promise.resolve(),
    /** It is never paused. */
    resume: () => Promise.resolve(),
    updateWeights({ version }) {
      const found = `expected a server that can load weights while it runs, found llama-server; for version ${version} restart it with the new file (--model), or update with a function of your own ("apply") that does`
      return Promise.reject(fault('UPDATE_FAILED', peer, found))
    },
    async tokenize(prompt, signal) {
      const deadlineMs = tokenizeDeadlineMs(prompt)
      const post = async (path: string, body: object) =>
        asRecord(jsonOf(peer, await transport.call({ method: 'POST', path, body, signal, deadlineMs })))
      let content = prompt
      if (typeof content !== 'string') {
        const applied = await post('/apply-template', { messages: content })
        if (typeof applied.prompt !== 'string') throw notFound('/apply-template', 'a prompt', applied.prompt)
        content = applied.prompt
      }
      // As its own routes tokenize a prompt that is text.
      const { tokens } = await post('/tokenize', { content, add_special: true, parse_special: true })
      if (Array.isArray(tokens) && tokens.every((id) => Number.isInteger(id))) return tokens
      throw notFound('/tokenize', 'a list of token ids', tokens)
    },
    onHangUp: (listener) => transport.onHangUp(listener),
    close: () => transport.close(),
  }

  function notFound(path: string, expected: string, found: unknown) {
    const text = `POST ${path}: expected ${expected}, found ${typeof found}; update the server, or send token ids`
    return fault('WRONG_PROTOCOL', peer, text)
  }
}

function refuses(request: Pick<GenerateRequest, 'prompt' | 'sampling'>): string | null {
  const { minTokens } = request.sampling
  if (minTokens === 0) return refusesChat(request)
  const found = `expected minTokens 0, found ${minTokens}: llama-server cannot forbid an early end`
  return `${found}; leave minTokens out, or take ignoreEos`
}
