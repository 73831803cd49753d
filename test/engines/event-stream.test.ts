/**
 * The splitter of server-sent events: the same events however the network cuts the bytes, and a bound on one event.
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { EventTooLong, eventSplitter } from '../../src/engines/event-stream.ts'

function split(chunks: readonly Uint8Array[], limit?: number): string[] {
  const splitter = eventSplitter(limit)
  const events: string[] = []
  for (const chunk of chunks) splitter.push(Buffer.from(chunk), events)
  return events
}

const cut = (bytes: Uint8Array, at: readonly number[]): Uint8Array[] => {
  const places = [...new Set(at.map((n) => n % (bytes.length + 1)))].sort((a, b) => a - b)
  return [...places, bytes.length].map((end, i) => bytes.subarray(i === 0 ? 0 : places[i - 1], end))
}

describe('eventSplitter', () => {
  test('gives the same events however the network cuts the bytes (F18)', () => {
    const line = fc.string({ unit: 'grapheme' }).map((s) => s.replace(/[\r\n]/g, ' '))
    const piece = fc.oneof(
      line.map((s) => ({ lines: [`data: ${s}`], data: s as string | null })),
      fc
        .array(line, { minLength: 2, maxLength: 3 })
        .map((s) => ({ lines: s.map((each) => `data: ${each}`), data: s.join('\n') as string | null })),
      line.map((s) => ({ lines: [`: ${s}`], data: null as string | null })),
      fc.constant({ lines: ['event: note', 'id: 7', 'retry: 5'], data: null as string | null }),
      fc.constant({ lines: [], data: null as string | null }),
    )
    const stream = fc.array(fc.tuple(piece, fc.constantFrom('\n', '\r\n')), { maxLength: 12, size: 'max' })
    fc.assert(
      fc.property(stream, fc.array(fc.nat(), { maxLength: 40, size: 'max' }), (pieces, at) => {
        const text = pieces.map(([p, eol]) => [...p.lines, ''].map((l) => l + eol).join('')).join('')
        const expected = pieces.map(([p]) => p.data).filter((d) => d !== null)
        expect(split(cut(Buffer.from(text), at))).toEqual(expected)
      }),
      { numRuns: 500 },
    )
  })

  test('never splits a character, even one byte at a time', () => {
    const bytes = Buffer.from('data: {"text":"żółć 漢字 🦊"}\r\n\r\n')
    expect(split([...bytes].map((b) => Uint8Array.of(b)))).toEqual(['{"text":"żółć 漢字 🦊"}'])
  })

  test.each([
    ['a field without a space', 'data:x\n\n', ['x']],
    ['only the first space is dropped', 'data:  x\n\n', [' x']],
    ['an empty field', 'data\n\n', ['']],
    ['a field that only begins like data', 'database: x\n\n', []],
    ['a byte order mark', '\ufeffdata: x\n\n', ['x']],
    ['an event that the end cuts off', 'data: x\n\ndata: y\n', ['x']],
    ['blank lines alone', '\n\n\r\n\n', []],
  ])('reads %s', (_, text, expected) => {
    expect(split([Buffer.from(text)])).toEqual(expected)
  })

  test('refuses an event longer than its limit, in one line or in many (F18)', () => {
    const long = Buffer.from(`data: ${'x'.repeat(600)}`)
    expect(() => split([long, long], 1000)).toThrow(EventTooLong)
    expect(() => split(Array(100).fill(Buffer.from('data: xxxxxxxxxxxxxxx\n')), 1000)).toThrow(EventTooLong)
    expect(split(Array(100).fill(Buffer.from('data: xxxxxxxxxxxxxxx\n\n')), 1000)).toHaveLength(100)
  })
})
