/**
 * Both forms of SGLang's stream events to chunks: every token once, nothing taken back, nothing lost in silence (I8).
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { sglangDecoder } from '../../src/engines/sglang-events.ts'
import { sglangEvent as event, sglangStream } from './fake-server.ts'

const peer = { id: 'a', url: 'http://a', apiKey: undefined }
const json = (value: unknown) => JSON.stringify(value)

/** Feeds reads (lists of events) and joins what comes out. */
function decode(reads: readonly (readonly unknown[])[], deltas = false) {
  const decoder = sglangDecoder(sglangStream(peer, deltas))
  const out = {
    ids: [] as number[],
    logprobs: [] as number[],
    text: '',
    finish: null as unknown,
    versions: null as unknown,
    failure: decoder.failure,
  }
  for (const read of reads) {
    const chunk = decoder.read(read.map((each) => (typeof each === 'string' ? each : json(each))))
    if (chunk !== null) {
      out.ids.push(...chunk.tokenIds)
      out.logprobs.push(...chunk.logprobs)
      out.text += chunk.text ?? ''
      out.finish = chunk.finishReason
      out.versions = chunk.versions
    }
    out.failure = decoder.failure
    if (out.failure !== null) break
  }
  return out
}

const stop = { type: 'stop', matched: 2 }
const aborted = { type: 'abort', message: 'Aborted', status_code: null }

describe('sglangDecoder', () => {
  test('gives every token once, in both forms, however events fall into reads and whatever the probe said (I8)', () => {
    const steps = fc.array(fc.array(fc.nat(1000), { minLength: 1, maxLength: 5 }), { minLength: 1, maxLength: 15 })
    const sizes = fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 20, maxLength: 20 })
    fc.assert(
      fc.property(steps, sizes, fc.boolean(), fc.boolean(), (parts, groups, cumulative, said) => {
        const all = parts.flat()
        let total = 0
        const list = parts.map((part, i) => {
          total += part.length
          const text = (cumulative ? all.slice(0, total) : part).map((id) => `${id},`).join('')
          const more =
            i === parts.length - 1 ? { text, finish: stop, spans: [{ version: '7', start: 0, end: total }] } : { text }
          return event(cumulative ? all.slice(0, total) : part, total, more)
        })
        const reads: unknown[][] = []
        const stream: unknown[] = [...list, '[DONE]']
        for (let i = 0; stream.length > 0; i++) reads.push(stream.splice(0, groups[i] ?? 1))
        const out = decode(reads, said)
        expect(out.ids).toEqual(all)
        expect(out.logprobs).toEqual(all.map((id) => -1 - id))
        expect(out.text).toBe(all.map((id) => `${id},`).join(''))
        expect(out.finish).toBe('stop')
        expect(out.versions).toEqual([{ version: '7', start: 0, end: all.length }])
      }),
      { numRuns: 300 },
    )
  })

  test('an abort in the queue that sends a short or an empty list takes nothing back (F12)', () => {
    for (const short of [[], [9]]) {
      const out = decode([[event([7, 8, 9], 3)], [event(short, 3, { finish: aborted })]])
      expect(out).toMatchObject({ ids: [7, 8, 9], finish: 'abort' })
    }
  })

  test('an abort in the queue that sends the whole list among deltas repeats nothing (F12)', () => {
    const last = event([7, 8, 9], 3, { text: 'abc', finish: aborted })
    expect(decode([[event([7], 1, { text: 'a' })], [event([8, 9], 3, { text: 'bc' })], [last]], true)).toMatchObject({
      ids: [7, 8, 9],
      text: 'abc',
      finish: 'abort',
    })
  })

  test('text that ends in half a character waits for the other half', () => {
    const events = [
      event([1], 1, { text: 'a\ufffd' }),
      event([1, 2], 2, { text: 'aż' }),
      event([1, 2, 3], 3, { text: 'aż\ufffd', finish: stop }),
    ]
    const decoder = sglangDecoder(sglangStream(peer, false))
    expect(events.map((each) => decoder.read([json(each)])?.text)).toEqual(['a', 'ż', '\ufffd'])
  })

  test('a label that changes on the way is not stretched over the tokens', () => {
    const labels = (first: string, second: string) =>
      decode([[event([1], 1, { version: first })], [event([1, 2], 2, { version: second, finish: stop })]]).versions
    expect(labels('7', '7')).toEqual([{ version: '7', start: 0, end: 2 }])
    expect(labels('7', '8')).toBeNull()
  })

  test('a server that gives no log-probabilities gives ids alone', () => {
    const bare = {
      text: 'x',
      output_ids: [4, 5],
      meta_info: { finish_reason: { type: 'length', length: 2 }, completion_tokens: 2 },
    }
    expect(decode([[bare]])).toMatchObject({ ids: [4, 5], logprobs: [], finish: 'length', versions: null })
  })

  test('without a count the form is what the server said at its probe', () => {
    const plain = (ids: number[], finish: unknown = null) => ({ output_ids: ids, meta_info: { finish_reason: finish } })
    expect(decode([[plain([1])], [plain([2], stop)]], true).ids).toEqual([1, 2])
    expect(decode([[plain([1])], [plain([1, 2], stop)]], false).ids).toEqual([1, 2])
  })

  test('a log-probability of minus infinity survives JSON, which has none', () => {
    const meta = { finish_reason: stop, completion_tokens: 1, output_token_logprobs: [[null, 5, null]] }
    expect(decode([[{ text: '', output_ids: [5], meta_info: meta }]]).logprobs).toEqual([Number.NEGATIVE_INFINITY])
  })

  test('tokens that the stream lost are an error, not a shorter sample (I8)', () => {
    expect(() => decode([[event([1], 1)], [event([4], 4)]])).toThrow('tokens are missing')
    expect(() => decode([[event([1], 1)], [event([1, 2], 5, { finish: stop })]])).toThrow('tokens are missing')
  })

  test.each([
    [{ error: { message: 'too long', code: 400 } }, 'REQUEST_REJECTED', 400],
    [{ error: { message: 'too long' } }, 'REQUEST_REJECTED', 400],
    [{ error: 'unknown field' }, 'REQUEST_REJECTED', 400],
    [{ error: { message: 'dead', code: 500 } }, 'ENGINE_ERROR', 500],
    [{ object: 'error', message: 'The request queue is full.', code: 503 }, 'BUSY', 503],
    [event([], 0, { finish: { type: 'abort', status_code: 503, message: 'The request queue is full.' } }), 'BUSY', 503],
    [event([], 0, { finish: { type: 'abort', status_code: 400, message: 'bad' } }), 'REQUEST_REJECTED', 400],
    [event([], 0, { finish: { type: 'abort', status_code: 500, message: 'dead' } }), 'ENGINE_ERROR', 500],
  ])('%j inside a 200 stream is an error of its code (F12)', (last, code, status) => {
    const first = event([1, 2], 2)
    for (const reads of [[[first], [last, '[DONE]']], [[event([1], 1), first, last]]]) {
      const out = decode(reads)
      expect(out.failure).toMatchObject({ code, status, instance: 'a' })
      expect(out).toMatchObject({ ids: [1, 2], finish: null })
    }
  })

  test.each([
    ['[]'],
    ['7'],
    ['{"choices":[]}'],
    ['{"meta_info":{"output_token_logprobs":["x"],"completion_tokens":1}}'],
    ['{"meta_info":{"finish_reason":{"type":"melted"}}}'],
    ['{"meta'],
  ])('refuses the event %s', (data) => {
    expect(() => decode([[data]])).toThrow()
  })
})
