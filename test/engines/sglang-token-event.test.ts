/**
 * What is read without parsing is what parsing finds, and an event that says anything else is left to the parser (I8).
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { createTokenEventReader, type TokenEventReader } from '../../src/engines/sglang-token-event.ts'
import { recorded } from './fake-server.ts'

interface Event {
  readonly text: string
  readonly output_ids: readonly number[]
  readonly meta_info: Record<string, unknown> & {
    readonly finish_reason: unknown
    readonly output_token_logprobs: readonly (readonly [number, number, null])[]
    readonly completion_tokens: number
  }
}

/** One event as SGLang 0.5.23 writes it. */
function eventOf(tokenId: number, logprob: number, text: string, total: number, more: object = {}): Event {
  return {
    text,
    output_ids: [tokenId],
    meta_info: {
      id: 'attempt-0000000000001',
      finish_reason: null,
      weight_version: '3',
      output_token_logprobs: [[logprob, tokenId, null]],
      output_token_logprobs_length: total,
      reasoning_tokens: 0,
      completion_tokens: total,
      cached_tokens_details: { device: 2, host: 0 },
      ...more,
    },
  }
}

function lesson(event: Event): TokenEventReader {
  const reader = createTokenEventReader()
  reader.learn(JSON.stringify(event), event.meta_info.completion_tokens)
  return reader
}

/** An event without its token. */
function without({ meta_info, ...rest }: Event): object {
  const { output_token_logprobs: _, output_token_logprobs_length: __, completion_tokens: ___, ...meta } = meta_info
  return { ...rest, text: '', output_ids: [], meta_info: meta }
}

function mustAgree(reader: TokenEventReader, learnt: Event, data: string): void {
  const event = JSON.parse(data) as Event
  const [[logprob, tokenId] = []] = event.meta_info.output_token_logprobs
  const { tokenId: id, logprob: value, text, total } = reader
  expect({ id, value, text, total }).toEqual({
    id: tokenId,
    value: logprob,
    text: event.text,
    total: event.meta_info.completion_tokens,
  })
  expect(event.output_ids).toEqual([tokenId])
  expect(without(event)).toEqual(without(learnt))
}

const KEYS = '","output_ids":[7],"meta_info":{"output_token_logprobs":[[-1,7,null]],"completion_tokens":9}}'
const text = fc.oneof(fc.string(), fc.string({ unit: 'binary' }), fc.constantFrom(KEYS, '\\', '\\"', '\ufffd', ''))
const logprob = fc.double({ max: 0, noNaN: true, noDefaultInfinity: true })
const token = fc.tuple(fc.nat(200_000), logprob, text, fc.integer({ min: 1, max: 100_000 }))

describe('createTokenEventReader', () => {
  test('reads every event that differs in its token alone, whatever the text says', () => {
    fc.assert(
      fc.property(token, fc.array(token, { maxLength: 6 }), (first, others) => {
        const learnt = eventOf(...first)
        const reader = lesson(learnt)
        for (const other of others) {
          const data = JSON.stringify(eventOf(...other))
          expect(reader.read(data)).toBe(true)
          mustAgree(reader, learnt, data)
        }
      }),
      { numRuns: 500 },
    )
  })

  test.each<[string, object]>([
    ['the end', { finish_reason: { type: 'stop', matched: 2 } }],
    ['new weights', { weight_version: '4' }],
    ['no label', { weight_version: undefined }],
    ['another request', { id: 'attempt-0000000000002' }],
    ['spans', { weight_versions: [{ version: '3', start: 0, end: 2 }] }],
    [
      'a second token',
      {
        output_token_logprobs: [
          [-1, 5, null],
          [-2, 6, null],
        ],
      },
    ],
    ['no log-probability', { output_token_logprobs: [[null, 5, null]] }],
    ['a token with its text', { output_token_logprobs: [[-1, 5, 'a']] }],
    ['another token among the ids', { output_token_logprobs: [[-1, 6, null]] }],
    ['nothing sampled', { output_token_logprobs: [] }],
    ['counts that disagree', { completion_tokens: 3 }],
  ])('leaves to the parser what says more: %s', (_, more) => {
    const reader = lesson(eventOf(4, -0.5, 'a', 1))
    expect(reader.read(JSON.stringify(eventOf(5, -1, 'b', 2, more)))).toBe(false)
    expect(reader.read(JSON.stringify(eventOf(5, -1, 'b', 2)))).toBe(true)
  })

  test('leaves to the parser what has another field between text and ids', () => {
    const reader = lesson(eventOf(4, -0.5, 'a', 1))
    const data = JSON.stringify(eventOf(5, -1, 'b', 2))
    expect(reader.read(data.replace('"b"', '"b","error":"no"'))).toBe(false)
    expect(reader.read(data.replace('"b"', '"b\\\\","error":"no"'))).toBe(false)
    expect(reader.read(data.replace('"b"', '"b\\\\"'))).toBe(true)
    expect(reader.text).toBe('b\\')
  })

  test('what it reads of a changed text, the parser finds there too', () => {
    const learnt = eventOf(4, -0.5, 'a', 1)
    const characters = fc.constantFrom(...'"\\[]{},:0123456789.-eaE n')
    fc.assert(
      fc.property(token, fc.nat(), fc.nat(3), fc.string({ unit: characters, maxLength: 4 }), (other, at, gone, put) => {
        const whole = JSON.stringify(eventOf(...other))
        const start = at % whole.length
        const data = whole.slice(0, start) + put + whole.slice(start + gone)
        const reader = lesson(learnt)
        if (isJson(data) && reader.read(data)) mustAgree(reader, learnt, data)
      }),
      { numRuns: 2_000 },
    )
  })

  test('learns nothing from events that it could not tell apart, and stops trying', () => {
    const reader = createTokenEventReader()
    const plain = eventOf(4, -0.5, 'a', 1)
    reader.learn(JSON.stringify({ ...plain, index: 0 }).replace('"text"', '"said"'), 1)
    expect(reader.read(JSON.stringify(plain))).toBe(false)
    reader.learn(JSON.stringify(plain), 2)
    expect(reader.read(JSON.stringify(plain))).toBe(false)
    for (let i = 0; i < 6; i++) reader.learn('{}', 1)
    reader.learn(JSON.stringify(plain), 1)
    expect(reader.read(JSON.stringify(plain))).toBe(false)
  })

  test('parses three events of a stream of a real SGLang: the first, from which it learns, one after it, and the last', () => {
    const { body } = recorded('sglang-deltas')('generateEveryToken')
    const events = [...body.matchAll(/^data: (\{.*\})$/gm)].map(([, data]) => data!)
    const reader = createTokenEventReader()
    const parsed = events.filter((data) => {
      if (reader.read(data)) return false
      const { finish_reason, completion_tokens } = (JSON.parse(data) as Event).meta_info
      if (finish_reason === null) reader.learn(data, completion_tokens)
      return true
    })
    // The first says as well when it was answered.
    expect(parsed).toEqual([events[0], events[1], events.at(-1)])
    expect(events.length).toBeGreaterThan(4)
  })
})

function isJson(data: string): boolean {
  try {
    JSON.parse(data)
    return true
  } catch {
    return false
  }
}
