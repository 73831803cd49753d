/**
 * SGLang 0.5.23's HTTP, as seen on the real server: routes, bodies, statuses and their quirks.
 * What happens behind the routes is in embedded-sglang-manager.ts (gate, lock, updates) and embedded-core.ts (scheduler).
 */
import type { ServerResponse } from 'node:http'
import { isRecord, show } from '../problems.ts'
import type { CoreManners, EngineCore } from './embedded-contract.ts'
import type { EngineCounters } from './embedded-engine.ts'
import { type Dialect, parseJson, readBody, sendJson, sendText } from './embedded-http.ts'
import { createEmbeddedMemory } from './embedded-memory.ts'
import type { CheckedEngineOptions } from './embedded-options.ts'
import { createSglangGenerate, sendError, sendSchemaError } from './embedded-sglang-generate.ts'
import { createSglangManager, type PauseMode } from './embedded-sglang-manager.ts'
import { createSglangReports } from './embedded-sglang-reports.ts'
import { tokensOf } from './tiny-policy.ts'

type Handler = (body: unknown, response: ServerResponse, query: URLSearchParams) => void | Promise<void>

interface Route {
  readonly methods: readonly string[]
  /** A body of JSON is needed, if only `{}`. */
  readonly needsBody: boolean
  readonly handler: Handler
}

const FLUSHED =
  'Cache flushed.\nPlease check backend logs for more details. (When there are running or waiting requests, the operation will not be performed.)\n'
const HEALTH_MS = 1000
const HEALTH_TIMEOUT_MS = 20_000

export function sglangManners({ deterministic }: CheckedEngineOptions): CoreManners {
  return {
    logprobs: 'tempered',
    seeds: deterministic ? 'byPosition' : 'ignored',
    reservedTokens: 1,
    abortsAtOnce: false,
  }
}

export function createSglangDialect(
  core: EngineCore,
  options: CheckedEngineOptions,
  counters: EngineCounters,
  die: () => void,
): Dialect {
  const manager = createSglangManager(core, {
    weightVersion: options.weightVersion,
    realDelays: options.realDelays,
    counters,
  })
  const reports = createSglangReports(options, counters, manager)
  const generating = createSglangGenerate(core, options, counters, manager, die)
  const memory = createEmbeddedMemory(core)
  let whenIdle: (() => void)[] = []

  async function health(_body: unknown, response: ServerResponse): Promise<void> {
    const wait = (delayMs: number) =>
      new Promise<void>((resolve) => manager.after(options.realDelays ? delayMs : 0, resolve))
    await wait(manager.paused ? HEALTH_TIMEOUT_MS : HEALTH_MS)
    sendText(response, manager.paused ? 503 : 200, '')
  }

  async function update(body: unknown, response: ServerResponse): Promise<void> {
    if (!isRecord(body) || typeof body.model_path !== 'string')
      return sendSchemaError(response, 'model_path: expected a string')
    const { weight_version: version = null, flush_cache: flush = true, abort_all_requests: abortAll = false } = body
    if (version !== null && typeof version !== 'string')
      return sendSchemaError(response, `weight_version: expected a string, found ${show(version)}`)
    if (typeof flush !== 'boolean' || typeof abortAll !== 'boolean')
      return sendSchemaError(response, 'flush_cache, abort_all_requests: expected booleans')
    const { success, message } = await manager.update(body.model_path, version, flush, abortAll)
    sendJson(response, success ? 200 : 400, { success, message, num_paused_requests: 0 })
  }

  /** With a timeout it waits for what runs to end. */
  async function flush(_body: unknown, response: ServerResponse, query: URLSearchParams): Promise<void> {
    const timeoutMs = Number(query.get('timeout') ?? 0) * 1000
    let flushed = core.flush()
    if (!flushed && timeoutMs > 0) {
      await new Promise<void>((resolve) => {
        whenIdle.push(resolve)
        manager.after(timeoutMs, resolve)
      })
      flushed = core.flush()
    }
    if (flushed) sendText(response, 200, FLUSHED)
    else sendText(response, 400, timeoutMs > 0 ? 'Timed out waiting for idle state.' : 'Flush cache failed.\n')
  }

  /** The scheduler asserts that it is idle, and ends with its assertion. */
  function release(_body: unknown, response: ServerResponse): void {
    if (counters.running > 0 || (counters.waiting > 0 && !manager.paused)) {
      die()
      return
    }
    // Without the saver it only believes that it gave something.
    memory.give(!options.memorySaver || options.weightsBackup)
    sendJson(response, 200, 'null')
  }

  /** What was never given away it looks up all the same, and ends with that. */
  function reclaim(_body: unknown, response: ServerResponse): void {
    if (memory.given) {
      memory.take()
      sendJson(response, 200, 'null')
    } else {
      die()
    }
  }

  const routes: Record<string, Route> = {
    '/generate': {
      methods: ['POST', 'PUT'],
      needsBody: true,
      handler(body, response) {
        if (memory.given && options.memorySaver && !manager.paused) die()
        else generating.generate(body, response)
      },
    },
    '/release_memory_occupation': { methods: ['GET', 'POST'], needsBody: true, handler: release },
    '/resume_memory_occupation': { methods: ['GET', 'POST'], needsBody: true, handler: reclaim },
    '/abort_request': {
      methods: ['POST'],
      needsBody: true,
      handler(body, response) {
        if (!isRecord(body)) return sendSchemaError(response, 'the body is not a JSON object')
        if (body.abort_all === true) manager.abortAll()
        else if (typeof body.rid === 'string' && body.rid !== '') manager.abort(body.rid)
        sendText(response, 200, '')
      },
    },
    '/pause_generation': {
      methods: ['POST'],
      needsBody: true,
      async handler(body, response) {
        const mode = isRecord(body) ? (body.mode ?? 'abort') : null
        if (mode !== 'abort' && mode !== 'retract' && mode !== 'in_place')
          return sendSchemaError(response, `mode: expected abort, retract or in_place, found ${show(mode)}`)
        await manager.pause(mode satisfies PauseMode)
        sendJson(response, 200, { message: 'Generation paused successfully.', status: 'ok' })
      },
    },
    '/continue_generation': {
      methods: ['POST'],
      needsBody: true,
      async handler(_body, response) {
        await manager.resume()
        sendJson(response, 200, { message: 'Generation continued successfully.', status: 'ok' })
      },
    },
    '/flush_cache': { methods: ['GET', 'POST'], needsBody: false, handler: flush },
    '/update_weights_from_disk': { methods: ['POST'], needsBody: true, handler: update },
    '/update_weight_version': {
      methods: ['POST'],
      needsBody: true,
      handler(body, response) {
        if (!isRecord(body) || typeof body.new_version !== 'string')
          return sendSchemaError(response, 'new_version: expected a string')
        if (body.abort_all_requests !== false) manager.abortAll()
        manager.setVersion(body.new_version)
        sendJson(response, 200, {
          success: true,
          message: `Weight version updated to ${body.new_version}`,
          new_version: body.new_version,
        })
      },
    },
    '/tokenize': { methods: ['POST'], needsBody: true, handler: tokenize },
    '/v1/tokenize': { methods: ['POST'], needsBody: true, handler: tokenize },
    '/health': { methods: ['GET'], needsBody: false, handler: health },
    '/health_generate': { methods: ['GET'], needsBody: false, handler: health },
    '/ready': {
      methods: ['GET'],
      needsBody: false,
      handler: (_body, response) => sendText(response, manager.paused ? 503 : 200, ''),
    },
    '/ping': { methods: ['GET'], needsBody: false, handler: (_body, response) => sendText(response, 200, '') },
    '/server_info': {
      methods: ['GET'],
      needsBody: false,
      handler: (_body, response) => sendJson(response, 200, reports.serverInfo()),
    },
    '/get_server_info': {
      methods: ['GET'],
      needsBody: false,
      handler: (_body, response) => sendJson(response, 200, reports.serverInfo()),
    },
    '/model_info': {
      methods: ['GET'],
      needsBody: false,
      handler: (_body, response) => sendJson(response, 200, reports.modelInfo()),
    },
    '/get_model_info': {
      methods: ['GET'],
      needsBody: false,
      handler: (_body, response) => sendJson(response, 200, reports.modelInfo()),
    },
    '/v1/loads': {
      methods: ['GET'],
      needsBody: false,
      handler: (_body, response) => sendJson(response, 200, reports.loads()),
    },
    '/v1/completions': { methods: ['POST'], needsBody: true, handler: refuseCompletion },
    '/v1/models': {
      methods: ['GET'],
      needsBody: false,
      handler: (_body, response) => sendJson(response, 200, reports.models()),
    },
    '/metrics': {
      methods: ['GET'],
      needsBody: false,
      handler: (_body, response) =>
        sendText(response, 200, reports.metrics(), 'text/plain; version=0.0.4; charset=utf-8'),
    },
  }

  function tokenize(body: unknown, response: ServerResponse): void {
    const { vocabularySize } = core.weights
    const prompt = isRecord(body) ? (joinMessages(body.messages) ?? body.prompt) : undefined
    if (typeof prompt === 'string') {
      const tokens = tokensOf(prompt, vocabularySize)
      sendJson(response, 200, { tokens, count: tokens.length, max_model_len: options.contextLength })
    } else if (Array.isArray(prompt) && prompt.every((text) => typeof text === 'string')) {
      const tokens = prompt.map((text) => tokensOf(text, vocabularySize))
      sendJson(response, 200, { tokens, count: tokens.map((ids) => ids.length), max_model_len: options.contextLength })
    } else {
      sendError(response, 400, `Invalid prompt type: ${show(prompt)}. Expected str or List[str].`, 'BadRequestError')
    }
  }

  /** The check of `logit_bias` alone: the real route generates, and whoever finds out the size of the vocabulary must not. */
  function refuseCompletion(body: unknown, response: ServerResponse): void {
    const bias = isRecord(body) && isRecord(body.logit_bias) ? body.logit_bias : {}
    const beyond = Object.keys(bias).find((id) => Number(id) >= core.weights.vocabularySize)
    const message =
      beyond === undefined
        ? 'the embedded engine generates over /generate alone'
        : `logit_bias must has keys in [0, ${core.weights.vocabularySize - 1}], got ${beyond}.`
    sendError(response, 400, message, 'BadRequestError')
  }

  return {
    handle(request, response, path) {
      const { authorization } = request.headers
      if (
        options.apiKey !== null &&
        !path.startsWith('/health') &&
        !path.startsWith('/metrics') &&
        authorization !== `Bearer ${options.apiKey}`
      ) {
        sendJson(response, 401, { error: 'Unauthorized' })
        request.resume()
        return
      }
      const route = Object.hasOwn(routes, path) ? routes[path] : undefined
      if (route === undefined || !route.methods.includes(request.method ?? '')) {
        sendJson(response, route === undefined ? 404 : 405, {
          detail: route === undefined ? 'Not Found' : 'Method Not Allowed',
        })
        request.resume()
        return
      }
      const answering = readBody(request).then((text) => {
        const body = text === '' ? undefined : parseJson(text)
        if (route.needsBody && body === undefined) {
          const kind =
            text === ''
              ? "{'type': 'missing', 'loc': ('body',), 'msg': 'Field required'}"
              : "{'type': 'json_invalid', 'msg': 'JSON decode error'}"
          sendSchemaError(response, `1 validation error: ${kind}`)
          return
        }
        return route.handler(body, response, new URLSearchParams((request.url ?? '').slice(path.length)))
      })
      // A fault of the engine is an answer of its own, and no end of the process it lives in.
      answering.catch(() => sendText(response, 500, 'Internal Server Error'))
    },
    turnEnded() {
      reports.stepped()
      generating.flush()
      if (whenIdle.length > 0 && counters.running + counters.waiting === 0) {
        const looking = whenIdle
        whenIdle = []
        for (const look of looking) look()
      }
    },
    close: () => manager.close(),
  }
}

/** The tiny policy's chat template: the contents, one after the other. */
function joinMessages(messages: unknown): string | undefined {
  if (!Array.isArray(messages)) return undefined
  return messages.map((message) => (isRecord(message) ? String(message.content ?? '') : '')).join('')
}
