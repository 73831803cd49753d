/**
 * Server-sent events, split incrementally: bytes in, in any cut, the data of whole events out.
 * Lines end at LF or CRLF; comments and fields other than `data` are skipped; several data lines are joined by LF. As the standard says,
 * an event that the end of the stream cuts off is not an event. An LF byte is never part of a longer UTF-8 sequence, so text is decoded
 * only in whole lines and no cut can split a character.
 * Work is linear in the bytes: what is pending is joined once, when its line ends.
 */

/** One event of a real engine is below 5 MB (32k tokens, cumulative); beyond this it is not an engine. */
const MAX_EVENT_BYTES = 64 * 1024 * 1024

const LF = 10

export class EventTooLong extends Error {}

export interface EventSplitter {
  /** Appends the data of every event that these bytes complete. Throws EventTooLong when one exceeds the limit. */
  push(bytes: Buffer, events: string[]): void
}

export function eventSplitter(maxEventBytes = MAX_EVENT_BYTES): EventSplitter {
  /** Bytes after the last LF. */
  let pending: Buffer[] = []
  let pendingBytes = 0
  /** Data of the current event, from lines that ended. */
  let data: string | null = null
  let started = false

  function readLines(text: string, events: string[]): void {
    let start = 0
    if (!started) {
      started = true
      if (text.charCodeAt(0) === 0xfeff) start = 1
    }
    while (start < text.length) {
      const lf = text.indexOf('\n', start)
      const end = lf > start && text.charCodeAt(lf - 1) === 13 ? lf - 1 : lf
      if (end === start) {
        if (data !== null) events.push(data)
        data = null
      } else if (text.startsWith('data', start) && (text[start + 4] === ':' || end === start + 4)) {
        const from = text[start + 5] === ' ' && end > start + 5 ? start + 6 : Math.min(start + 5, end)
        const line = text.slice(from, end)
        data = data === null ? line : `${data}\n${line}`
      }
      start = lf + 1
    }
  }

  return {
    push(bytes, events) {
      const cut = bytes.lastIndexOf(LF) + 1
      if (cut > 0) {
        const whole =
          pendingBytes === 0
            ? bytes.toString('utf8', 0, cut)
            : Buffer.concat([...pending, bytes.subarray(0, cut)]).toString('utf8')
        if (pendingBytes > 0) {
          pending = []
          pendingBytes = 0
        }
        readLines(whole, events)
      }
      if (cut < bytes.length) {
        pending.push(cut === 0 ? bytes : bytes.subarray(cut))
        pendingBytes += bytes.length - cut
      }
      if (pendingBytes + (data === null ? 0 : data.length) > maxEventBytes) {
        throw new EventTooLong(`an event longer than ${maxEventBytes} bytes`)
      }
    },
  }
}
