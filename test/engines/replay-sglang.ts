/**
 * A server that says what a real SGLang said (fixtures, recorded by test/e2e/engines/record-sglang.mjs), and a driver for it.
 */
import { createSglangDriver } from '../../src/engines/sglang.ts'
import { options, type Recorded, recorded, replay, serve } from './fake-server.ts'

/** How the server was started: without and with `--incremental-streaming-output`. */
export const forms = ['cumulative', 'deltas'] as const

/** A server that says what a real SGLang said, by route; `changed` routes say something else. */
export async function replaying(
  form: (typeof forms)[number],
  changed: Record<string, Partial<Recorded> | string | null> = {},
) {
  const said = recorded(`sglang-${form}`)
  const routes: Record<string, string> = {
    'GET /server_info': 'serverInfo',
    'GET /model_info': 'modelInfo',
    'GET /v1/loads?include=core': 'loads',
    'GET /v1/models': 'models',
    'GET /ready': 'ready',
    'POST /v1/completions': 'vocabulary',
    'POST /generate': 'generate',
    'POST /tokenize': 'tokenize',
    'POST /abort_request': 'abortUnknown',
    'POST /pause_generation': 'pause',
    'POST /continue_generation': 'resume',
    'POST /flush_cache': 'flush',
    'POST /update_weights_from_disk': 'update',
  }
  const server = await serve((request, response) => {
    const route = `${request.method} ${request.url}`
    const change = changed[route]
    const name = typeof change === 'string' ? change : (routes[route] ?? 'notFound')
    // A method that the route does not take.
    if (route === 'GET /pause_generation' && change === undefined) return replay(response, NOT_ALLOWED)
    if (change === null) replay(response, recorded('sglang-cumulative')('notFound'))
    else replay(response, { ...recordedOr(said, name), ...(typeof change === 'object' ? change : {}) })
  })
  return { server, driver: createSglangDriver(options(server.url)) }
}

const NOT_ALLOWED: Recorded = { status: 405, type: 'application/json', body: '{"detail":"Method Not Allowed"}' }

/** The deltas server was asked only what depends on its form; the rest is the other one's answer. */
export function recordedOr(said: (name: string) => Recorded, name: string): Recorded {
  try {
    return said(name)
  } catch {
    return recorded('sglang-cumulative')(name)
  }
}
