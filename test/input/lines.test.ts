/**
 * Lines of a byte stream: the same however the bytes arrive, in every encoding that says what it is, with the number of each bad one.
 */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type Line, readLines } from '../../src/input/lines.ts'

async function* chunks(bytes: Buffer, size: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size)
}

async function linesOf(bytes: Buffer, size = 64 * 1024, maxBytes = 1_000): Promise<Line[]> {
  const lines: Line[] = []
  for await (const line of readLines(chunks(bytes, size), maxBytes)) lines.push(line)
  return lines
}

const texts = (lines: readonly Line[]) => lines.map(({ text }) => text)

describe('lines', () => {
  it('are those of the text, however its bytes are cut', async () => {
    const word = fc.string({ unit: 'grapheme', maxLength: 20 }).map((text) => text.replace(/[\n\0\ufeff]/g, '-'))
    await fc.assert(
      fc.asyncProperty(fc.array(word), fc.integer({ min: 1, max: 9 }), fc.boolean(), async (words, size, ended) => {
        const bytes = Buffer.from(words.join('\n') + (ended ? '\n' : ''))
        const lines = await linesOf(bytes, size)
        expect(texts(lines)).toEqual(words.filter((text) => text.trim() !== ''))
        for (const { number, text } of lines) expect(text).toBe(words[number - 1])
        const last = lines.at(-1)
        if (last !== undefined) expect(bytes.subarray(0, last.end).toString().trimEnd()).toMatch(/\S$/)
      }),
    )
  })

  it('come out of UTF-8 with a mark and of UTF-16 in both orders', async () => {
    const text = '\ufeff{"a":"é"}\r\n{"b":"字😀"}\n'
    const little = Buffer.from(text, 'utf16le')
    for (const bytes of [Buffer.from(text), little, Buffer.from(little).swap16()]) {
      for (const size of [1, 3, 1_000])
        expect(texts(await linesOf(bytes, size)).map((line) => JSON.parse(line!))).toEqual([{ a: 'é' }, { b: '字😀' }])
    }
  })

  it('with bytes that are no text are named by number, and the next ones are read', async () => {
    const bytes = Buffer.concat([
      Buffer.from('one\n\n'),
      Buffer.from([0xff, 0xc3, 0x28, 10]),
      Buffer.from('f\0o\0\n'),
      Buffer.from(`${'x'.repeat(2_000)}\ntwo`),
    ])
    for (const size of [1, 7, 4_096]) {
      const lines = await linesOf(bytes, size)
      expect(lines.map(({ number, text, problem }) => [number, text ?? problem])).toEqual([
        [1, 'one'],
        [3, 'expected UTF-8, found other bytes; convert the file with iconv'],
        [4, 'expected UTF-8, found NUL bytes; is it UTF-16? convert the file with iconv'],
        [5, 'expected at most 1000 bytes, found more'],
        [6, 'two'],
      ])
      expect(lines.at(-2)?.head).toBe('x'.repeat(16))
      expect(lines.at(-1)).toMatchObject({ terminated: false, end: bytes.length })
    }
  })

  it.each([
    ['gzip', [0x1f, 0x8b, 8, 0, 0]],
    ['zstd', [0x28, 0xb5, 0x2f, 0xfd, 0]],
  ])('packed with %s are refused as a whole', async (name, bytes) => {
    await expect(linesOf(Buffer.from(bytes))).rejects.toThrow(`found ${name} data; unpack it`)
  })
})
