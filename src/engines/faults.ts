/**
 * Errors about one server: every message names the instance and its url, says what was expected, what was found and what to do.
 * No api key and no url credentials ever reach a message; what a server said is quoted in a bounded excerpt.
 */
import { RolloutError, type RolloutErrorCode, type RolloutErrorFields } from '../errors.ts'
import { isRecord } from '../problems.ts'
import { adviceOnStatus, codeOfStatus, retryAfterMs } from './http-status.ts'

/** Response headers, names in lower case. */
export type Headers = Readonly<Record<string, string | string[] | undefined>>

/** The server that errors are about. */
export interface Peer {
  readonly id: string
  /** Without credentials. */
  readonly url: string
  readonly apiKey: string | undefined
}

/** Enough to recognise a login page or a proxy's error by. */
const EXCERPT_CHARS = 80
/** Engines explain a refusal in a sentence or two; a validation dump is longer than anyone reads. */
const MESSAGE_CHARS = 300

export function fault(code: RolloutErrorCode, peer: Peer, text: string, fields: RolloutErrorFields = {}): RolloutError {
  return new RolloutError(code, `instance ${peer.id} (${peer.url}): ${text}`, { instance: peer.id, ...fields })
}

/** The beginning of what a server sent, on one line and without secrets. */
export function excerpt(text: string, peer: Peer, chars = EXCERPT_CHARS): string {
  const safe = peer.apiKey === undefined || peer.apiKey === '' ? text : text.replaceAll(peer.apiKey, '***')
  const line = safe.replace(/\s+/g, ' ').trim()
  return line.length > chars ? `${line.slice(0, chars)}…` : line
}

/** The sentence inside an error body, in any of the shapes engines use, or an excerpt of the body. */
export function serverMessage(body: string, peer: Peer): string {
  let said: string | null = null
  try {
    said = messageIn(JSON.parse(body))
  } catch {
    // Not JSON: a proxy's page, or plain text.
  }
  if (said !== null) return excerpt(said, peer, MESSAGE_CHARS)
  return body.trim() === '' ? 'nothing' : JSON.stringify(excerpt(body, peer))
}

export function messageIn(value: unknown): string | null {
  if (typeof value === 'string') return value
  if (!isRecord(value)) return null
  return messageIn(value.error) ?? messageIn(value.message) ?? messageIn(value.detail)
}

/** An error inside a 200 stream (R9): of the class of its status, as if the answer had had it. */
export function streamFault(peer: Peer, route: string, status: number, message: string): RolloutError {
  const said = excerpt(message, peer, MESSAGE_CHARS)
  const found = `POST ${route}: expected a generation, found error ${status} in its stream: ${said}; ${adviceOnStatus(status)}`
  return fault(codeOfStatus(status), peer, found, { status })
}

/** An answer whose status says no. `what` is the call, such as `POST /generate`. */
export function statusFault(peer: Peer, what: string, status: number, headers: Headers, body: string): RolloutError {
  if (status >= 300 && status < 400) {
    const to = excerpt(first(headers.location) ?? 'nowhere', peer, MESSAGE_CHARS)
    return fault(
      'WRONG_PROTOCOL',
      peer,
      `${what}: expected an answer, found a redirect (${status}) to ${to}; redirects are not followed: put the final url into the options`,
      { status },
    )
  }
  const wait = retryAfterMs(first(headers['retry-after']), first(headers.date))
  const fields = wait === undefined ? { status } : { status, retryAfterMs: wait }
  return fault(
    codeOfStatus(status),
    peer,
    `${what}: expected status 200, found ${status}: ${serverMessage(body, peer)}; ${adviceOnStatus(status)}`,
    fields,
  )
}

/** An exchange that broke below HTTP. `answered` says whether response headers had arrived. */
export function networkFault(peer: Peer, what: string, error: unknown, answered: boolean): RolloutError {
  if (RolloutError.isInstance(error)) return error
  const code = codeIn(error)
  const text = error instanceof Error ? error.message || code : String(error)
  const fields = { cause: error }
  if (
    /^(ECONNREFUSED|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH|EHOSTDOWN|ETIMEDOUT|UND_ERR_CONNECT_TIMEOUT)$/.test(
      code,
    )
  ) {
    return fault(
      'UNREACHABLE',
      peer,
      `${what}: expected a server, found none (${text}); start it, or correct the url`,
      fields,
    )
  }
  if (/CERT|SELF_SIGNED|ERR_TLS/.test(code)) {
    return fault(
      'UNREACHABLE',
      peer,
      `${what}: expected a trusted TLS certificate, found ${text}; install it, or set NODE_EXTRA_CA_CERTS`,
      fields,
    )
  }
  if (code === 'UND_ERR_HEADERS_OVERFLOW') {
    return fault(
      'WRONG_PROTOCOL',
      peer,
      `${what}: expected an HTTP answer, found headers without end (${text}); something else listens there`,
      fields,
    )
  }
  if (!answered && /^(HPE_|EPROTO|ERR_SSL)/.test(code)) {
    return fault(
      'WRONG_PROTOCOL',
      peer,
      `${what}: expected an HTTP answer, found ${readable(text)}; check scheme and port of the url`,
      fields,
    )
  }
  if (code === 'UND_ERR_DESTROYED' || code === 'UND_ERR_CLOSED')
    return fault('CLOSED', peer, `${what}: the driver was closed`, fields)
  const found = answered ? 'a connection that broke in the middle of it' : 'a connection that closed before it'
  return fault(
    'TRANSPORT',
    peer,
    `${what}: expected an answer, found ${found} (${text}); read the server's log`,
    fields,
  )
}

/** OpenSSL's own words are a line of numbers and paths, of which one says something. */
function readable(text: string): string {
  return text.replace(/^.*SSL routines:[^:]*:([^:]*):.*$/s, 'no TLS ($1)')
}

export function codeIn(error: unknown): string {
  if (!isRecord(error)) return ''
  if (typeof error.code === 'string') return error.code
  // undici's own gives no code to what never looked like HTTP.
  return error.name === 'HTTPParserError' ? 'HPE_INVALID' : ''
}

export function first(value: string | string[] | undefined): string | undefined {
  return typeof value === 'string' ? value : value?.[0]
}
