/**
 * Plain servers and clocks for the tests of this folder: node:http and node:net, nothing of the package that could share a mistake with it.
 */
import { readFileSync } from 'node:fs'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import net from 'node:net'
import { onTestFinished } from 'vitest'
import type { Clock } from '../../src/clock.ts'
import { realClock } from '../../src/clock.ts'
import type { Chunk, DriverOptions } from '../../src/engines/driver.ts'
import type { SglangStream } from '../../src/engines/sglang-events.ts'
import { RolloutError } from '../../src/errors.ts'
import type { CheckedSampling } from '../../src/rollout/task.ts'

export interface FakeServer {
  readonly url: string
  /** `METHOD path`, in order of arrival. */
  readonly requests: { readonly line: string; readonly headers: http.IncomingHttpHeaders; readonly body: string }[]
  /** Connections accepted so far. */
  connections(): number
}

export type Answer = (request: http.IncomingMessage, response: http.ServerResponse, body: string) => void

/** Serves until the test ends. */
export async function serve(answer: Answer): Promise<FakeServer> {
  const requests: FakeServer['requests'] = []
  let connections = 0
  const server = http.createServer((request, response) => {
    let body = ''
    request.setEncoding('utf8')
    request.on('data', (part) => {
      body += part
    })
    request.on('end', () => {
      requests.push({ line: `${request.method} ${request.url}`, headers: request.headers, body })
      answer(request, response, body)
    })
  })
  server.on('connection', () => connections++)
  const url = await listening(server)
  return { url, requests, connections: () => connections }
}

/** A server of bytes, for what node:http would refuse to say. */
export function serveBytes(connected: (socket: net.Socket) => void): Promise<string> {
  return listening(net.createServer(connected))
}

async function listening(server: net.Server): Promise<string> {
  const sockets = new Set<net.Socket>()
  server.on('connection', (socket: net.Socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.on('close', () => sockets.delete(socket))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

/** A clock whose timers fire when told. */
export function manualClock(): Clock & { fire(): void; pending(): number } {
  const timers = new Map<object, () => void>()
  return {
    now: () => 0,
    setTimeout(callback) {
      const handle = {}
      timers.set(handle, callback)
      return handle
    },
    clearTimeout: (handle) => {
      timers.delete(handle as object)
    },
    fire() {
      for (const callback of [...timers.values()]) callback()
      timers.clear()
    },
    pending: () => timers.size,
  }
}

export function options(url: string, more: Partial<DriverOptions> = {}): DriverOptions {
  return { id: 'a', url, apiKey: undefined, clock: realClock, ...more }
}

export const sampling: CheckedSampling = {
  maxTokens: 10,
  minTokens: 0,
  temperature: 1,
  topP: 1,
  topK: -1,
  minP: 0,
  stop: [],
  stopTokenIds: [],
  ignoreEos: false,
  seed: null,
}

export const never: AbortSignal = new AbortController().signal

export interface Joined {
  readonly tokenIds: number[]
  readonly logprobs: number[]
  text: string
  last: Chunk | null
  chunks: number
  error: RolloutError | null
}

/** All of a stream, and the error that ended it. */
export async function join(stream: AsyncIterable<Chunk>): Promise<Joined> {
  const out: Joined = { tokenIds: [], logprobs: [], text: '', last: null, chunks: 0, error: null }
  try {
    for await (const chunk of stream) {
      out.tokenIds.push(...chunk.tokenIds)
      out.logprobs.push(...chunk.logprobs)
      out.text += chunk.text ?? ''
      out.last = chunk
      out.chunks++
    }
  } catch (error) {
    if (!RolloutError.isInstance(error)) throw error
    out.error = error
  }
  return out
}

/** The error of a promise that must reject with one of ours. */
export async function refusal(promise: Promise<unknown>): Promise<RolloutError> {
  try {
    await promise
  } catch (error) {
    if (RolloutError.isInstance(error)) return error
    throw error
  }
  throw new Error('expected a rejection')
}

/** What a real server said (test/e2e/engines/record-sglang.mjs). */
export interface Recorded {
  readonly status: number
  readonly type: string | null
  readonly body: string
}

export function recorded(name: string): (answer: string) => Recorded {
  const answers: Record<string, Recorded> = JSON.parse(
    readFileSync(new URL(`fixtures/${name}.json`, import.meta.url), 'utf8'),
  )
  return (answer) => {
    const found = answers[answer]
    if (found === undefined) throw new Error(`nothing recorded as ${answer}`)
    return found
  }
}

export function replay(response: http.ServerResponse, { status, type, body }: Recorded): void {
  response.writeHead(status, type === null ? {} : { 'content-type': type }).end(body)
}

/** The streams of `POST /generate`: 200 and these events, in one write each. */
export function events(response: http.ServerResponse, list: readonly unknown[]): void {
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  for (const each of list) response.write(`data: ${typeof each === 'string' ? each : JSON.stringify(each)}\n\n`)
}

/** What SGLang's decoder is made with, where no stop matters. */
export function sglangStream(peer: SglangStream['peer'], deltas: boolean): SglangStream {
  return {
    peer,
    deltas,
    sampling: { stop: [], stopTokenIds: [], ignoreEos: false },
    stops: null,
    pieceStops: null,
    endIds: new Set(),
  }
}

/** One SGLang event with `list` as its tokens, each with log-probability -1 - id. */
export function sglangEvent(
  list: readonly number[],
  total: number,
  more: { text?: string; finish?: unknown; spans?: unknown; version?: string } = {},
): unknown {
  return {
    text: more.text ?? '',
    output_ids: list,
    meta_info: {
      finish_reason: more.finish ?? null,
      weight_version: more.version ?? 'default',
      output_token_logprobs: list.map((id) => [-1 - id, id, null]),
      completion_tokens: total,
      ...(more.spans === undefined ? {} : { weight_versions: more.spans }),
    },
  }
}
