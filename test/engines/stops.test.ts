/**
 * Ends that a server does not know of, in each dialect: stop strings over a seam, the token that an abort adds, and characters that a seam cuts
 * (engines.md 7 a, b; I8).
 */
import { describe, expect, test } from 'vitest'
import type { ChunkDecoder } from '../../src/engines/chunk-reader.ts'
import type { Chunk } from '../../src/engines/driver.ts'
import { llamaServerDecoder } from '../../src/engines/llama-server-events.ts'
import { openaiDecoder } from '../../src/engines/openai-events.ts'
import { openaiBody } from '../../src/engines/openai-request.ts'
import { sglangDecoder } from '../../src/engines/sglang-events.ts'
import { generateBody } from '../../src/engines/sglang-request.ts'
import { createStopWatch, type StopWatchOptions } from '../../src/engines/stop-watch.ts'
import { vllmDecoder } from '../../src/engines/vllm-events.ts'
import { sampling, sglangStream } from './fake-server.ts'

const peer = { id: 'a', url: 'http://a', apiKey: undefined }
const END = { ...sampling, stop: ['END'] }

/** Token `id` is the id-th of these; each has the log-probability -id. */
const PIECES = ['', 'E', 'N', 'D', 'xy', 'z', '\ufffd', '\ufffd']
const textOf = (ids: readonly number[]) => ids.map((id) => PIECES[id]).join('')

const watch = (textBefore: string | undefined, more: Partial<StopWatchOptions> = {}) =>
  createStopWatch({ textBefore, sampling: END, finds: 'begunBefore', heedsMinTokens: true, ...more })

const read = (decoder: ChunkDecoder, ...events: unknown[]): Chunk | null =>
  decoder.read(events.map((event) => JSON.stringify(event)))

interface Said {
  readonly text?: string
  readonly finish?: unknown
}

/** The event of each dialect for these tokens, all of its stream so far. */
const forms = {
  'SGLang, cumulative'(before: readonly number[], ids: readonly number[], { text, finish = null }: Said = {}) {
    const all = [...before, ...ids]
    return {
      text: textOf(before) + (text ?? textOf(ids)),
      output_ids: all,
      meta_info: {
        finish_reason: finish === null ? null : { type: finish },
        weight_version: '7',
        completion_tokens: all.length,
        output_token_logprobs: all.map((id) => [-id, id, PIECES[id]]),
      },
    }
  },
  'SGLang, deltas'(before: readonly number[], ids: readonly number[], { text, finish = null }: Said = {}) {
    return {
      text: text ?? textOf(ids),
      output_ids: ids,
      meta_info: {
        finish_reason: finish === null ? null : { type: finish },
        weight_version: '7',
        completion_tokens: before.length + ids.length,
        output_token_logprobs: ids.map((id) => [-id, id, PIECES[id]]),
      },
    }
  },
  'vLLM, generate'(_: readonly number[], ids: readonly number[], { text, finish = null }: Said = {}) {
    const content = ids.map((id) => ({ token: PIECES[id], logprob: -id }))
    const choice = { token_ids: ids, text: text ?? textOf(ids), logprobs: { content }, finish_reason: finish }
    return { choices: [choice] }
  },
  'vLLM, completions'(_: readonly number[], ids: readonly number[], { text, finish = null }: Said = {}) {
    const logprobs = { tokens: ids.map((id) => PIECES[id]), token_logprobs: ids.map((id) => -id) }
    return { choices: [{ token_ids: ids, text: text ?? textOf(ids), logprobs, finish_reason: finish }] }
  },
  OpenAI(_: readonly number[], ids: readonly number[], { text, finish = null }: Said = {}) {
    const logprobs = { tokens: ids.map((id) => PIECES[id]), token_logprobs: ids.map((id) => -id) }
    return { choices: [{ token_ids: ids, text: text ?? textOf(ids), logprobs, finish_reason: finish }] }
  },
}
type Form = keyof typeof forms

function decoderOf(form: Form, stops = watch('E')): ChunkDecoder {
  if (form === 'OpenAI') return openaiDecoder(peer, '/v1/completions', true, stops)
  if (form.startsWith('SGLang'))
    return sglangDecoder({
      ...sglangStream(peer, form === 'SGLang, deltas'),
      sampling: END,
      stops,
      pieceStops: stops === null ? null : watch('E'),
    })
  const route = form === 'vLLM, generate' ? '/inference/v1/generate' : '/v1/completions'
  return vllmDecoder({ peer, route, logprobs: true, versions: true, stops })
}

describe.each(Object.keys(forms) as Form[])('%s: a stop string that began before the seam', (form) => {
  const event = forms[form]

  test('ends the sample with the token that completes it, and the text with it, in the middle of an event', () => {
    const chunk = read(decoderOf(form), event([], [2, 3, 4, 5]))
    expect(chunk).toMatchObject({ tokenIds: [2, 3], logprobs: [-2, -3], text: 'ND', finishReason: 'stop', isCut: true })
    const isLabelled = form.startsWith('SGLang')
    expect(chunk?.versions).toEqual(isLabelled ? [{ version: '7', start: 0, end: 2 }] : null)
  })

  test('ends it over several events, in one read or in many', () => {
    const decoder = decoderOf(form)
    expect(read(decoder, event([], [2]))).toMatchObject({ tokenIds: [2], text: 'N', finishReason: null, isCut: false })
    expect(read(decoder, event([2], [3]))).toMatchObject({
      tokenIds: [3],
      text: 'D',
      finishReason: 'stop',
      isCut: true,
    })
    const both = read(decoderOf(form), event([], [2]), event([2], [3]), event([2, 3], [4]))
    expect(both).toMatchObject({ tokenIds: [2, 3], text: 'ND', finishReason: 'stop', isCut: true })
  })

  test('wins over the end of the budget, and then the server knows', () => {
    const chunk = read(decoderOf(form), event([], [2, 3], { finish: 'length' }))
    expect(chunk).toMatchObject({ tokenIds: [2, 3], text: 'ND', finishReason: 'stop', isCut: false })
  })

  test('is none where it goes on differently; a later one is the server’s to find', () => {
    const decoder = decoderOf(form)
    expect(read(decoder, event([], [2, 5]))).toMatchObject({ tokenIds: [2, 5], text: 'Nz', finishReason: null })
    const later = read(decoder, event([2, 5], [1, 2, 3], { finish: 'stop' }))
    expect(later).toMatchObject({ tokenIds: [1, 2, 3], text: 'END', finishReason: 'stop', isCut: false })
  })
})

test.each(['vLLM, generate', 'vLLM, completions', 'OpenAI'] as const)(
  '%s: a stop string that ends within minTokens passes, as it does there',
  (form) => {
    const held = watch('E', { sampling: { ...END, minTokens: 2 } })
    expect(read(decoderOf(form, held), forms[form]([], [2, 3, 4]))).toMatchObject({ finishReason: null })
    const after = watch('E', { sampling: { ...END, minTokens: 1 } })
    expect(read(decoderOf(form, after), forms[form]([], [2, 3, 4]))).toMatchObject({ finishReason: 'stop' })
  },
)

test.each(['SGLang, cumulative', 'SGLang, deltas'] as const)(
  '%s: its text is behind its tokens where the newest ends inside a character, and the stop string is found in those',
  (form) => {
    const decoder = decoderOf(form)
    expect(read(decoder, forms[form]([], [2], { text: '' }))).toMatchObject({ tokenIds: [2], finishReason: null })
    const chunk = read(decoder, forms[form]([2], [3, 4, 6], { text: '' }))
    expect(chunk).toMatchObject({ tokenIds: [3], text: 'ND', finishReason: 'stop', isCut: true })
  },
)

describe('SGLang: the token that an abort adds', () => {
  const stream = (more: object = {}) => {
    const endIds = new Set<number>()
    const made = (deltas = true) => sglangDecoder({ ...sglangStream(peer, deltas), endIds, ...more })
    return { made, endIds }
  }
  const event = forms['SGLang, deltas']
  const ended = (matched: number) => ({
    ...event([], [4]),
    meta_info: { ...event([], [matched]).meta_info, finish_reason: { type: 'stop', matched } },
  })

  test('ends the sample where it is a stop id or ends one on this server, as samples before have shown', () => {
    const { made, endIds } = stream()
    expect(read(made(), event([], [4]), event([4], [5], { finish: 'abort' }))).toMatchObject({ finishReason: 'abort' })
    read(made(), ended(5))
    expect([...endIds]).toEqual([5])
    expect(read(made(), event([], [4]), event([4], [5], { finish: 'abort' }))).toMatchObject({
      tokenIds: [4, 5],
      finishReason: 'stop',
      isCut: false,
    })
    // Nothing came after the abort: the last token was looked at.
    expect(read(made(), event([], [5]), event([5], [], { finish: 'abort' }))).toMatchObject({ finishReason: 'abort' })
    const asked = stream({ sampling: { ...sampling, stopTokenIds: [5] } })
    expect(read(asked.made(), event([], [5], { finish: 'abort' }))).toMatchObject({ finishReason: 'stop' })
    read(asked.made(), ended(5))
    expect([...asked.endIds]).toEqual([])
  })

  test('ends nothing where ends are ignored', () => {
    const { made, endIds } = stream({ sampling: { ...sampling, ignoreEos: true, stopTokenIds: [5] } })
    endIds.add(4)
    expect(read(made(), event([], [5], { finish: 'abort' }))).toMatchObject({ finishReason: 'abort' })
    expect(read(made(), event([], [4], { finish: 'abort' }))).toMatchObject({ finishReason: 'abort' })
  })

  test.each([true, false])('ends the sample where it completes a stop string (deltas: %s)', (deltas) => {
    const form = deltas ? event : forms['SGLang, cumulative']
    const { made } = stream({ sampling: { ...END, stop: ['NDxy'] } })
    const chunk = read(made(deltas), form([], [1, 2]), form([1, 2], [3, 4], { finish: 'abort' }))
    expect(chunk).toMatchObject({ tokenIds: [1, 2, 3, 4], text: 'ENDxy', finishReason: 'stop', isCut: false })
  })
})

describe.each(['vLLM, generate', 'vLLM, completions', 'OpenAI'] as const)('%s: tokens inside a character', (form) => {
  const event = forms[form]

  test('are told until it is complete, and not at all where there is no text', () => {
    const decoder = decoderOf(form, null)
    expect(read(decoder, event([], [4]))).toMatchObject({ hidden: 0 })
    expect(read(decoder, event([], [6], { text: '' }))).toMatchObject({ hidden: 1 })
    expect(read(decoder, event([], [7], { text: '' }))).toMatchObject({ hidden: 2 })
    expect(read(decoder, event([], [7], { text: 'é' }))).toMatchObject({ hidden: 0 })
    expect(read(decoder, event([], [6], { text: '' }), event([], [], { text: '', finish: 'abort' }))).toMatchObject({
      hidden: 1,
      finishReason: 'abort',
    })
  })

  test('are told apart from whole ones that came with them', () => {
    if (form !== 'OpenAI')
      expect(read(decoderOf(form, null), event([], [4, 6, 7], { text: 'xy' }))).toMatchObject({ hidden: 2 })
  })
})

test('a server is asked for the text of each token, and to keep stop strings, where that matters', () => {
  const request = { requestId: 'r', prompt: [1], sampling: END }
  const asks = (body: string) => (JSON.parse(body) as { return_text_in_logprobs?: boolean }).return_text_in_logprobs
  expect([generateBody(request, true), generateBody({ ...request, textBefore: 'E' }, true)].map(asks)).toEqual([
    undefined,
    true,
  ])
  const openai = (tokenIds: boolean) =>
    JSON.parse(openaiBody(request, { model: 'm', completions: true, tokenIds })) as object
  const kept = { include_stop_str_in_output: true, no_stop_trim: true }
  expect(openai(true)).toMatchObject(kept)
  for (const key of Object.keys(kept)) expect(openai(false)).not.toHaveProperty(key)
})

test('llama-server: stop strings are enforced here, and its socket is closed', () => {
  const stops = watch(undefined, { finds: 'all', heedsMinTokens: false })
  const decoder = llamaServerDecoder(peer, sampling, stops)
  const event = (id: number) => ({
    content: PIECES[id],
    tokens: [id],
    stop: false,
    completion_probabilities: [{ logprob: -id }],
  })
  expect(read(decoder, event(1), event(2))).toMatchObject({ text: 'EN', finishReason: null, isCut: false })
  expect(read(decoder, event(3), event(4))).toMatchObject({
    tokenIds: [3],
    logprobs: [-3],
    text: 'D',
    finishReason: 'stop',
    isCut: true,
  })
})
