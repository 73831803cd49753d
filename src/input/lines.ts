/**
 * The lines of a byte stream, one at a time and pulled by the reader: memory is bounded by the longest line that is allowed.
 * A line that cannot be used says why, and the next one is read. UTF-8, and UTF-16 where a byte order mark says so.
 */
import { isUtf8 } from 'node:buffer'
import { TextDecoder } from 'node:util'

export interface Line {
  /** From 1. */
  readonly number: number
  /** Null where there is a problem. Blank lines are left out, but counted. */
  readonly text: string | null
  readonly problem: string | null
  /** The first bytes of a line with a problem, one character each; else empty. */
  readonly head: string
  /** Bytes up to and with its line break. */
  readonly end: number
  /** False for a last line without a line break. */
  readonly terminated: boolean
}

const NEWLINE = 10
/** Enough to recognise a line, or an encoding, by. */
const HEAD_BYTES = 16
/** The longest mark that an encoding begins with. */
const MARK_BYTES = 4

/** A stream that cannot be lines of text at all. Its message says what it is, and what to do. */
export class UnreadableError extends Error {
  override readonly name = 'UnreadableError'
}

/** @throws UnreadableError */
export async function* readLines(source: AsyncIterable<Uint8Array>, maxBytes: number): AsyncGenerator<Line, void> {
  let parts: Buffer[] = []
  /** Bytes of the line so far, those of parts that were dropped included. */
  let length = 0
  let number = 0
  let end = 0
  /** Of a line that is too long. */
  let start: Buffer = Buffer.alloc(0)

  function finish(terminated: boolean): Line | null {
    const tooLong = length > maxBytes
    const bytes = parts.length === 1 ? parts[0]! : Buffer.concat(parts)
    const head = (tooLong ? start : bytes).toString('latin1', 0, HEAD_BYTES)
    number += 1
    end += length + (terminated ? 1 : 0)
    parts = []
    length = 0
    const broken = (problem: string): Line => ({ number, text: null, problem, head, end, terminated })
    if (tooLong) return broken(`expected at most ${maxBytes} bytes, found more`)
    if (!isUtf8(bytes)) return broken('expected UTF-8, found other bytes; convert the file with iconv')
    const text = bytes.toString('utf8')
    const line = number === 1 && text.startsWith('\ufeff') ? text.slice(1) : text
    if (line.includes('\0')) return broken('expected UTF-8, found NUL bytes; is it UTF-16? convert the file with iconv')
    return line.trim() === '' ? null : { number, text: line, problem: null, head: '', end, terminated }
  }

  for await (const chunk of decoded(source)) {
    let from = 0
    for (let at = chunk.indexOf(NEWLINE); at >= 0; at = chunk.indexOf(NEWLINE, from)) {
      add(chunk.subarray(from, at))
      from = at + 1
      const line = finish(true)
      if (line !== null) yield line
    }
    add(chunk.subarray(from))
  }
  const last = length > 0 ? finish(false) : null
  if (last !== null) yield last

  function add(bytes: Buffer): void {
    const fitted = length <= maxBytes
    length += bytes.length
    if (length <= maxBytes) {
      if (bytes.length > 0) parts.push(bytes)
    } else if (fitted) {
      start = Buffer.concat([...parts, bytes], HEAD_BYTES)
      parts = []
    }
  }
}

async function* decoded(source: AsyncIterable<Uint8Array>): AsyncGenerator<Buffer, void> {
  let head: Buffer | null = Buffer.alloc(0)
  let decoder: TextDecoder | null = null
  for await (const chunk of source) {
    let bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength)
    if (head !== null) {
      head = Buffer.concat([head, bytes])
      if (head.length < MARK_BYTES) continue
      decoder = decoderFor(head)
      bytes = head
      head = null
    }
    yield decoder === null ? bytes : Buffer.from(decoder.decode(bytes, { stream: true }))
  }
  if (head !== null) yield head
  if (decoder !== null) yield Buffer.from(decoder.decode())
}

function decoderFor(head: Buffer): TextDecoder | null {
  const mark = head.readUInt16BE(0)
  if (mark === 0xfffe) return new TextDecoder('utf-16le')
  if (mark === 0xfeff) return new TextDecoder('utf-16be')
  const packer = mark === 0x1f8b ? 'gzip' : head.readUInt32BE(0) === 0x28b52ffd ? 'zstd' : null
  if (packer === null) return null
  throw new UnreadableError(
    `expected JSON lines, found ${packer} data; unpack it: ${packer} -dc FILE | rollout-supervisor run -`,
  )
}
