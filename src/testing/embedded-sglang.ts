/**
 * SGLang 0.5.23's HTTP, as seen on the real server: routes, bodies, statuses and their quirks.
 * What happens behind the routes is in embedded-sglang-manager.ts (gate, lock, updates) and embedded-core.ts (scheduler).
 */
import { randomUUID } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { isRecord, show } from '../problems.ts'
import type { EngineCore, Sequence, SequenceListener } from './embedded-core.ts'
import type { EngineCounters } from './embedded-engine.ts'
import { type Dialect, parseJson, readBody, sendJson, sendText } from './embedded-http.ts'
import type { CheckedEngineOptions } from './embedded-options.ts'
import { createSglangManager, type PauseMode, type Ticket } from './embedded-sglang-manager.ts'
import { createEventStream, type EventStream, finalReply, type ReplyContext } from './embedded-sglang-reply.ts'
import { createSglangReports } from './embedded-sglang-reports.ts'
import { type GenerateBody, type Refusal, readGenerateBody } from './embedded-sglang-request.ts'
import { tokensOf } from './tiny-policy.ts'

type Handler = (
  body: unknown,
  response: ServerResponse,
  query: URLSearchParams,
  request: IncomingMessage,
) => void | Promise<void>

interface Route {
  readonly methods: readonly string[]
  /** A body of JSON is needed, if only `{}`. */
  readonly needsBody: boolean
  readonly handler: Handler
}

const HEALTH_MS = 1000
const HEALTH_TIMEOUT_MS = 20_000
/** A scheduler that died takes its HTTP process with it after about this long. */
const DEATH_MS = 5000
const QUEUE_FULL = 'The request queue is full.'

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
  let dirty: EventStream[] = []

  function generate(json: unknown, response: ServerResponse): void {
    counters.requests++
    const body = readGenerateBody(json, core.weights.vocabularySize)
    if ('kind' in body) {
      refuse(body, response)
      return
    }
    if (body.stream) {
      response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' })
      response.flushHeaders()
    }
    const id = body.id ?? randomUUID().replaceAll('-', '')
    if (manager.has(id)) {
      refuse({ kind: 'value', message: `Duplicate request ID detected: ${id}`, stream: body.stream }, response)
      return
    }
    const ticket: Ticket = {
      id,
      streamed: body.stream,
      sequence: null,
      gone: false,
      abortSent: false,
      begin: () => submit(body, ticket, response),
    }
    response.on('close', () => {
      if (!response.writableFinished) manager.clientLeft(ticket)
    })
    manager.enter(ticket)
  }

  function submit(body: GenerateBody, ticket: Ticket, response: ServerResponse): Sequence | null {
    const { promptTokenIds, stream } = body
    const tooLong = lengthProblem(promptTokenIds.length, body.sampling.maxNewTokens, options.contextLength)
    if (tooLong !== null) {
      refuse({ kind: 'value', message: tooLong, stream }, response)
      return null
    }
    if (promptTokenIds.some((token) => token < 0 || token >= core.weights.vocabularySize)) {
      // An IndexError in the scheduler: nobody gets an answer any more.
      core.close()
      if (options.realDelays) manager.after(DEATH_MS, die)
      else die()
      return null
    }
    if (counters.running >= options.capacity && counters.waiting >= options.maxQueued) {
      refuseFull(ticket.id, stream, response)
      return null
    }
    const context: ReplyContext = {
      id: ticket.id,
      promptTokens: promptTokenIds.length,
      logprobs: body.logprobs,
      noStopTrim: body.noStopTrim,
      startedAt: performance.now(),
      weightVersion: () => manager.weightVersion,
    }
    const sequence: Sequence = core.submit(
      promptTokenIds,
      body.sampling,
      stream ? streamed(body, context) : whole(context),
    )
    return sequence

    function streamed(request: GenerateBody, reply: ReplyContext): SequenceListener {
      const events = createEventStream(response, reply, {
        incremental: options.incremental,
        interval: request.streamInterval ?? options.streamInterval,
        counters,
        onDirty: () => dirty.push(events),
      })
      return {
        token: () => events.token(sequence),
        end: () => {
          events.end(sequence, core.spansOf(sequence))
          manager.done(ticket)
        },
      }
    }

    function whole(reply: ReplyContext): SequenceListener {
      return {
        token: () => {},
        end: () => {
          if (!response.destroyed) {
            counters.tokensDelivered += sequence.tokenIds.length
            sendJson(response, 200, finalReply(sequence, core.spansOf(sequence), reply))
          }
          manager.done(ticket)
        },
      }
    }
  }

  function refuseFull(id: string, stream: boolean, response: ServerResponse): void {
    if (!stream) {
      sendError(response, 503, QUEUE_FULL, '503')
      return
    }
    const finish = { type: 'abort', status_code: 503, message: QUEUE_FULL }
    const meta = {
      id,
      finish_reason: finish,
      weight_version: manager.weightVersion,
      e2e_latency: 0.001,
      completion_tokens: 0,
    }
    response.end(`data: ${JSON.stringify({ text: '', output_ids: [], meta_info: meta })}\n\ndata: [DONE]\n\n`)
  }

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

  const routes: Record<string, Route> = {
    '/generate': { methods: ['POST', 'PUT'], needsBody: true, handler: generate },
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
    '/flush_cache': {
      methods: ['GET', 'POST'],
      needsBody: false,
      handler(_body, response) {
        const flushed = core.flush()
        sendText(
          response,
          flushed ? 200 : 400,
          flushed
            ? 'Cache flushed.\nPlease check backend logs for more details. (When there are running or waiting requests, the operation will not be performed.)\n'
            : 'Flush cache failed.\n',
        )
      },
    },
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
    const prompt = isRecord(body) ? body.prompt : undefined
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

  return {
    handle(request, response, path, query) {
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
      void readBody(request).then((text) => {
        const body = text === '' ? undefined : parseJson(text)
        if (route.needsBody && body === undefined) {
          const kind =
            text === ''
              ? "{'type': 'missing', 'loc': ('body',), 'msg': 'Field required'}"
              : "{'type': 'json_invalid', 'msg': 'JSON decode error'}"
          sendSchemaError(response, `1 validation error: ${kind}`)
          return
        }
        return route.handler(body, response, query, request)
      })
    },
    turnEnded() {
      reports.stepped()
      const streams = dirty
      dirty = []
      for (const stream of streams) stream.flush()
    },
    close: () => manager.close(),
  }
}

function refuse(refusal: Refusal, response: ServerResponse): void {
  switch (refusal.kind) {
    case 'schema':
      sendSchemaError(response, refusal.message)
      break
    case 'contract':
      sendJson(response, 400, { error: refusal.message })
      break
    case 'value': {
      const { message, stream } = refusal
      if (!stream) {
        sendJson(response, 400, { error: { message } })
        break
      }
      const error = { message, type: 'invalid_request_error', code: 400, retryable: false }
      if (!response.headersSent) response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' })
      response.end(`data: ${JSON.stringify({ error })}\n\ndata: [DONE]\n\n`)
    }
  }
}

function lengthProblem(promptTokens: number, maxNewTokens: number | null, contextLength: number): string | null {
  if (promptTokens >= contextLength)
    return `The input (${promptTokens} tokens) is longer than the model's context length (${contextLength} tokens).`
  if (maxNewTokens === null || promptTokens + maxNewTokens <= contextLength) return null
  return `Requested token count exceeds the model's maximum context length of ${contextLength} tokens. You requested a total of ${promptTokens + maxNewTokens} tokens: ${promptTokens} tokens from the input messages and ${maxNewTokens} tokens for the completion. Please reduce the number of tokens in the input messages or the completion to fit within the limit.`
}

function sendError(response: ServerResponse, status: number, message: string, type: string): void {
  sendJson(response, status, { object: 'error', message, type, param: null, code: status })
}

function sendSchemaError(response: ServerResponse, message: string): void {
  sendError(response, 400, message, 'Bad Request')
}
