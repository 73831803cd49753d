/**
 * The few words of HTTP that an embedded engine needs. Bodies are read whole, of any size, as uvicorn does.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'

/** What a wire protocol has to answer. */
export interface Dialect {
  handle(request: IncomingMessage, response: ServerResponse, path: string): void
  /** After one or several steps: write what has gathered. */
  turnEnded(): void
  close(): void
}

/** Resolves to the whole body; never settles when the client leaves before its end. */
export function readBody(request: IncomingMessage): Promise<string> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => resolve(chunks.length === 1 ? chunks[0]!.toString() : Buffer.concat(chunks).toString()))
    request.on('error', () => {})
  })
}

/** Parsed JSON, or undefined where it is none. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

export function sendJson(response: ServerResponse, status: number, body: unknown): void {
  sendText(response, status, typeof body === 'string' ? body : JSON.stringify(body), 'application/json')
}

export function sendText(
  response: ServerResponse,
  status: number,
  text: string,
  type = 'text/plain; charset=utf-8',
): void {
  if (response.destroyed || response.headersSent) return
  const headers: Record<string, string | number> = { 'content-length': Buffer.byteLength(text) }
  if (text !== '') headers['content-type'] = type
  response.writeHead(status, headers)
  response.end(text)
}
