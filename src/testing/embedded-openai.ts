/**
 * A plain OpenAI-compatible server: models, completions of text, chat; 429 with Retry-After when it has no room. Nothing else.
 */
import { randomUUID } from 'node:crypto'
import type { ServerResponse } from 'node:http'
import type { CoreManners, EngineCore } from './embedded-contract.ts'
import type { EngineCounters } from './embedded-engine.ts'
import { type Dialect, parseJson, readBody, sendJson, sendText } from './embedded-http.ts'
import { createOpenaiReply, type OpenaiReply } from './embedded-openai-reply.ts'
import { MODEL, type OpenaiKind, type OpenaiRefusal, readOpenaiBody } from './embedded-openai-request.ts'
import type { CheckedEngineOptions } from './embedded-options.ts'

const RETRY_AFTER_S = 1
const FULL: OpenaiRefusal = {
  status: 429,
  type: 'requests',
  message: `Rate limit reached. Please try again in ${RETRY_AFTER_S}s.`,
  code: 'rate_limit_exceeded',
}
const WRONG_KEY: OpenaiRefusal = {
  status: 401,
  type: 'invalid_request_error',
  message: 'Incorrect API key provided.',
  code: 'invalid_api_key',
}

export function openaiManners(): CoreManners {
  return { logprobs: 'tempered', seeds: 'byRequest', reservedTokens: 0, abortsAtOnce: true }
}

export function createOpenaiDialect(
  core: EngineCore,
  options: CheckedEngineOptions,
  counters: EngineCounters,
): Dialect {
  let dirty: OpenaiReply[] = []

  function generate(kind: OpenaiKind, json: unknown, response: ServerResponse): void {
    counters.requests++
    const body = readOpenaiBody(kind, json, core.weights.vocabularySize, options.contextLength)
    if ('status' in body) {
      refuse(response, body)
      return
    }
    if (counters.running >= options.capacity && counters.waiting >= options.maxQueued) {
      response.setHeader('retry-after', RETRY_AFTER_S)
      refuse(response, FULL)
      return
    }
    if (body.stream) {
      response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' })
      response.flushHeaders()
    }
    const id = `${kind === 'chat' ? 'chatcmpl' : 'cmpl'}-${randomUUID()}`
    const reply = createOpenaiReply(response, body, id, counters, () => dirty.push(reply))
    const sequence = core.submit(body.promptTokenIds, body.sampling, {
      token: () => reply.token(sequence),
      end: () => reply.end(sequence),
    })
    response.on('close', () => {
      if (response.writableEnded) return
      counters.disconnects++
      core.abort(sequence)
    })
  }

  return {
    handle(request, response, path) {
      if (options.apiKey !== null && request.headers.authorization !== `Bearer ${options.apiKey}`) {
        refuse(response, WRONG_KEY)
        request.resume()
        return
      }
      switch (`${request.method} ${path}`) {
        case 'GET /v1/models':
          sendJson(response, 200, {
            object: 'list',
            data: [{ id: MODEL, object: 'model', created: 1_790_000_000, owned_by: 'embedded' }],
          })
          return
        case 'POST /v1/completions':
        case 'POST /v1/chat/completions': {
          const kind = path === '/v1/completions' ? 'completions' : 'chat'
          const answering = readBody(request).then((text) => generate(kind, parseJson(text), response))
          // A fault of the engine is an answer of its own, and no end of the process it lives in.
          answering.catch(() => sendText(response, 500, 'Internal Server Error'))
          return
        }
        default:
          request.resume()
          refuse(response, {
            status: 404,
            type: 'invalid_request_error',
            message: `Invalid URL (${request.method} ${path})`,
            code: null,
          })
      }
    },
    turnEnded() {
      const replies = dirty
      dirty = []
      for (const reply of replies) reply.flush()
    },
    close() {},
  }
}

function refuse(response: ServerResponse, { status, type, message, code }: OpenaiRefusal): void {
  sendJson(response, status, { error: { message, type, param: null, code } })
}
