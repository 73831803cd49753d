/**
 * Everything that can be wrong with the options, found at once (A8, Bad input).
 */
import { expect, test } from 'vitest'
import { createSupervisor, RolloutError, type SupervisorOptions } from '../src/index.ts'
import { checkInstance, checkOptions } from '../src/options.ts'

function problemsOf(options: unknown): string[] {
  try {
    checkOptions(options as SupervisorOptions)
    return []
  } catch (error) {
    if (!RolloutError.isInstance(error)) throw error
    expect(error.code).toBe('INVALID_OPTIONS')
    return error.problems.map(({ path, expected, found }) => `${path}: ${expected}; ${found}`)
  }
}
const pathsOf = (options: unknown): string[] =>
  problemsOf(options).map((problem) => problem.slice(0, problem.indexOf(':')))
const url = 'http://127.0.0.1:30000'

test('options that are no object', () => {
  for (const options of [null, 7, 'http://a', []]) expect(pathsOf(options)).toEqual(['options'])
  expect(pathsOf({})).toEqual([])
})

test('A8: an unknown policy is an error that lists the known ones', () => {
  expect(() => createSupervisor({ policy: 'fastest' as never })).toThrow(
    "policy: expected one of 'least-request', 'round-robin', { name: 'round-robin', strict }, or a PlacementPolicy, found \"fastest\" (string)",
  )
  for (const policy of [7, null, {}, { name: 'fastest' }, { name: 'round-robin', strict: 'yes' }])
    expect(pathsOf({ policy })).toEqual(['policy'])
  expect(pathsOf({ policy: { name: 'round-robin', fair: true } })).toEqual(['policy.fair'])
  expect(pathsOf({ policy: { name: 'own', pick: () => null } }).sort()).toEqual([
    'policy.add',
    'policy.changed',
    'policy.remove',
  ])
})

test('an unknown engine lists the known ones', () => {
  const [problem] = problemsOf({ instances: [{ url, engine: 'trt' }] })
  expect(problem).toMatch(/^instances\[0\]\.engine: one of 'sglang'.*; "trt" \(string\)$/)
})

test('unknown keys are named, with the known ones', () => {
  expect(pathsOf({ instance: [], timeouts: { wait: 1 }, retry: { tries: 1 }, breaker: { ms: 1 } }).sort()).toEqual([
    'breaker.ms',
    'instance',
    'retry.tries',
    'timeouts.wait',
  ])
  expect(problemsOf({ instances: [{ url, host: 'a' }] })[0]).toMatch(/^instances\[0\]\.host: one of url, engine/)
})

test.each([
  undefined,
  null,
  7,
  '',
  'localhost:30000',
  '10.0.0.1',
  'ftp://a/b',
  'file:///etc',
  'http://a?x=1',
  'http://a#x',
  'http://user:secret@a',
  'http://:secret@a',
  'ws://user:secret@a',
])('a url that is %s', (bad) => {
  expect(pathsOf({ instances: [{ url: bad }] })).toEqual(['instances[0].url'])
})

test('a password in a url is not repeated in the error', () => {
  for (const given of ['http://user:secret@a', 'http://:secret@a', 'ws://user:secret@a', 'http://a?key=secret'])
    expect(problemsOf({ instances: [{ url: given }] }).join()).not.toContain('secret')
})

test('a url without its http://, as it is easily typed, is shown as it was', () => {
  expect(problemsOf({ instances: [{ url: 'localhost:30000' }] })).toEqual([
    'instances[0].url: a base URL such as \'http://10.0.0.1:30000\', with its http:// or https://; "localhost:30000" (string)',
  ])
})

test('a longest wait of the breaker that is below its first is no longest', () => {
  expect(problemsOf({ breaker: { resetMs: 5_000, maxResetMs: 1_000 } })).toEqual([
    'breaker.maxResetMs: at least breaker.resetMs, 5000; 1000 (number)',
  ])
  expect(checkOptions({ breaker: { resetMs: 90_000 } }).breaker).toMatchObject({ resetMs: 90_000, maxResetMs: 90_000 })
  expect(checkOptions({ breaker: { maxResetMs: 500 } }).breaker).toMatchObject({ resetMs: 500, maxResetMs: 500 })
})

test('values that are no plain objects are shown as what they are', () => {
  const shown = [new Map(), new Date(0), Symbol('policy'), 7n, new Uint8Array(1)].map(
    (policy) => problemsOf({ policy })[0]!.split('; ')[1],
  )
  expect(shown).toEqual(['an object (Map)', 'an object (Date)', 'a symbol', '7 (bigint)', 'an object (Uint8Array)'])
})

test('a url is kept without its trailing slashes, and gives the id', () => {
  expect(checkInstance({ url: 'http://a:1/v1//' })).toMatchObject({ id: 'a:1', url: 'http://a:1/v1' })
})

test('two instances of one id or url are named, both', () => {
  expect(problemsOf({ instances: [{ url }, { url: `${url}/` }] })).toEqual([
    'instances[1].id: another id than that of instances[0]; "127.0.0.1:30000" (string)',
    `instances[1].url: another url than that of instances[0]; "${url}" (string)`,
  ])
  expect(
    pathsOf({
      instances: [
        { url, id: 'a' },
        { url: 'http://b', id: 'a' },
      ],
    }),
  ).toEqual(['instances[1].id'])
})

test('instances that are no list, or no objects', () => {
  for (const instances of [null, {}, 'http://a']) expect(pathsOf({ instances })).toEqual(['instances'])
  expect(pathsOf({ instances: [null, 'http://a', { url }] })).toEqual(['instances[0]', 'instances[1]'])
})

test.each([
  ['instances[0].capacity', (bad: unknown) => ({ instances: [{ url, capacity: bad }] }), [0, -1, 1.5]],
  ['instances[0].weight', (bad: unknown) => ({ instances: [{ url, weight: bad }] }), [0, -1]],
  ['instances[0].vocabularySize', (bad: unknown) => ({ instances: [{ url, vocabularySize: bad }] }), [0, 1.5]],
  ['timeouts.waitMs', (bad: unknown) => ({ timeouts: { waitMs: bad } }), [0, -1, 2 ** 31]],
  ['timeouts.firstTokenMs', (bad: unknown) => ({ timeouts: { firstTokenMs: bad } }), [0, -1, 2 ** 31]],
  ['timeouts.progressMs', (bad: unknown) => ({ timeouts: { progressMs: bad } }), [0, -1, 2 ** 31]],
  ['timeouts.totalMs', (bad: unknown) => ({ timeouts: { totalMs: bad } }), [0, -1, 2 ** 31]],
  ['retry.attempts', (bad: unknown) => ({ retry: { attempts: bad } }), [0, 1.5]],
  ['breaker.failures', (bad: unknown) => ({ breaker: { failures: bad } }), [0, 1.5]],
  ['breaker.resetMs', (bad: unknown) => ({ breaker: { resetMs: bad } }), [0, 2 ** 31]],
  ['breaker.maxResetMs', (bad: unknown) => ({ breaker: { maxResetMs: bad } }), [0, 2 ** 31]],
  ['minInstances', (bad: unknown) => ({ minInstances: bad }), [-1, 0.5]],
] as const)('%s that is no number, NaN, or out of range', (path, options, range) => {
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, '1', null, {}, ...range])
    expect(pathsOf(options(bad)), String(bad)).toEqual([path])
})

test.each([
  ['logger', [7, {}, { info: () => {} }]],
  ['inspect', [7, {}, { next: 1 }]],
  ['clock', [7, {}, { now: () => 0 }]],
  ['instanceMachine', [7, {}, null, () => {}]],
  ['runId', ['', 7, 'short', 'UPPERCAS', 'tenletters']],
  ['timeouts', [7, null, []]],
  ['retry', [7, null, []]],
  ['breaker', [7, null, []]],
] as const)('%s of a wrong kind', (key, values) => {
  for (const value of values) expect(pathsOf({ [key]: value }), String(value)).toEqual([key])
})

test('one error lists every problem', () => {
  expect(pathsOf({ policy: 'x', instances: [{ url: 'x', capacity: 0 }], minInstances: -1, extra: 1 })).toEqual([
    'extra',
    'instances[0].url',
    'instances[0].capacity',
    'policy',
    'minInstances',
  ])
})

test('an instance that is added is checked the same way', () => {
  expect(() => checkInstance({ url: 'x', weight: -1 } as never)).toThrow(
    /the instance cannot be added:\n {2}instance\.url: .*\n {2}instance\.weight: /,
  )
  expect(() => checkInstance(null as never)).toThrow(/instance: expected an object with a url/)
})
