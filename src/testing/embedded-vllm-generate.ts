/**
 * The generation routes of vLLM 0.32: from a body to the scheduler, the ids under which requests can be aborted, every way to be
 * refused, and the way its engine dies under the front that goes on answering for a while.
 */
import { randomUUID } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { EngineCore } from './embedded-contract.ts'
import type { EngineCounters } from './embedded-engine.ts'
import { sendJson } from './embedded-http.ts'
import type { CheckedEngineOptions } from './embedded-options.ts'
import type { Sequence, SequenceListener } from './embedded-sequence.ts'
import { createVllmStream, DONE, type VllmReply, wholeVllmReply } from './embedded-vllm-reply.ts'
import { readVllmBody, type VllmBody, type VllmRoute } from './embedded-vllm-request.ts'

export interface VllmGenerate {
  generate(route: VllmRoute, json: unknown, request: IncomingMessage, response: ServerResponse): void
  /** Ends every request with one of these ids at once; ids it does not know are no error. */
  abort(ids: readonly string[]): void
  /** Requests that are alive. */
  readonly live: number
  /** The next generation kills the engine, as one over weights that were loaded halfway does. */
  breakModel(broken: boolean): void
  /** Writes the events of the steps just done. */
  flush(): void
  close(): void
}

const DEAD = 'EngineCore encountered an issue. See stack trace (above) for the root cause.'
const FULL =
  'The engine is currently busy and cannot accept new requests. Please try again later or on a different instance.'
/** The front was seen to answer 500 for about this long after its engine had died. */
const DEATH_MS = 500

interface Live {
  readonly sequence: Sequence
  fail(): void
}

export function createVllmGenerate(
  core: EngineCore,
  options: CheckedEngineOptions,
  counters: EngineCounters,
  die: () => void,
): VllmGenerate {
  /** By the engine's id. Ids need not be unique: an abort ends all that bear one. */
  const byId = new Map<string, Set<Live>>()
  let live = 0
  let broken = false
  let dead = false
  let timer: NodeJS.Timeout | undefined
  let dirty: VllmReply[] = []

  function generate(route: VllmRoute, json: unknown, request: IncomingMessage, response: ServerResponse): void {
    counters.requests++
    if (dead) {
      sendVllmError(response, 500, 'InternalServerError', DEAD)
      return
    }
    const body = readVllmBody(route, json, core.weights.vocabularySize, options.contextLength)
    if ('status' in body) {
      if (body.streamed) refuseInStream(response, body.status, body.type, body.message)
      else sendVllmError(response, body.status, body.type, body.message)
      return
    }
    if (counters.running >= options.capacity && counters.waiting >= options.maxQueued) {
      sendVllmError(response, 503, 'Service Unavailable', FULL)
      return
    }
    submit(body, nameOf(request, body), response)
  }

  /** A header beats the body; without either the server makes an id up. */
  function nameOf(request: IncomingMessage, body: VllmBody): string {
    const header = request.headers['x-request-id']
    return (typeof header === 'string' ? header : body.id) ?? randomUUID().replaceAll('-', '')
  }

  function submit(body: VllmBody, name: string, response: ServerResponse): void {
    const shown = body.route === 'generate' ? `generate-tokens-${name}` : `cmpl-${name}`
    const id = body.route === 'generate' ? shown : `${shown}-0`
    if (body.stream) {
      response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' })
      response.flushHeaders()
    }
    const entry: Live = {
      get sequence() {
        return sequence
      },
      fail() {
        if (body.stream) response.end(errorEvent(500, 'InternalServerError', DEAD))
        else sendVllmError(response, 500, 'InternalServerError', DEAD)
      },
    }
    const sequence: Sequence = core.submit(body.promptTokenIds, body.sampling, body.stream ? streamed() : whole())
    const named = byId.get(id)
    if (named === undefined) byId.set(id, new Set([entry]))
    else named.add(entry)
    live++
    response.on('close', () => {
      if (response.writableEnded) return
      counters.disconnects++
      core.abort(sequence)
    })
    if (broken) dieNow()

    function done(): void {
      const entries = byId.get(id)
      if (entries?.delete(entry) !== true) return
      live--
      if (entries.size === 0) byId.delete(id)
    }

    function streamed(): SequenceListener {
      const { streamInterval: interval } = options
      const reply = createVllmStream(response, body, {
        id: shown,
        interval,
        counters,
        onDirty: () => dirty.push(reply),
      })
      return {
        token: () => reply.token(sequence),
        end: () => {
          reply.end(sequence, core.spansOf(sequence))
          done()
        },
      }
    }

    function whole(): SequenceListener {
      return {
        token: () => {},
        end: () => {
          if (!response.destroyed) {
            counters.tokensDelivered += sequence.tokenIds.length
            sendJson(response, 200, wholeVllmReply(sequence, core.spansOf(sequence), body, shown))
          }
          done()
        },
      }
    }
  }

  /** Every stream ends with an error inside it, then the front answers 500, then it is gone. */
  function dieNow(): void {
    dead = true
    counters.died = true
    const entries = [...byId.values()].flatMap((each) => [...each])
    byId.clear()
    live = 0
    core.close()
    for (const entry of entries) entry.fail()
    timer = setTimeout(die, DEATH_MS)
  }

  return {
    generate,
    abort(ids) {
      for (const id of ids) {
        for (const { sequence } of [...(byId.get(id) ?? [])]) core.abort(sequence)
      }
    },
    get live() {
      return live
    },
    breakModel(next) {
      broken = next
    },
    flush() {
      const replies = dirty
      dirty = []
      for (const reply of replies) reply.flush()
    },
    close() {
      clearTimeout(timer)
      byId.clear()
    },
  }
}

export function sendVllmError(
  response: ServerResponse,
  code: number,
  type: string,
  message: string,
  param: string | null = null,
): void {
  sendJson(response, code, { error: { message, type, param, code } })
}

function refuseInStream(response: ServerResponse, code: number, type: string, message: string): void {
  response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' })
  response.end(errorEvent(code, type, message))
}

function errorEvent(code: number, type: string, message: string): string {
  return `data: ${JSON.stringify({ error: { message, type, param: null, code } })}\n\n${DONE}`
}
