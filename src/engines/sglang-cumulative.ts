/**
 * Parses the events of SGLang's cumulative form without what they repeat: each carries the log-probabilities of all tokens so far, some thirty
 * bytes a token, which is quadratic in the length. The list only grows, so its text up to where it ended last is left out before parsing:
 *
 *     "output_token_logprobs":[[-1.25,7,null],[-0.5,9,null],[-2.5,4,null]]
 *                              |---- in the last event ----|
 *
 * Only the length of that text is kept. An event is parsed whole where an entry does not end there any more, and where what is left is not
 * as many entries as the server counts new tokens (I8).
 */
import { isRecord } from '../problems.ts'

export interface CumulativeParser {
  /** `delivered`: tokens that the last event had, of which the entries may be left out; 0 asks for the whole event. */
  parse(data: string, delivered: number): unknown
  /** Entries that were left out of the event just parsed: none, or all that were delivered. */
  readonly left: number
}

const LIST = '"output_token_logprobs":['

export function createCumulativeParser(): CumulativeParser {
  /** Characters of the list's entries in the last event. */
  let known = 0
  let left = 0

  function shorten(data: string): string | null {
    const start = data.indexOf(LIST) + LIST.length
    const end = start + known
    if (known === 0 || start < LIST.length || data[start] !== '[' || data[end - 1] !== ']') return null
    if (data[end] === ']') return data.slice(0, start) + data.slice(end)
    return data.startsWith(',[', end) ? data.slice(0, start) + data.slice(end + 1) : null
  }
  function measure(data: string): void {
    const start = data.indexOf(LIST) + LIST.length
    const from = start + Math.max(0, known - 1)
    const end = data.indexOf(']]', from) + 1
    // A bracket inside a string would end nothing; entries of numbers have no strings.
    const quote = data.indexOf('"', from)
    known = start < LIST.length || end === 0 || (quote >= 0 && quote < end) ? 0 : end - start
  }

  return {
    parse(data, delivered) {
      const shorter = delivered === 0 ? null : shorten(data)
      left = delivered
      let event = shorter === null ? null : parsed(shorter)
      if (!hasEvery(event, left)) {
        left = 0
        event = JSON.parse(data)
      }
      if (hasEvery(event, left)) measure(data)
      else known = 0
      return event
    },
    get left() {
      return left
    },
  }
}

/** Null where what was cut is not JSON any more. */
function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}

/** True where its list, with the entries left out, has all tokens that the server counts. */
function hasEvery(event: unknown, left: number): boolean {
  if (!isRecord(event) || !isRecord(event.meta_info)) return false
  const { output_token_logprobs: list, completion_tokens: total } = event.meta_info
  return Array.isArray(list) && list.length + left === total
}
