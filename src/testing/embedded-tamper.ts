/**
 * One answer of an embedded engine on its way to the socket, let through event by event until the moment it goes wrong.
 */
import type { ServerResponse } from 'node:http'

/** How a stream goes wrong. */
export type StreamEnd =
  /** The socket closes between two events. */
  | { readonly kind: 'between' }
  /** The socket closes with half of an event sent. */
  | { readonly kind: 'event' }
  /** The socket closes with a part of one UTF-8 character sent. */
  | { readonly kind: 'character' }
  /** These bytes come in place of the next event, and the stream ends as if all were well. */
  | { readonly kind: 'bytes'; readonly bytes: Buffer }

export interface StreamFault {
  /** Events that get through before it. */
  readonly afterEvents: number
  readonly end: StreamEnd
}

const BLANK = Buffer.from('\n\n')
/** Two of the three bytes of U+20AC inside a string: what an event without such a character is replaced by. */
const HALF_CHARACTER = Buffer.concat([Buffer.from('data: {"text":"'), Buffer.from([0xe2, 0x82])])

/**
 * Lets `afterEvents` events of the answer through; the next one is where it goes wrong, if `strikes` says so. A shorter stream ends
 * unharmed.
 */
export function tamper(response: ServerResponse, fault: StreamFault, strikes: () => boolean): void {
  const write = response.write.bind(response) as (bytes: Buffer, done?: () => void) => boolean
  const end = response.end.bind(response) as () => ServerResponse
  let rest = Buffer.alloc(0)
  let events = 0
  let over = false

  function take(chunk: unknown): void {
    if (typeof chunk === 'string' || chunk instanceof Uint8Array) rest = Buffer.concat([rest, Buffer.from(chunk)])
    for (let at = rest.indexOf(BLANK); at >= 0 && !over; at = rest.indexOf(BLANK)) {
      const event = rest.subarray(0, at)
      rest = rest.subarray(at + BLANK.length)
      if (events++ !== fault.afterEvents || !strikes()) write(Buffer.concat([event, BLANK]))
      else strike(event)
    }
  }

  function strike(event: Buffer): void {
    over = true
    if (fault.end.kind === 'bytes') {
      write(fault.end.bytes)
      end()
      return
    }
    const part = partOf(event, fault.end.kind)
    // Destroyed only once they are sent: the client is to get all that was let through.
    write(part, () => response.destroy())
  }

  Object.assign(response, {
    write(chunk: unknown): boolean {
      if (!over) take(chunk)
      return true
    },
    end(chunk?: unknown): ServerResponse {
      if (over) return response
      take(chunk)
      if (over) return response
      if (rest.length > 0) write(rest)
      return end()
    },
  })
}

function partOf(event: Buffer, kind: 'between' | 'event' | 'character'): Buffer {
  // A comment, which says nothing: bytes are needed to learn when all before them were sent.
  if (kind === 'between') return Buffer.from(':\n')
  if (kind === 'event') return event.subarray(0, Math.ceil(event.length / 2))
  const wide = event.findIndex((byte) => byte >= 0xc0)
  return wide < 0 ? HALF_CHARACTER : event.subarray(0, wide + 1)
}
