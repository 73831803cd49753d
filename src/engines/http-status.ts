/**
 * HTTP statuses as RolloutError codes (decision 17). The same classes hold for the status of an answer, for `error.code` of an event
 * inside a 200 stream, and for `status_code` of an aborted generation: whose fault it is does not depend on how it was said.
 */
import type { RolloutErrorCode } from '../errors.ts'

/** Statuses outside the documented ones blame the instance, so that the sample gets a chance elsewhere. */
export function codeOfStatus(status: number): RolloutErrorCode {
  switch (status) {
    case 400:
    case 413:
    case 422:
      return 'REQUEST_REJECTED'
    case 408:
    case 429:
    case 503:
      return 'BUSY'
    default:
      if (status >= 500) return 'ENGINE_ERROR'
      return status >= 400 ? 'INSTANCE_FAULT' : 'WRONG_PROTOCOL'
  }
}

/** What the reader of an error should do next. */
export function adviceOnStatus(status: number): string {
  if (status === 401 || status === 403) return 'check the api key of this instance'
  switch (codeOfStatus(status)) {
    case 'REQUEST_REJECTED':
      return 'check the prompt, its length and the sampling parameters'
    case 'INSTANCE_FAULT':
      return "check the instance's url and engine"
    case 'BUSY':
      return 'it has no room now; the sample waits or goes elsewhere'
    case 'WRONG_PROTOCOL':
      return 'point the url at the inference server itself'
    default:
      return "read the server's log"
  }
}

/**
 * `Retry-After` in milliseconds: seconds, or an HTTP date. A date is measured against the answer's own `Date` header,
 * because the two clocks are then the same one; only without it against this machine's wall clock.
 */
export function retryAfterMs(retryAfter: string | undefined, date: string | undefined): number | undefined {
  if (retryAfter === undefined) return undefined
  const text = retryAfter.trim()
  if (/^\d+(\.\d+)?$/.test(text)) return Math.round(Number(text) * 1000)
  const at = Date.parse(text)
  if (Number.isNaN(at)) return undefined
  const now = date === undefined ? Number.NaN : Date.parse(date)
  return Math.max(0, at - (Number.isNaN(now) ? Date.now() : now))
}
