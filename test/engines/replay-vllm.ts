/**
 * A server that says what a real vLLM said (fixtures, recorded by test/e2e/engines/record-vllm.mjs), and a driver for it.
 */
import { createVllmDriver } from '../../src/engines/vllm.ts'
import { options, type Recorded, recorded, replay, serve } from './fake-server.ts'

export const said = recorded('vllm-scale-out')

/** How the server was started: with `--enable-scale-out`, or without, when its generate route refuses everything. */
export const routes = ['generate', 'completions'] as const

/** What a server without `--enable-scale-out` answers there. */
export const disabled: Recorded = {
  status: 403,
  type: 'application/json',
  body: '{"error":{"message":"Scale-out endpoints are disabled. Restart vllm serve with --enable-scale-out to enable them.","type":"PermissionDeniedError","param":null,"code":403}}',
}

/** `changed` routes say something else: a recording by name, parts of an answer, or that there is no such route. */
export async function replaying(
  route: (typeof routes)[number],
  changed: Record<string, Partial<Recorded> | string | null> = {},
) {
  const answers: Record<string, string> = {
    'GET /health': 'health',
    'GET /version': 'version',
    'GET /v1/models': 'models',
    'GET /weight_info': 'weightInfo',
    'GET /is_paused': 'isPaused',
    'GET /metrics': 'metrics',
    'GET /server_info?config_format=json': 'serverInfo',
    'POST /inference/v1/generate': 'generate',
    'POST /v1/completions': 'complete',
    'POST /tokenize': 'tokenize',
    'POST /abort_requests': 'abortUnknown',
    'POST /inference/v1/abort_requests': 'abortUnknownScaleOut',
    'POST /resume': 'resume',
    'POST /pause?mode=abort': 'pause',
    'POST /pause?mode=keep': 'pause',
    'POST /reset_prefix_cache': 'flush',
    'POST /reset_prefix_cache?reset_running_requests=true': 'flushKept',
    'POST /collective_rpc': 'update',
  }
  let label = JSON.parse(said('weightInfo').body).weight_version
  const server = await serve((request, response, body) => {
    const line = `${request.method} ${request.url}`
    if (line.includes('/inference/') && route === 'completions') return replay(response, disabled)
    // What a probe asks is no generation.
    if (body.includes('"token_ids":[],')) return replay(response, said('askGenerate'))
    if (body.includes('logit_bias')) return replay(response, said('vocabulary'))
    const change = changed[line]
    if (change === null) return replay(response, said('notFound'))
    if (typeof change === 'string') return replay(response, said(change))
    const json = (value: object) => replay(response, { ...said('version'), body: JSON.stringify(value), ...change })
    if (line === 'POST /update_weight_version') {
      if (typeof change === 'object' && change.status !== undefined) return json({})
      label = JSON.parse(body).new_version
      return json({ success: true, new_version: label })
    }
    if (line === 'GET /weight_info') return json({ weight_version: label })
    replay(response, { ...said(answers[line] ?? 'notFound'), ...change })
  })
  return { server, driver: createVllmDriver(options(server.url)) }
}

/** A driver that has found its route. */
export async function probed(...how: Parameters<typeof replaying>) {
  const found = await replaying(...how)
  await found.driver.probe()
  found.server.requests.length = 0
  return found
}
