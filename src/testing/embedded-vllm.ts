/**
 * vLLM 0.32's HTTP, as seen on the real server: routes, bodies, statuses and their quirks. Nothing here makes a weight update whole:
 * reloading leaves every cache as it is, and the label is whatever somebody says last.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { messageOf } from '../errors.ts'
import { isRecord, show } from '../problems.ts'
import type { CoreManners, EngineCore } from './embedded-contract.ts'
import type { EngineCounters } from './embedded-engine.ts'
import { type Dialect, parseJson, readBody, sendJson, sendText } from './embedded-http.ts'
import { createEmbeddedMemory } from './embedded-memory.ts'
import type { CheckedEngineOptions } from './embedded-options.ts'
import { createVllmGenerate, sendVllmError } from './embedded-vllm-generate.ts'
import { createVllmReports, type VllmPause } from './embedded-vllm-reports.ts'
import { loadWeights, tokensOf } from './tiny-policy.ts'

interface Asked {
  readonly body: unknown
  readonly query: URLSearchParams
  readonly request: IncomingMessage
  readonly response: ServerResponse
}

type Handler = (asked: Asked) => void | Promise<void>

const PAUSES = { abort: 'finish', wait: 'finish', keep: 'keep' } as const
const GUARDED = /^\/(v1|v2|inference)/
const DISABLED = 'Scale-out endpoints are disabled. Restart vllm serve with --enable-scale-out to enable them.'

export function vllmManners({ logprobsMode }: CheckedEngineOptions): CoreManners {
  return {
    logprobs: logprobsMode === 'processed_logprobs' ? 'processed' : 'raw',
    seeds: 'byRequest',
    reservedTokens: 0,
    abortsAtOnce: true,
  }
}

export function createVllmDialect(
  core: EngineCore,
  options: CheckedEngineOptions,
  counters: EngineCounters,
  die: () => void,
): Dialect {
  const reports = createVllmReports(options, counters)
  const generating = createVllmGenerate(core, options, counters, die)
  const memory = createEmbeddedMemory(core)
  let paused: VllmPause | null = null
  let whenDrained: (() => void)[] = []

  function drained(): Promise<void> {
    return counters.running === 0 ? Promise.resolve() : new Promise((resolve) => whenDrained.push(resolve))
  }

  async function pause(asked: Asked): Promise<void> {
    if (await hold(asked)) sendJson(asked.response, 200, { status: 'paused' })
  }

  /** False when it has refused. */
  async function hold({ query, response }: Asked): Promise<boolean> {
    const mode = query.get('mode') ?? 'abort'
    if (mode !== 'abort' && mode !== 'wait' && mode !== 'keep') {
      const message = `1 validation error:\n  {'type': 'literal_error', 'loc': 'query.mode', 'msg': "Input should be 'abort', 'wait' or 'keep'", 'input': '${mode}'}`
      sendVllmError(response, 400, 'Bad Request', message, 'query.mode')
      return false
    }
    if (mode === 'abort') core.abortAll()
    core.freeze(PAUSES[mode])
    paused ??= { kept: mode === 'keep' ? counters.running : null, waiting: counters.waiting }
    if (mode === 'wait') await drained()
    if (query.get('clear_cache') !== 'false') {
      // Its own documentation says otherwise: kept requests give their cache back, and are computed anew.
      if (mode === 'keep') core.preempt()
      core.flush('ignored')
    }
    return true
  }

  /** Sleeping begins with a pause, and waking ends every pause. */
  async function sleep(asked: Asked): Promise<void> {
    const { query, response } = asked
    const level = Number(query.get('level') ?? 1)
    if (![0, 1, 2].includes(level)) {
      const message = `1 validation error:\n  {'type': 'less_than_equal', 'loc': 'query.level', 'msg': 'Input should be less than or equal to 2', 'input': '${query.get('level')}'}`
      return sendVllmError(response, 400, 'Bad Request', message, 'query.level')
    }
    if (!(await hold(asked))) return
    if (level > 0 && !memory.given) memory.give(level === 1 || !options.memorySaver)
    sendJson(response, 200, { status: 'sleeping', level })
  }

  function abort({ body, response }: Asked): void {
    if (!isRecord(body)) {
      sendVllmError(response, 400, 'Bad Request', 'Invalid JSON format')
      return
    }
    const ids = body.request_ids
    // It claims to have aborted whatever it is given.
    let aborted = generating.live
    if (Array.isArray(ids) && ids.length > 0) {
      aborted = ids.length
      generating.abort(ids.map(String))
    } else {
      core.abortAll()
    }
    sendJson(response, 200, { status: 'aborted', aborted })
  }

  function abortScaleOut({ body, response }: Asked): void {
    const ids = isRecord(body) ? body.request_ids : undefined
    if (!Array.isArray(ids)) {
      sendVllmError(response, 400, 'Bad Request', "Missing 'request_ids' in request body")
      return
    }
    generating.abort(ids.map(String))
    sendText(response, 200, '')
  }

  async function collectiveRpc({ body, response }: Asked): Promise<void> {
    if (!isRecord(body) || typeof body.method !== 'string')
      return sendVllmError(response, 400, 'Bad Request', "Missing 'method' in request body")
    const fail = (error: string) =>
      sendVllmError(
        response,
        500,
        'InternalServerError',
        `Call to collective_rpc method failed: Worker failed with error '${error}', please check the stack trace above for the root cause`,
      )
    if (body.method !== 'reload_weights') return fail(`'Worker' object has no attribute '${body.method}'`)
    const path = isRecord(body.kwargs) ? body.kwargs.weights_path : undefined
    try {
      const weights = await loadWeights(String(path))
      if (weights.vocabularySize !== core.weights.vocabularySize)
        throw new Error(
          `size mismatch: a vocabulary of ${core.weights.vocabularySize} here, of ${weights.vocabularySize} there`,
        )
      core.setWeights(weights)
    } catch (error) {
      generating.breakModel(true)
      return fail(messageOf(error))
    }
    generating.breakModel(false)
    counters.updates++
    sendJson(response, 200, { results: [null] })
  }

  function tokenize({ body, response }: Asked): void {
    const { vocabularySize } = core.weights
    const { prompt, messages } = isRecord(body) ? body : {}
    const text =
      typeof prompt === 'string'
        ? prompt
        : Array.isArray(messages) && messages.every((each) => isRecord(each) && typeof each.content === 'string')
          ? messages.map((each) => (each as { content: string }).content).join('')
          : null
    if (text === null) {
      sendVllmError(response, 400, 'Bad Request', `1 validation error: body.prompt: ${show(prompt)}`, 'body.prompt')
      return
    }
    const tokens = tokensOf(text, vocabularySize)
    sendJson(response, 200, { count: tokens.length, max_model_len: options.contextLength, tokens, token_strs: null })
  }

  const disabled: Handler = ({ response }) => sendVllmError(response, 403, 'PermissionDeniedError', DISABLED)
  const json =
    (make: () => object): Handler =>
    ({ response }) =>
      sendJson(response, 200, make())

  /** By method and path. */
  const routes: Record<string, Handler> = {
    'GET /health': ({ response }) => sendText(response, counters.died ? 503 : 200, ''),
    'GET /ping': ({ response }) => sendText(response, 200, ''),
    'GET /version': json(reports.version),
    'GET /v1/models': json(reports.models),
    'GET /metrics': ({ response }) =>
      sendText(response, 200, reports.metrics(paused), 'text/plain; version=0.0.4; charset=utf-8'),
    'POST /tokenize': tokenize,
    'POST /v1/completions': ({ body, request, response }) =>
      generating.generate('completions', body, request, response),
    'POST /inference/v1/generate': options.scaleOut
      ? ({ body, request, response }) => generating.generate('generate', body, request, response)
      : disabled,
    'POST /inference/v1/abort_requests': options.scaleOut ? abortScaleOut : disabled,
  }
  if (options.devMode) {
    Object.assign(routes, {
      'GET /server_info': ({ query, response }: Asked) => {
        const info = reports.serverInfo()
        const isText = query.get('config_format') !== 'json'
        sendJson(response, 200, isText ? { ...info, vllm_config: 'embedded' } : info)
      },
      'POST /abort_requests': abort,
      'POST /pause': pause,
      'POST /resume': ({ response }: Asked) => {
        paused = null
        core.thaw()
        sendJson(response, 200, { status: 'resumed' })
      },
      'POST /sleep': sleep,
      'POST /wake_up': ({ query, response }: Asked) => {
        memory.take()
        paused = null
        core.thaw()
        const tags = query.getAll('tags')
        sendJson(response, 200, { status: 'awake', tags: tags.length === 0 ? null : tags })
      },
      'GET /is_sleeping': json(() => ({ is_sleeping: paused !== null || memory.given })),
      'GET /is_paused': json(() => ({ is_paused: paused !== null })),
      'POST /reset_prefix_cache': ({ query, response }: Asked) => {
        const preempt = query.get('reset_running_requests') === 'true'
        if (preempt) core.preempt()
        sendJson(response, 200, { success: core.flush('ignored') })
      },
      'POST /collective_rpc': collectiveRpc,
      'GET /weight_info': json(() => ({ weight_version: core.version })),
      'POST /update_weight_version': ({ body, response }: Asked) => {
        const version = isRecord(body) ? body.new_version : undefined
        if (typeof version !== 'string') {
          const message =
            "1 validation error:\n  {'type': 'string_type', 'loc': 'body.new_version', 'msg': 'Input should be a valid string'}"
          sendVllmError(response, 400, 'Bad Request', message, 'body.new_version')
          return
        }
        core.setVersion(version)
        sendJson(response, 200, { success: true, new_version: version })
      },
    } satisfies Record<string, Handler>)
  }
  const paths = new Set(Object.keys(routes).map((route) => route.slice(route.indexOf(' ') + 1)))

  return {
    handle(request, response, path) {
      if (
        options.apiKey !== null &&
        GUARDED.test(path) &&
        request.headers.authorization !== `Bearer ${options.apiKey}`
      ) {
        sendJson(response, 401, { error: 'Unauthorized' })
        request.resume()
        return
      }
      const name = `${request.method} ${path}`
      const handler = Object.hasOwn(routes, name) ? routes[name] : undefined
      if (handler === undefined) {
        const known = paths.has(path)
        sendJson(response, known ? 405 : 404, { detail: known ? 'Method Not Allowed' : 'Not Found' })
        request.resume()
        return
      }
      const query = new URLSearchParams((request.url ?? '').slice(path.length))
      const answering = readBody(request).then((text) => {
        return handler({ body: text === '' ? undefined : parseJson(text), query, request, response })
      })
      // A fault of the engine is an answer of its own, and no end of the process it lives in.
      answering.catch(() => sendText(response, 500, 'Internal Server Error'))
    },
    turnEnded() {
      generating.flush()
      if (whenDrained.length === 0 || counters.running > 0) return
      const waiting = whenDrained
      whenDrained = []
      for (const resolve of waiting) resolve()
    },
    close: () => generating.close(),
  }
}
