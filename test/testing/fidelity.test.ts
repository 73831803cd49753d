/**
 * The fidelity checker: what it calls exact, and everything that it must see, on completions made by hand and on an embedded engine.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { type Completion, createSupervisor, type VersionSpan } from '../../src/index.ts'
import { startEmbeddedEngine } from '../../src/testing/embedded-engine.ts'
import { createFidelityChecker } from '../../src/testing/fidelity.ts'
import { createTinyWeights, saveWeights, scoreTokens, type TinyWeights } from '../../src/testing/tiny-policy.ts'

const OLD = createTinyWeights({ seed: 1 })
const NEW = createTinyWeights({ seed: 2, scale: 0.8 })
const PROMPT = [7, 1, 12]
const TOKENS = Array.from({ length: 30 }, (_, index) => (index * 5 + 3) % 13)

const checker = (weights: Readonly<Record<number, TinyWeights>> = { 1: OLD, 2: NEW }) =>
  createFidelityChecker({
    score: (version, prompt, tokenIds) =>
      weights[version] === undefined ? null : scoreTokens(weights[version], prompt, tokenIds),
  })

/** Two segments, [0, 12) under version 1 and [12, 30) under version 2, scored without a fault. */
function completion(change: Partial<Completion> = {}): Completion {
  const logprobs = new Float32Array(TOKENS.length)
  logprobs.set(scoreTokens(OLD, PROMPT, TOKENS).subarray(0, 12))
  logprobs.set(scoreTokens(NEW, PROMPT, TOKENS).subarray(12), 12)
  const segment = (instance: string, start: number, end: number) => ({
    instance,
    attempt: instance,
    start,
    end,
    reason: 'finished' as const,
    placedAt: 0,
    firstTokenAt: 0,
    endedAt: 0,
  })
  return {
    id: 't/0',
    taskId: 't',
    sample: 0,
    kind: 'rollout',
    outcome: 'completed',
    finishReason: 'length',
    text: null,
    tokenIds: Int32Array.from(TOKENS),
    logprobs,
    versions: [
      { version: 1, start: 0, end: 12 },
      { version: 2, start: 12, end: 30 },
    ],
    logprobBasis: 'sampled',
    segments: [segment('a', 0, 12), segment('a', 12, 12), segment('b', 12, 30)],
    timings: { waitedMs: 0, firstTokenMs: 0, totalMs: 0 },
    error: null,
    meta: undefined,
    ...change,
  }
}

async function reportOf(change: Partial<Completion> = {}) {
  const check = checker()
  await check.check(PROMPT, completion(change))
  return check.report
}

describe('a completion made by hand', () => {
  test('without a fault is exact, and counted by version and position (I8, F8)', async () => {
    const report = await reportOf()
    expect(report).toMatchObject({ exact: true, completions: 1, tokens: 30, offenders: [], malformed: [] })
    expect(report.largest).toBeLessThan(1e-6)
    expect(report.versions).toMatchObject({ 1: { tokens: 12 }, 2: { tokens: 18 } })
    expect(report.positions).toMatchObject({ first: { tokens: 2 }, rest: { tokens: 28 }, seams: { tokens: 1 } })
  })

  test('whose span is shifted by one is not, and the token is named', async () => {
    const shifted: VersionSpan[] = [
      { version: 1, start: 0, end: 13 },
      { version: 2, start: 13, end: 30 },
    ]
    const report = await reportOf({ versions: shifted })
    expect(report.exact).toBe(false)
    const [worst, ...others] = report.offenders
    expect(worst).toMatchObject({ completion: 't/0', instance: 'b', token: 12, version: 1 })
    expect(worst!.difference).toBeCloseTo(Math.abs(worst!.stored - worst!.recomputed), 9)
    expect([others, report.positions.first.largest]).toEqual([[], worst!.difference])
  })

  test('that lost a token is not, from there on', async () => {
    const whole = completion()
    const without = <T>(list: Iterable<T>): T[] => [...list].filter((_, index) => index !== 5)
    const { offenders, exact } = await reportOf({
      tokenIds: Int32Array.from(without(whole.tokenIds)),
      logprobs: Float32Array.from(without(whole.logprobs)),
      versions: [
        { version: 1, start: 0, end: 11 },
        { version: 2, start: 11, end: 29 },
      ],
      segments: [{ ...whole.segments[0]!, end: 29 }],
    })
    expect(exact).toBe(false)
    expect(Math.min(...offenders.map(({ token }) => token))).toBe(5)
  })

  test.each([
    ['fewer log-probabilities than tokens', { logprobs: new Float32Array(29) }, '30 tokens, 29 log-probabilities'],
    ['a gap between spans', { versions: [{ version: 1, start: 1, end: 30 }] }, 'version spans with [1, 30) after 0'],
    ['spans that end early', { versions: [{ version: 1, start: 0, end: 12 }] }, '30 tokens, version spans up to 12'],
    ['segments that end early', { segments: [] }, '30 tokens, segments up to 0'],
  ])('with %s is malformed', async (_, change, found) => {
    const { exact, malformed } = await reportOf(change)
    expect([exact, malformed]).toEqual([false, [{ completion: 't/0', found }]])
  })

  test('is not exact where it cannot be checked, and why is counted', async () => {
    const span = (version: number | null, start: number, end: number, mixed?: true): VersionSpan =>
      mixed === undefined ? { version, start, end } : { version, start, end, mixed }
    const versions = [span(null, 0, 3), span(1, 3, 12), span(2, 12, 20), span(2, 20, 25, true), span(9, 25, 30)]
    const report = await reportOf({ versions })
    expect(report).toMatchObject({
      exact: false,
      tokens: 17,
      unchecked: { noVersion: 3, mixed: 5, noLogprob: 0, noWeights: 5 },
      offenders: [],
    })
    expect((await reportOf({ logprobs: new Float32Array(0) })).unchecked.noLogprob).toBe(30)
  })

  test('with something that is not a number is infinitely off, and only the worst are named', async () => {
    const logprobs = new Float32Array(30)
    logprobs[4] = Number.NaN
    const check = createFidelityChecker({ score: (_, prompt, ids) => scoreTokens(OLD, prompt, ids), worst: 3 })
    await Promise.all([
      check.check(PROMPT, completion({ logprobs })),
      check.check(PROMPT, completion({ logprobs, id: 'u/0' })),
    ])
    const { offenders, largest } = check.report
    expect(largest).toBe(Number.POSITIVE_INFINITY)
    expect(offenders.map(({ difference }) => Number.isFinite(difference))).toEqual([false, false, true])
  })

  test('a scorer that gives too few values is told so', async () => {
    const check = createFidelityChecker({ score: () => [1] })
    await expect(check.check(PROMPT, completion())).rejects.toMatchObject({ code: 'INVALID_OPTIONS' })
  })
})

describe.each(['sglang', 'vllm'] as const)('on an embedded %s', (profile) => {
  /** Samples before an update, under it and after it. */
  async function checked(how: (post: (path: string, body?: object) => Promise<unknown>, folder: string) => unknown) {
    const folder = await mkdtemp(join(tmpdir(), 'fidelity-'))
    onTestFinished(() => rm(folder, { recursive: true, force: true }))
    await saveWeights(folder, NEW)
    const engine = await startEmbeddedEngine({ profile, stepMs: 1, perSequenceMs: 0, weights: OLD, weightVersion: '1' })
    onTestFinished(() => engine.close())
    const post = async (path: string, body: object = {}) => {
      const headers = { 'content-type': 'application/json' }
      await (await fetch(engine.url + path, { method: 'POST', headers, body: JSON.stringify(body) })).text()
    }
    const supervisor = createSupervisor({ instances: [{ url: engine.url, engine: profile }] })
    onTestFinished(() => supervisor.close())
    await supervisor.start()
    const sampling = { maxTokens: 300, ignoreEos: true }
    const check = checker()
    const run = async (): Promise<void> => {
      const rollout = supervisor.submit({ prompt: PROMPT, sampling })
      await check.check(PROMPT, (await rollout.result).completions[0]!)
    }
    await run()
    expect(check.report).toMatchObject({ exact: true, tokens: 300 })
    const running = run()
    while (engine.counters.tokensGenerated < 320) await new Promise((resolve) => setImmediate(resolve))
    await how(post, folder)
    await running
    await run()
    return check.report
  }
  const load = (post: (path: string, body?: object) => Promise<unknown>, folder: string) =>
    profile === 'sglang'
      ? post('/update_weights_from_disk', { model_path: folder, weight_version: '2', flush_cache: false })
      : post('/collective_rpc', { method: 'reload_weights', kwargs: { weights_path: folder } }).then(() =>
          post('/update_weight_version', { new_version: '2' }),
        )
  const pause = profile === 'sglang' ? '/pause_generation' : '/pause?mode=keep&clear_cache=false'
  const open = profile === 'sglang' ? '/continue_generation' : '/resume'

  test('sees a KV that was kept over an update (R3)', async () => {
    const report = await checked(async (post, folder) => {
      await post(pause, { mode: 'in_place' })
      await load(post, folder)
      await post(open)
    })
    expect(report.exact).toBe(false)
    expect(report.versions[1]!.largest).toBeLessThan(1e-6)
    expect(report.versions[2]!.largest).toBeGreaterThan(0.01)
    // Where the pause comes is up to the clock: the token right after it may be off by little, but not by rounding.
    expect(report.positions.seams.largest).toBeGreaterThan(1e-5)
    for (const { version } of report.offenders) expect(version).toBe(2)
  })

  test('sees a cache that was not flushed (R2)', async () => {
    const report = await checked(async (post, folder) => {
      await post(pause, { mode: 'abort' })
      await load(post, folder)
      await post(open)
    })
    expect(report.exact).toBe(false)
    expect(report.versions[2]!.largest).toBeGreaterThan(0.01)
  })
})
