/**
 * A bare client of the embedded engine for its tests: no retries, no interpretation.
 */
import { type ClientRequest, type IncomingMessage, request } from 'node:http'
import type { EmbeddedEngine } from '../../src/testing/embedded-engine.ts'

export interface Reply {
  readonly text: string
  readonly output_ids: number[]
  readonly meta_info: {
    readonly id: string
    readonly finish_reason: { readonly type: string; readonly message?: string; readonly [key: string]: unknown } | null
    readonly prompt_tokens?: number
    readonly completion_tokens: number
    readonly cached_tokens?: number
    readonly weight_version: string
    readonly weight_versions?: { readonly version: string; readonly start: number; readonly end: number }[]
    readonly output_token_logprobs?: [number, number, null][]
  }
}

export interface Answer {
  readonly status: number
  readonly text: string
  readonly json: unknown
}

export async function call(
  engine: EmbeddedEngine,
  path: string,
  body?: unknown,
  headers: Record<string, string> = {},
): Promise<Answer> {
  const response = await fetch(engine.url + path, {
    headers,
    ...(body === undefined ? {} : { method: 'POST', body: typeof body === 'string' ? body : JSON.stringify(body) }),
  })
  const text = await response.text()
  return { status: response.status, text, json: text.startsWith('{') ? JSON.parse(text) : undefined }
}

export async function generate(engine: EmbeddedEngine, body: object): Promise<Reply> {
  const { status, text, json } = await call(engine, '/generate', { return_logprob: true, ...body })
  if (status !== 200) throw new Error(`${status} ${text}`)
  return json as Reply
}

export interface Stream {
  readonly status: number
  /** Events so far, parsed, without [DONE]. */
  readonly events: Reply[]
  /** Resolves to the last event; rejects when the connection breaks. */
  readonly ended: Promise<Reply>
  readonly done: () => boolean
  leave(): void
}

/** Resolves when the headers are there. */
export function stream(engine: EmbeddedEngine, body: object): Promise<Stream> {
  return new Promise((resolve, reject) => {
    const sent: ClientRequest = request(`${engine.url}/generate`, { method: 'POST' }, (response: IncomingMessage) => {
      const events: Reply[] = []
      let done = false
      let rest = ''
      const ended = new Promise<Reply>((end, broken) => {
        response.setEncoding('utf8')
        response.on('data', (chunk: string) => {
          const parts = (rest + chunk).split('\n\n')
          rest = parts.pop()!
          for (const part of parts) {
            if (part === 'data: [DONE]') done = true
            else events.push(JSON.parse(part.slice('data: '.length)) as Reply)
          }
        })
        response.on('error', broken)
        response.on('end', () => end(events.at(-1)!))
      })
      ended.catch(() => {})
      resolve({ status: response.statusCode!, events, ended, done: () => done, leave: () => sent.destroy() })
    })
    sent.on('error', reject)
    sent.end(JSON.stringify({ stream: true, return_logprob: true, ...body }))
  })
}

/** Waits for a condition, with a deadline that says what was waited for. */
export async function until(what: string, condition: () => boolean, deadlineMs = 10_000): Promise<void> {
  const end = performance.now() + deadlineMs
  while (!condition()) {
    if (performance.now() > end) throw new Error(`waited ${deadlineMs} ms for: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 1))
  }
}

export function logprobsOf(reply: Reply): number[] {
  return (reply.meta_info.output_token_logprobs ?? []).map(([logprob]) => logprob)
}

/** The largest difference of two lists of equal length. */
export function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY
  let largest = 0
  for (let i = 0; i < a.length; i++) largest = Math.max(largest, Math.abs(a[i]! - b[i]!))
  return largest
}
