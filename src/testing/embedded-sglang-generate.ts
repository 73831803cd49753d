/**
 * POST /generate of SGLang 0.5.23: from a body to a ticket at the gate, from the gate to the scheduler, and every way to be refused.
 */
import { randomUUID } from 'node:crypto'
import type { ServerResponse } from 'node:http'
import type { EngineCore } from './embedded-contract.ts'
import type { EngineCounters } from './embedded-engine.ts'
import { sendJson } from './embedded-http.ts'
import type { CheckedEngineOptions } from './embedded-options.ts'
import type { Sequence, SequenceListener } from './embedded-sequence.ts'
import type { SglangManager, Ticket } from './embedded-sglang-manager.ts'
import { createEventStream, type EventStream, finalReply, type ReplyContext } from './embedded-sglang-reply.ts'
import { type GenerateBody, type Refusal, readGenerateBody } from './embedded-sglang-request.ts'

export interface SglangGenerate {
  generate(json: unknown, response: ServerResponse): void
  /** Writes the events of the steps just done. */
  flush(): void
}

/** A scheduler that died takes its HTTP process with it after about this long. */
const DEATH_MS = 5000
const QUEUE_FULL = 'The request queue is full.'

export function createSglangGenerate(
  core: EngineCore,
  options: CheckedEngineOptions,
  counters: EngineCounters,
  manager: SglangManager,
  die: () => void,
): SglangGenerate {
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
      if (!response.writableEnded) manager.clientLeft(ticket)
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
      texts: body.texts,
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

  return {
    generate,
    flush() {
      const streams = dirty
      dirty = []
      for (const stream of streams) stream.flush()
    },
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

export function sendError(response: ServerResponse, status: number, message: string, type: string): void {
  sendJson(response, status, { object: 'error', message, type, param: null, code: status })
}

export function sendSchemaError(response: ServerResponse, message: string): void {
  sendError(response, 400, message, 'Bad Request')
}
