/**
 * Stop strings over a seam: what the driver and the server find together after an interruption is what the server finds without one (I8).
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { createStopWatch } from '../../src/engines/stop-watch.ts'
import { begunStop, endOfStop } from '../../src/rollout/stop-text.ts'

interface End {
  readonly tokens: number
  readonly text: string
}

/** As an engine does it: after every token, in the text of its own request. Null where no stop string ends. */
function endWithoutSeam(pieces: readonly string[], stops: readonly string[], minTokens: number): End | null {
  let text = ''
  for (const [index, piece] of pieces.entries()) {
    const after = text.length
    text += piece
    const end = index < minTokens ? -1 : endOfStop(text, stops, after)
    if (end !== -1) return { tokens: index + 1, text: text.slice(0, end) }
  }
  return null
}

/** Cuts tokens into events of these sizes, again and again. */
function eventsOf(pieces: readonly string[], sizes: readonly number[]): string[][] {
  const events: string[][] = []
  for (let at = 0, i = 0; at < pieces.length; at += sizes[i++ % sizes.length]!)
    events.push(pieces.slice(at, at + sizes[i % sizes.length]!))
  return events
}

const letters = fc.constantFrom('a', 'b', 'ab', 'ba', 'aab', 'bb', ' a', '')
const stopOf = fc.string({ unit: fc.constantFrom('a', 'b', ' '), minLength: 1, maxLength: 8 })
const cases = fc.record({
  pieces: fc.array(letters, { minLength: 1, maxLength: 24 }),
  stops: fc.array(stopOf, { minLength: 1, maxLength: 3 }),
  seam: fc.nat(24),
  sizes: fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 4 }),
  minTokens: fc.oneof(fc.constant(0), fc.nat(12)),
})

test('a seam anywhere changes neither the last token nor the text, whatever came in one event', () => {
  fc.assert(
    fc.property(cases, ({ pieces, stops, seam: at, sizes, minTokens }) => {
      const whole = endWithoutSeam(pieces, stops, minTokens)
      const seam = Math.min(at, (whole?.tokens ?? pieces.length + 1) - 1)
      const before = pieces.slice(0, seam).join('')
      const left = Math.max(0, minTokens - seam)
      const sampling = { stop: stops, minTokens: left }
      const textBefore = begunStop(before, stops)
      const watch = createStopWatch({ textBefore, sampling, finds: 'begunBefore', heedsMinTokens: true })
      const after = pieces.slice(seam)
      const own = endWithoutSeam(after, stops, left)
      let found: End | null = null
      let [tokens, text] = [0, '']
      // The server ends its stream with what it finds.
      for (const event of eventsOf(after.slice(0, own?.tokens), sizes)) {
        const cut = own !== null && tokens + event.length === own.tokens
        const said = cut ? own.text.slice(text.length) : event.join('')
        const end = watch?.isOpen ? watch.read(said, event.length, event) : null
        if (end !== null) {
          found = { tokens: tokens + end.tokens, text: text + said.slice(0, end.characters) }
          break
        }
        tokens += event.length
        text += said
      }
      const end = found ?? own
      expect(end === null ? null : { tokens: seam + end.tokens, text: before + end.text }).toEqual(whole)
    }),
    { numRuns: 3_000 },
  )
})

test('where the server knows of none, all are found', () => {
  fc.assert(
    fc.property(cases, ({ pieces, stops, sizes }) => {
      const sampling = { stop: stops, minTokens: 0 }
      const watch = createStopWatch({ textBefore: undefined, sampling, finds: 'all', heedsMinTokens: false })!
      let found: End | null = null
      let [tokens, text] = [0, '']
      for (const event of eventsOf(pieces, sizes)) {
        expect(watch.isOpen).toBe(true)
        const end = watch.read(event.join(''), event.length, event)
        if (end !== null) {
          found = { tokens: tokens + end.tokens, text: text + event.join('').slice(0, end.characters) }
          break
        }
        tokens += event.length
        text += event.join('')
      }
      expect(found).toEqual(endWithoutSeam(pieces, stops, 0))
    }),
    { numRuns: 2_000 },
  )
})

describe('tokens that came together', () => {
  const read = (text: string, pieces: readonly string[] | null, count = pieces?.length ?? 1) => {
    const sampling = { stop: ['END'], minTokens: 0 }
    const watch = createStopWatch({ textBefore: 'E', sampling, finds: 'begunBefore', heedsMinTokens: false })!
    return watch.read(text, count, pieces)
  }

  test('are told apart by their own texts, and stand together without', () => {
    expect(read('NDxyz', ['N', 'D', 'xy', 'z'])).toEqual({ tokens: 2, characters: 2 })
    expect(read('NDxyz', null, 4)).toEqual({ tokens: 4, characters: 2 })
  })

  test('whose own texts lack a first space, or are parts of a character, end where the next begins', () => {
    expect(read('ND of it', ['N', 'D', 'of', 'it'])).toEqual({ tokens: 2, characters: 2 })
    expect(read('é', ['\ufffd', '\ufffd'])).toBeNull()
    const sampling = { stop: ['Eéa'], minTokens: 0 }
    const watch = createStopWatch({ textBefore: 'E', sampling, finds: 'begunBefore', heedsMinTokens: false })!
    expect(watch.read('éabc', 4, ['\ufffd', '\ufffd', 'a', 'bc'])).toEqual({ tokens: 3, characters: 2 })
  })
})

test('nothing is watched where no stop string has begun, and no longer than it may end', () => {
  expect(begunStop('no end in sight', ['END'])).toBeUndefined()
  expect(begunStop(null, ['END'])).toBeUndefined()
  expect(begunStop('THE EN', ['END', 'E END'])).toBe('E EN')
  const sampling = { stop: ['END'], minTokens: 0 }
  const options = { sampling, finds: 'begunBefore', heedsMinTokens: false } as const
  expect(createStopWatch({ ...options, textBefore: undefined })).toBeNull()
  expect(createStopWatch({ ...options, textBefore: 'E', sampling: { stop: [], minTokens: 0 } })).toBeNull()
  const watch = createStopWatch({ ...options, textBefore: 'E' })!
  watch.read('', 1, null)
  expect(watch.isOpen).toBe(true)
  watch.read('x', 1, null)
  expect(watch.isOpen).toBe(false)
})
