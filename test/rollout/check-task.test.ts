/**
 * Everything that can be wrong with a task, found at once (Bad input).
 */
import { expect, test } from 'vitest'
import { RolloutError } from '../../src/errors.ts'
import { checkTask } from '../../src/rollout/check-task.ts'
import type { Task } from '../../src/rollout/task.ts'

function problemsOf(task: unknown, vocabularySize: number | null = null): string[] {
  try {
    checkTask(task as Task, vocabularySize)
    return []
  } catch (error) {
    if (!RolloutError.isInstance(error)) throw error
    expect(error.code).toBe('INVALID_TASK')
    expect(error.message.split('\n').length).toBe(error.problems.length + 1)
    return error.problems.map(({ path, expected, found }) => `${path}: ${expected}; ${found}`)
  }
}
const pathsOf = (task: unknown, vocabularySize: number | null = null): string[] =>
  problemsOf(task, vocabularySize).map((problem) => problem.slice(0, problem.indexOf(':')))
const prompt = [1, 2, 3]

test('a task that is no object', () => {
  for (const task of [undefined, null, 7, 'hello', [], () => {}]) expect(pathsOf(task)).toEqual(['task'])
})

test.each([
  ['empty text', ''],
  ['no prompt', undefined],
  ['null', null],
  ['a number', 5],
  ['an object', { ids: [1] }],
  ['no ids', []],
  ['an empty typed array', new Int32Array(0)],
  ['another typed array', new Float32Array([1])],
  ['bytes', new Uint8Array([1])],
])('a prompt that is %s', (_, bad) => {
  expect(pathsOf({ prompt: bad })).toEqual(['prompt'])
})

test.each([
  ['NaN', [1, Number.NaN], 'prompt[1]'],
  ['negative', [-1], 'prompt[0]'],
  ['fractions', [1, 2, 0.5], 'prompt[2]'],
  ['infinite', [Number.POSITIVE_INFINITY], 'prompt[0]'],
  ['beyond 31 bits', [2 ** 31], 'prompt[0]'],
  ['text among ids', [1, 'two'], 'prompt[1]'],
  ['holes', [1, undefined, 3], 'prompt[1]'],
  ['negative in a typed array', new Int32Array([1, -7]), 'prompt[1]'],
  ['ids after a message', [{ role: 'user', content: 'hi' }, 7], 'prompt[1]'],
  ['a message without content', [{ role: 'user' }], 'prompt[0]'],
  ['a message of parts', [{ role: 'user', content: ['hi'] }], 'prompt[0]'],
  ['null among messages', [null], 'prompt[0]'],
])('token ids or messages that are %s', (_, bad, path) => {
  expect(pathsOf({ prompt: bad })).toEqual([path])
})

test('ids outside the vocabulary, where it is known', () => {
  expect(pathsOf({ prompt: [1, 99, 100] }, 100)).toEqual(['prompt[2]'])
  expect(pathsOf({ prompt: [1, 99] }, 100)).toEqual([])
  expect(pathsOf({ prompt: new Int32Array([100]) }, 100)).toEqual(['prompt[0]'])
  expect(pathsOf({ prompt: [1, 100] })).toEqual([])
  expect(problemsOf({ prompt: [1, 100, 7] }, 100)).toEqual([
    'prompt[1]: a token id below 100, the size of the vocabulary; 100 (number)',
  ])
})

const numbers = { maxTokens: 1, minTokens: 0, temperature: 0.5, topP: 0.5, topK: 1, minP: 0.5, seed: 1 }
test.each(Object.keys(numbers))('sampling.%s that is no number, NaN, or negative', (key) => {
  for (const bad of [Number.NaN, -2, Number.POSITIVE_INFINITY, '1', null, [], true])
    expect(pathsOf({ prompt, sampling: { [key]: bad } }), String(bad)).toEqual([`sampling.${key}`])
  expect(pathsOf({ prompt, sampling: numbers })).toEqual([])
})

test('other sampling that cannot be', () => {
  const bad = {
    maxTokens: 0,
    topP: 0,
    minP: 1.1,
    temperature: -0.1,
    seed: 2 ** 53,
    stop: 'END',
    stopTokenIds: '5',
    ignoreEos: 'no',
    best_of: 3,
  }
  expect(pathsOf({ prompt, sampling: bad }).sort()).toEqual(
    Object.keys(bad)
      .map((key) => `sampling.${key}`)
      .sort(),
  )
  expect(pathsOf({ prompt, sampling: { stop: ['a', ''] } })).toEqual(['sampling.stop[1]'])
  for (const stopTokenIds of [[1, -1], Object.assign(new Array(3), { 0: 1 }), [1, 2 ** 31], [1, '2']])
    expect(problemsOf({ prompt, sampling: { stopTokenIds } })[0]).toMatch(
      /^sampling\.stopTokenIds\[1\]: a token id, an integer of at least 0; /,
    )
  expect(pathsOf({ prompt, sampling: { minTokens: 10, maxTokens: 9 } })).toEqual(['sampling.minTokens'])
  for (const sampling of [null, 7, []]) expect(pathsOf({ prompt, sampling })).toEqual(['sampling'])
})

test('counts, kinds, ids and signals that cannot be', () => {
  for (const samples of [0, -1, 1_025, 1.5, Number.NaN, '8', null])
    expect(pathsOf({ prompt, samples })).toEqual(['samples'])
  for (const kind of ['eval', '', 1, null]) expect(pathsOf({ prompt, kind })).toEqual(['kind'])
  for (const priority of [Number.NaN, Number.POSITIVE_INFINITY, '1', null])
    expect(pathsOf({ prompt, priority })).toEqual(['priority'])
  for (const minVersion of [-1, 0.5, '1']) expect(pathsOf({ prompt, minVersion })).toEqual(['minVersion'])
  for (const id of ['', 7, null, 'x'.repeat(201)]) expect(pathsOf({ prompt, id })).toEqual(['id'])
  for (const signal of [{}, null, new AbortController()]) expect(pathsOf({ prompt, signal })).toEqual(['signal'])
})

test('one error lists every problem, with path, expected and found', () => {
  expect(
    problemsOf({ prompt: '', samples: 0, kind: 'eval', sampling: { maxTokens: Number.NaN }, prio: 1 }),
  ).toMatchInlineSnapshot(`
    [
      "prio: one of prompt, sampling, samples, kind, id, priority, sessionId, minVersion, meta, signal; an unknown key",
      "prompt: text that is not empty; "" (string)",
      "sampling.maxTokens: an integer of at least 1; NaN (number)",
      "samples: an integer from 1 to 1024; 0 (number)",
      "kind: one of 'rollout', 'evaluation'; "eval" (string)",
    ]
  `)
})

test('a found value is shown short and never whole', () => {
  const [problem] = problemsOf({ prompt, id: 'x'.repeat(10_000) })
  expect(problem!.length).toBeLessThan(200)
})

test('what is left out gets its documented default', () => {
  expect(checkTask({ prompt }, null)).toMatchInlineSnapshot(`
    {
      "kind": "rollout",
      "maxTokenId": 3,
      "meta": undefined,
      "minVersion": null,
      "priority": 0,
      "prompt": [
        1,
        2,
        3,
      ],
      "samples": 1,
      "sampling": {
        "ignoreEos": false,
        "maxTokens": 1024,
        "minP": 0,
        "minTokens": 0,
        "seed": null,
        "stop": [],
        "stopTokenIds": [],
        "temperature": 1,
        "topK": -1,
        "topP": 1,
      },
      "sessionId": null,
      "signal": undefined,
    }
  `)
  expect(checkTask({ prompt, sampling: { topK: 0 } }, null).sampling.topK).toBe(-1)
})
