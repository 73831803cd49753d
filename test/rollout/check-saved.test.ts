/**
 * Saved states that cannot be used: everything wrong is said at once, with its path, before anything is built from it (Bad input).
 */
import { expect, test } from 'vitest'
import { createSupervisor, RolloutError, type SavedState } from '../../src/index.ts'
import { encodeIds } from '../../src/rollout/saved-values.ts'

const ids = encodeIds([3, 4])
const logprobs = Buffer.from(Float32Array.of(-1, -2).buffer).toString('base64')
const tokens = { ids, logprobs, basis: 'sampled', text: null, versions: [{ version: 1, start: 0, end: 2 }] }
const segment = {
  instance: 'a',
  attempt: 'x',
  start: 0,
  end: 2,
  reason: 'interrupted',
  placedAt: 0,
  firstTokenAt: 1,
  endedAt: 2,
}
const completion = {
  taskId: 't',
  sample: 1,
  kind: 'rollout',
  outcome: 'completed',
  finishReason: 'stop',
  tokens,
  segments: [segment],
  timings: { waitedMs: 0, firstTokenMs: null, totalMs: 3 },
  error: null,
}
const begun = {
  sample: 0,
  waitedMs: 0,
  heldMs: 0,
  firstTokenAt: null,
  fruitless: 0,
  restarts: 0,
  tokens,
  segments: [segment],
}
const sampling = {
  maxTokens: 9,
  minTokens: 0,
  temperature: 1,
  topP: 1,
  topK: -1,
  minP: 0,
  stop: [],
  stopTokenIds: [],
  ignoreEos: false,
  seed: null,
}
const task = {
  id: 't',
  prompt: { ids },
  promptIds: null,
  sampling,
  samples: 2,
  kind: 'rollout',
  priority: 0,
  sessionId: null,
  minVersion: null,
  started: true,
  submittedAt: 0,
  keptFor: null,
  begun: [begun],
  completions: [completion],
}
const good = {
  format: 'rollout-supervisor',
  version: 1,
  weights: 1,
  at: 5,
  last: { task: 1, request: 1, episode: 0 },
  ended: { completed: 1, failed: 0, cancelled: 0, expired: 0 },
  tasks: [task],
  line: { evaluation: [], interrupted: [0, 0], retry: [], started: [], fresh: [] },
  unread: [completion],
  leftOut: { episodes: 0, signals: 0 },
}

function problemsOf(restore: unknown): string[] {
  try {
    void createSupervisor({ restore: restore as SavedState }).close()
    return []
  } catch (error) {
    if (!RolloutError.isInstance(error)) throw error
    expect(error.code).toBe('INVALID_OPTIONS')
    return error.problems.map(({ path, expected, found }) => `${path}: ${expected}; ${found}`)
  }
}
const withTask = (change: object) => ({ ...good, tasks: [{ ...task, ...change }] })

test('a state as it is saved can be used', () => {
  expect(problemsOf(good)).toEqual([])
})

test('a state of another format version says so, and what reads it', () => {
  expect(problemsOf({ ...good, version: 2, tasks: 'of another shape' })).toEqual([
    'restore.version: 1, the format that this version of rollout-supervisor reads (restore it with the version of rollout-supervisor that saved it); 2 (number)',
  ])
})

test.each([null, 7, 'saved', [], {}, { format: 'another' }])('what save() never returned: %j', (bad) => {
  expect(problemsOf(bad)).toHaveLength(1)
  expect(problemsOf(bad)[0]).toMatch(/^restore: what save\(\) returned; /)
})

test('everything that is wrong is said at once', () => {
  const bad = {
    ...good,
    weights: -1,
    at: 'noon',
    last: null,
    ended: { completed: 1.5 },
    tasks: [
      { ...task, id: '', prompt: { ids: 'no base64' }, samples: 0, sampling: { ...sampling, topP: 7 }, begun: [7] },
      3,
    ],
    unread: 'none',
  }
  expect(problemsOf(bad).map((problem) => problem.split(':')[0])).toEqual([
    'restore.weights',
    'restore.at',
    'restore.last',
    'restore.last.task',
    'restore.last.request',
    'restore.last.episode',
    'restore.ended.completed',
    'restore.ended.failed',
    'restore.ended.cancelled',
    'restore.ended.expired',
    'restore.tasks[0].prompt.ids',
    'restore.tasks[0].begun[0]',
    'restore.tasks[0].prompt',
    'restore.tasks[0].sampling.topP',
    'restore.tasks[0].samples',
    'restore.tasks[0].id',
    'restore.tasks[1]',
    'restore.unread',
  ])
})

test.each<[string, object, string]>([
  [
    'a sample that is nowhere',
    { ...good, line: { ...good.line, interrupted: [] } },
    'restore.tasks[0]: every sample once, in line or ended; sample 0 0 times',
  ],
  ['a sample that is twice in line', { ...good, line: { ...good.line, fresh: [0, 0] } }, 'sample 0 2 times'],
  ['a sample that is in line and has ended', { ...good, line: { ...good.line, fresh: [0, 1] } }, 'sample 1 2 times'],
  ['a line with a task that is not there', { ...good, line: { ...good.line, fresh: [4, 0] } }, 'restore.line.fresh[0]'],
  ['half a pair', { ...good, line: { ...good.line, fresh: [0] } }, 'restore.line.fresh: pairs'],
  ['no line', { ...good, line: undefined }, 'restore.line.evaluation'],
  ['an id that is there twice', { ...good, tasks: [task, task] }, 'restore.tasks[1].id: an id of its own'],
  [
    'a completion of another task',
    withTask({ completions: [{ ...completion, taskId: 'u' }] }),
    'restore.tasks[0].completions',
  ],
  ['a begun sample that has ended', withTask({ begun: [{ ...begun, sample: 1 }] }), 'restore.tasks[0].begun'],
  [
    'fewer log-probabilities than tokens',
    withTask({ begun: [{ ...begun, tokens: { ...tokens, logprobs: 'AAAAAA==' } }] }),
    '.tokens.logprobs: 2 log-probabilities',
  ],
  [
    'spans that leave tokens out',
    withTask({ begun: [{ ...begun, tokens: { ...tokens, versions: [] } }] }),
    '.tokens.versions: spans of all 2 tokens',
  ],
  [
    'spans with a hole',
    withTask({ begun: [{ ...begun, tokens: { ...tokens, versions: [{ version: 1, start: 1, end: 2 }] } }] }),
    '.tokens.versions[0]: { version, start: 0, end }',
  ],
  [
    'segments that leave tokens out',
    withTask({ begun: [{ ...begun, segments: [] }] }),
    '.segments: segments of all 2 tokens',
  ],
  [
    'an error of no code',
    withTask({ completions: [{ ...completion, error: { code: 'NONE', message: '' } }] }),
    '.error: null, or',
  ],
  ['an outcome that is none', withTask({ completions: [{ ...completion, outcome: 'lost' }] }), '.outcome: one of'],
])('%s', (_, bad, said) => {
  const problems = problemsOf(bad)
  expect(problems).not.toEqual([])
  expect(problems.join('\n')).toContain(said)
})
