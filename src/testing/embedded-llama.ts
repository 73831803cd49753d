/**
 * llama-server's HTTP, as seen on a real build: slots and a queue without a limit, requests that are known by their sockets only, 503 on
 * every route while the model loads, and errors before the first token as plain answers. It can load no other weights.
 */
import type { ServerResponse } from 'node:http'
import { isRecord } from '../problems.ts'
import type { CoreManners, EngineCore } from './embedded-contract.ts'
import type { EngineCounters } from './embedded-engine.ts'
import { type Dialect, parseJson, readBody, sendJson, sendText } from './embedded-http.ts'
import { createLlamaReply, type LlamaReply } from './embedded-llama-reply.ts'
import { type LlamaBody, type LlamaRefusal, llamaError, readLlamaBody } from './embedded-llama-request.ts'
import type { CheckedEngineOptions } from './embedded-options.ts'
import { tokensOf } from './tiny-policy.ts'

type Handler = (body: unknown, response: ServerResponse) => void

export function llamaManners(): CoreManners {
  return { logprobs: 'processed', seeds: 'byRequest', reservedTokens: 0, abortsAtOnce: true }
}

export function createLlamaDialect(core: EngineCore, options: CheckedEngineOptions, counters: EngineCounters): Dialect {
  const readyAt = performance.now() + options.loadingMs
  const { vocabularySize } = core.weights
  let dirty: LlamaReply[] = []
  const pings = new Set<NodeJS.Timeout>()

  function complete(json: unknown, response: ServerResponse): void {
    counters.requests++
    const body = readLlamaBody(json, vocabularySize, options.contextLength)
    if ('status' in body) refuse(response, body)
    else submit(body, response)
  }

  function submit(body: LlamaBody, response: ServerResponse): void {
    const reply = createLlamaReply(response, body, {
      counters,
      weights: () => core.weights,
      onDirty: () => dirty.push(reply),
    })
    const begin = (): void => {
      if (body.stream && !response.headersSent && !response.destroyed)
        response.writeHead(200, { 'content-type': 'text/event-stream' })
    }
    const stopPings = body.stream ? ping(response, body.pingSeconds, begin) : () => {}
    const sequence = core.submit(body.promptTokenIds, body.sampling, {
      token() {
        begin()
        reply.token(sequence)
      },
      end() {
        stopPings()
        begin()
        reply.end(sequence)
      },
    })
    response.on('close', () => {
      stopPings()
      if (response.writableEnded) return
      counters.disconnects++
      // Only a stream notices that nobody reads it: who does not stream keeps the slot to the end.
      if (body.stream) core.abort(sequence)
    })
  }

  /** A comment whenever a stream was silent for so long. */
  function ping(response: ServerResponse, seconds: number, begin: () => void): () => void {
    if (seconds <= 0) return () => {}
    let bytes = 0
    const timer = setInterval(() => {
      const now = response.socket?.bytesWritten ?? 0
      if (now === bytes && !response.destroyed) {
        begin()
        response.write(':\n\n')
      }
      bytes = response.socket?.bytesWritten ?? 0
    }, seconds * 1000)
    pings.add(timer)
    return () => {
      clearInterval(timer)
      pings.delete(timer)
    }
  }

  const routes: Record<string, Handler> = {
    'GET /health': (_, response) => sendJson(response, 200, { status: 'ok' }),
    'GET /v1/health': (_, response) => sendJson(response, 200, { status: 'ok' }),
    'GET /props': (_, response) =>
      sendJson(response, 200, {
        default_generation_settings: { params: {}, n_ctx: options.contextLength },
        total_slots: options.capacity,
        model_alias: 'embedded',
        model_path: 'embedded.gguf',
        endpoint_slots: true,
        endpoint_metrics: options.metrics,
        build_info: 'b11434-embedded',
        is_sleeping: false,
      }),
    'GET /v1/models': (_, response) =>
      sendJson(response, 200, {
        object: 'list',
        data: [
          {
            id: 'embedded',
            object: 'model',
            owned_by: 'llamacpp',
            meta: { n_vocab: vocabularySize, n_ctx: options.contextLength },
          },
        ],
      }),
    'GET /slots': (_, response) =>
      sendJson(
        response,
        200,
        Array.from({ length: options.capacity }, (_, id) => ({
          id,
          n_ctx: options.contextLength,
          is_processing: id < counters.running,
        })),
      ),
    'GET /metrics': (_, response) => {
      if (options.metrics) sendText(response, 200, metrics(counters), 'text/plain; version=0.0.4')
      else refuse(response, llamaError(501, 'not_supported_error', NO_METRICS))
    },
    'POST /completion': complete,
    'POST /completions': complete,
    'POST /tokenize': (body, response) => {
      const content = isRecord(body) ? body.content : undefined
      sendJson(response, 200, { tokens: typeof content === 'string' ? tokensOf(content, vocabularySize) : [] })
    },
    'POST /apply-template': (body, response) => {
      const messages = isRecord(body) ? body.messages : undefined
      if (!Array.isArray(messages)) {
        refuse(response, llamaError(400, 'invalid_request_error', "'messages' is required"))
        return
      }
      const prompt = messages.map((each: unknown) => (isRecord(each) ? String(each.content) : '')).join('')
      sendJson(response, 200, { prompt })
    },
  }

  return {
    handle(request, response, path) {
      const { authorization = '' } = request.headers
      const health = path === '/health' || path === '/v1/health'
      const route = `${request.method} ${path}`
      const handler = Object.hasOwn(routes, route) ? routes[route] : undefined
      let refusal: LlamaRefusal | null = null
      if (options.apiKey !== null && !health && authorization !== `Bearer ${options.apiKey}`)
        refusal = llamaError(401, 'authentication_error', 'Invalid API Key')
      else if (performance.now() < readyAt) refusal = llamaError(503, 'unavailable_error', 'Loading model')
      else if (handler === undefined) refusal = llamaError(404, 'not_found_error', 'File Not Found')
      if (refusal !== null) {
        refuse(response, refusal)
        request.resume()
        return
      }
      const answering = readBody(request).then((text) => handler!(text === '' ? undefined : parseJson(text), response))
      // A fault of the engine is an answer of its own, and no end of the process it lives in.
      answering.catch(() => sendText(response, 500, 'Internal Server Error'))
    },
    turnEnded() {
      const replies = dirty
      dirty = []
      for (const reply of replies) reply.flush()
    },
    close() {
      for (const timer of pings) clearInterval(timer)
    },
  }
}

const NO_METRICS = 'This server does not support metrics endpoint. Start it with `--metrics`'

function refuse(response: ServerResponse, { status, error }: LlamaRefusal): void {
  sendJson(response, status, { error })
}

function metrics({ promptTokens, tokensGenerated, tokensEnded, steps, running, waiting }: EngineCounters): string {
  const figures = [
    ['counter', 'prompt_tokens_total', promptTokens],
    // Counted when a request ends.
    ['counter', 'tokens_predicted_total', tokensEnded],
    ['counter', 'n_decode_total', steps],
    ['gauge', 'n_busy_slots_per_decode', steps === 0 ? 0 : tokensGenerated / steps],
    ['gauge', 'requests_processing', running],
    ['gauge', 'requests_deferred', waiting],
  ]
  return figures.map(([type, name, value]) => `# TYPE llamacpp:${name} ${type}\nllamacpp:${name} ${value}\n`).join('')
}
