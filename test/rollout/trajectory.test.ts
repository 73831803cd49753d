/**
 * Trajectories: tokens, mask, log-probabilities and spans of many turns in one sequence (I8), and when a new one begins.
 */
import { expect, test } from 'vitest'
import type { Completion } from '../../src/rollout/completion.ts'
import type { Prompt } from '../../src/rollout/task.ts'
import { createTranscript, type Transcript } from '../../src/rollout/trajectory.ts'

function said(tokenIds: readonly number[], more: Partial<Completion> = {}): Completion {
  return {
    tokenIds: Int32Array.from(tokenIds),
    logprobs: Float32Array.from(tokenIds, (id) => -id / 8),
    versions: tokenIds.length === 0 ? [] : [{ version: 1, start: 0, end: tokenIds.length }],
    logprobBasis: 'sampled',
    text: null,
    ...more,
  } as Completion
}

/** One turn, as an episode makes it; `ids` are what a server makes of a prompt that is none. */
function turn(transcript: Transcript, append: Prompt | undefined, completion: Completion, ids: number[] | null = null) {
  const prompt = transcript.promptWith(append)
  transcript.add(
    prompt,
    prompt instanceof Int32Array || typeof prompt[0] === 'number' ? (prompt as number[]) : ids,
    completion,
  )
  return prompt
}

test('token ids: every prompt is all that was said, and the mask says what the policy wrote', () => {
  const transcript = createTranscript()
  expect([...turn(transcript, [1, 2], said([3, 4]))]).toEqual([1, 2])
  const second = said([7], { versions: [{ version: 2, start: 0, end: 1, mixed: true }] })
  expect([...turn(transcript, Int32Array.of(5, 6), second)]).toEqual([1, 2, 3, 4, 5, 6])
  expect([...turn(transcript, undefined, said([8]))]).toEqual([1, 2, 3, 4, 5, 6, 7])
  const { trajectory, earlier } = transcript.view()
  expect(earlier).toEqual([])
  expect(trajectory).toEqual({
    tokenIds: Int32Array.of(1, 2, 3, 4, 5, 6, 7, 8),
    mask: Uint8Array.of(0, 0, 1, 1, 0, 0, 1, 1),
    logprobs: Float32Array.of(0, 0, -3 / 8, -4 / 8, 0, 0, -7 / 8, -1),
    logprobBasis: 'sampled',
    versions: [
      { version: 1, start: 2, end: 4 },
      { version: 2, start: 6, end: 7, mixed: true },
      { version: 1, start: 7, end: 8 },
    ],
    turns: [
      { start: 2, end: 4, completion: expect.anything() },
      { start: 6, end: 7, completion: second },
      { start: 7, end: 8, completion: expect.anything() },
    ],
  })
  expect(transcript.tokenIds).toEqual(trajectory.tokenIds)
})

test('thousands of tokens in one, and views that later turns do not change', () => {
  const transcript = createTranscript()
  const ids = Array.from({ length: 3_000 }, (_, at) => at)
  turn(transcript, ids, said(ids))
  const { trajectory } = transcript.view()
  turn(transcript, [9], said([10], { logprobBasis: 'raw' }))
  expect(trajectory.tokenIds).toEqual(Int32Array.from([...ids, ...ids]))
  expect(trajectory.turns).toHaveLength(1)
  expect(trajectory.logprobBasis).toBe('sampled')
  const later = transcript.view().trajectory
  expect([later.tokenIds.length, later.mask.length, later.logprobs.length]).toEqual([6_002, 6_002, 6_002])
  expect(later.mask.reduce((sum, each) => sum + each, 0)).toBe(3_001)
  expect(later.logprobBasis).toBe('raw')
})

test('an engine without log-probabilities leaves none, not some', () => {
  const transcript = createTranscript()
  turn(transcript, [1], said([2]))
  turn(transcript, [3], said([4], { logprobs: new Float32Array(0) }))
  expect(transcript.view().trajectory.logprobs).toHaveLength(0)
})

test('a prompt that was made and not used leaves no trace', () => {
  const transcript = createTranscript()
  turn(transcript, [1], said([2]))
  transcript.promptWith([3, 4])
  expect([...transcript.promptWith(undefined)]).toEqual([1, 2])
})

test('text whose ids go on from the tokens so far is one sequence', () => {
  const transcript = createTranscript()
  turn(transcript, 'ab', said([3], { text: 'c' }), [1, 2])
  expect(turn(transcript, 'd', said([5], { text: 'e' }), [1, 2, 3, 4])).toBe('abcd')
  const { trajectory, earlier } = transcript.view()
  expect(earlier).toEqual([])
  expect([...trajectory.tokenIds]).toEqual([1, 2, 3, 4, 5])
  expect([...trajectory.mask]).toEqual([0, 0, 1, 0, 1])
})

test('chat messages that a template renders in other tokens begin a sequence of their own', () => {
  const transcript = createTranscript()
  turn(transcript, [{ role: 'user', content: 'hi' }], said([3], { text: 'ho' }), [1, 2])
  const tool = { role: 'tool', content: '4' }
  expect(turn(transcript, [tool], said([9], { text: 'so' }), [1, 8, 8])).toEqual([
    { role: 'user', content: 'hi' },
    { role: 'assistant', content: 'ho' },
    tool,
  ])
  const { trajectory, earlier } = transcript.view()
  expect(earlier.map(({ tokenIds }) => [...tokenIds])).toEqual([[1, 2, 3]])
  expect([...trajectory.tokenIds]).toEqual([1, 8, 8, 9])
  expect(trajectory.turns).toHaveLength(1)
})

test('token ids can follow text and messages, and are exact from there on', () => {
  const transcript = createTranscript()
  turn(transcript, [{ role: 'user', content: 'hi' }], said([3], { text: 'ho' }), [1, 2])
  expect([...turn(transcript, [7], said([8], { text: 'x' }))]).toEqual([1, 2, 3, 7])
  expect([...turn(transcript, undefined, said([9]))]).toEqual([1, 2, 3, 7, 8])
  expect(transcript.view().earlier).toEqual([])
})

test('where no server shows token ids there is text, turn by turn', () => {
  const transcript = createTranscript()
  turn(transcript, 'a', said([], { text: 'b' }))
  expect(turn(transcript, 'c', said([], { text: 'd' }))).toBe('abc')
  const { trajectory, earlier } = transcript.view()
  expect([...earlier, trajectory].map(({ tokenIds, turns }) => [tokenIds.length, turns[0]!.completion.text])).toEqual([
    [0, 'b'],
    [0, 'd'],
  ])
  expect(() => transcript.promptWith([1])).toThrow('found token ids after turns whose token ids no server has shown')
})

test.each<[string, Prompt, Prompt, string]>([
  ['text after token ids', [1], 'x', 'text after token ids, which are exact'],
  ['messages after token ids', [1], [{ role: 'user', content: '' }], 'chat messages after token ids'],
  ['messages after text', 'a', [{ role: 'user', content: '' }], 'chat messages after text'],
  ['text after messages', [{ role: 'user', content: '' }], 'a', 'text after chat messages'],
])('%s is refused, and says why', (_, first, then, why) => {
  const transcript = createTranscript()
  turn(transcript, first, said([5], { text: 'e' }), [1])
  expect(() => transcript.promptWith(then)).toThrow(why)
})

test('the first turn needs a prompt', () => {
  expect(() => createTranscript().promptWith(undefined)).toThrow('the first turn needs a prompt')
  expect(() => createTranscript().promptWith([])).toThrow('the first turn needs a prompt')
})
