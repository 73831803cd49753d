/**
 * What is left out before parsing is what was delivered, and nothing else of an event changes (I8).
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { createCumulativeParser } from '../../src/engines/sglang-cumulative.ts'

interface Event {
  readonly meta_info: { readonly output_token_logprobs: readonly unknown[] }
}

function eventOf(list: readonly unknown[], text: string, more: object = {}) {
  const meta = { id: text, finish_reason: null, output_token_logprobs: list, completion_tokens: list.length, ...more }
  return { text, output_ids: list.map((_, i) => i), meta_info: meta }
}

/** Parses each text as if all tokens of the one before had been delivered. @returns how many entries were left out of each */
function parseAll(texts: readonly string[]): number[] {
  const parser = createCumulativeParser()
  let delivered = 0
  return texts.map((text) => {
    const found = parser.parse(text, delivered) as Event
    const whole = JSON.parse(text) as Event
    const { output_token_logprobs: list } = whole.meta_info
    expect([0, delivered]).toContain(parser.left)
    const rest = { ...whole.meta_info, output_token_logprobs: list.slice(parser.left) }
    expect(found).toEqual({ ...whole, meta_info: rest })
    delivered = list.length
    return parser.left
  })
}

/** Lists that grow by so many entries. */
function growing(entries: readonly unknown[], sizes: readonly number[]): unknown[][] {
  let end = 0
  return sizes.map((size) => {
    end += size
    return entries.slice(0, end)
  })
}

const KEY = '"output_token_logprobs":[[-1,2,null],[-1,3,null]]'
const text = fc.oneof(fc.string(), fc.constantFrom(KEY, `\\${KEY}`, ']]', '[[', '"]],'))
const logprob = fc.oneof(fc.double({ max: 0, noNaN: true, noDefaultInfinity: true }), fc.constant(null))
const entry = fc.tuple(logprob, fc.nat(200_000), fc.constant(null))
const sizes = fc.array(fc.nat(4), { minLength: 2, maxLength: 8 })

describe('createCumulativeParser', () => {
  test('leaves out every entry that was delivered, whatever the text says', () => {
    fc.assert(
      fc.property(fc.array(entry, { minLength: 32, maxLength: 32 }), sizes, text, (entries, steps, said) => {
        const lists = growing(entries, steps)
        const left = parseAll(lists.map((list, i) => JSON.stringify(eventOf(list, said.repeat(i)))))
        expect(left).toEqual([0, ...lists.slice(0, -1).map((list) => list.length)])
      }),
      { numRuns: 300 },
    )
  })

  test('reads lists right whose entries change, hold strings or are written with spaces', () => {
    const named = fc.tuple(logprob, fc.nat(9), fc.oneof(fc.constant(null), text))
    const lists = fc.array(fc.array(named, { maxLength: 5 }), { minLength: 2, maxLength: 6 })
    fc.assert(
      fc.property(lists, text, fc.constantFrom(undefined, 1), (all, said, indent) => {
        parseAll(all.map((list) => JSON.stringify(eventOf(list, said), null, indent)))
      }),
      { numRuns: 500 },
    )
  })

  test('parses whole what has not all tokens that the server counts, or no list', () => {
    const first = JSON.stringify(eventOf([[-1, 5, null]], 'a'))
    const lost = JSON.stringify(
      eventOf(
        [
          [-1, 5, null],
          [-2, 6, null],
        ],
        'ab',
        { completion_tokens: 3 },
      ),
    )
    const none = JSON.stringify({ error: { message: 'x' } })
    const parser = createCumulativeParser()
    for (const other of [lost, none, '7']) {
      parser.parse(first, 0)
      expect(parser.parse(other, 1)).toEqual(JSON.parse(other))
      expect(parser.left).toBe(0)
    }
  })
})
