/**
 * The whole supervisor over embedded vLLM engines: exact tokens, cancels that reach the server, updates that flush, and a fleet of
 * two dialects that loses a server in the middle of its streams.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, expect, onTestFinished, test } from 'vitest'
import { type Completion, createSupervisor, type InstanceOptions } from '../src/index.ts'
import {
  createTinyWeights,
  type EmbeddedEngine,
  type EmbeddedEngineOptions,
  saveWeights,
  scoreTokens,
  startEmbeddedEngine,
  type TinyWeights,
} from '../src/testing/index.ts'
import { until } from './testing/client.ts'

const OLD = createTinyWeights({ seed: 1 })
const NEW = createTinyWeights({ seed: 2, scale: 0.8 })
const PROMPT = [5, 3, 12]

const engines: EmbeddedEngine[] = []
afterEach(async () => {
  await Promise.all(engines.splice(0).map((engine) => engine.close()))
})

async function engine(options: EmbeddedEngineOptions = {}): Promise<EmbeddedEngine> {
  const started = await startEmbeddedEngine({
    profile: 'vllm',
    capacity: 4,
    weights: OLD,
    stepMs: 0,
    perSequenceMs: 0,
    seed: engines.length + 1,
    ...options,
  })
  engines.push(started)
  return started
}

async function supervise(instances: readonly InstanceOptions[]) {
  const supervisor = createSupervisor({ instances })
  onTestFinished(() => supervisor.close())
  await supervisor.start()
  return supervisor
}

const vllm = ({ url }: EmbeddedEngine, more: Partial<InstanceOptions> = {}): InstanceOptions => ({
  url,
  engine: 'vllm',
  ...more,
})

/** Every log-probability is that of the weights, recomputed from nothing (I8). */
function expectExact(completion: Completion, weights: TinyWeights, temperature = 1): void {
  const scores = scoreTokens(weights, PROMPT, [...completion.tokenIds], temperature)
  expect(completion.logprobs).toHaveLength(completion.tokenIds.length)
  for (const [i, score] of scores.entries()) expect(completion.logprobs[i]).toBeCloseTo(score, 5)
}

test.each([
  ['/inference/v1/generate', true],
  ['/v1/completions', false],
])(
  'over %s generates, updates weights and flushes, and every log-probability can be recomputed (F8)',
  async (_, scaleOut) => {
    const path = await mkdtemp(join(tmpdir(), 'weights-'))
    onTestFinished(() => rm(path, { recursive: true }))
    await saveWeights(path, NEW)
    const servers = [await engine({ scaleOut }), await engine({ scaleOut })]
    const supervisor = await supervise(servers.map((server) => vllm(server)))
    const task = { prompt: PROMPT, samples: 12, sampling: { maxTokens: 40 } }
    const before = await supervisor.submit(task).result
    const report = await supervisor.updateWeights({ version: 1, path })
    expect(report.instances.map(({ ok }) => ok)).toEqual([true, true])
    // The same prompt, whose cache was of the old weights.
    const after = await supervisor.submit(task).result
    for (const [group, weights, version] of [
      [before, OLD, null],
      [after, NEW, 1],
    ] as const) {
      expect(group.complete).toBe(true)
      for (const completion of group.completions) {
        expect(completion.versions).toEqual([{ version, start: 0, end: completion.tokenIds.length }])
        expectExact(completion, weights)
      }
    }
    expect(servers.map(({ weightVersion, counters }) => [weightVersion, counters.updates])).toEqual([
      ['1', 1],
      ['1', 1],
    ])
  },
)

test.each([
  ['/inference/v1/generate', true],
  ['/v1/completions', false],
])('over %s a cancel ends the request on the server, proven by its own count (F3, R4)', async (_, scaleOut) => {
  const server = await engine({ scaleOut, stepMs: 2, capacity: 2 })
  const supervisor = await supervise([vllm(server)])
  const rollout = supervisor.submit({
    prompt: PROMPT,
    samples: 4,
    sampling: { maxTokens: 3000, ignoreEos: true },
  })
  await until('two run', () => server.counters.running === 2 && server.counters.tokensDelivered > 4)
  rollout.cancel()
  const { completions } = await rollout.result
  expect(completions.map(({ outcome }) => outcome)).toEqual(Array(4).fill('cancelled'))
  await until('none runs', () => server.counters.running + server.counters.waiting === 0)
  expect(server.counters).toMatchObject({ disconnects: 0, aborted: 2 })
  const { completions: next } = await supervisor.submit({ prompt: PROMPT, sampling: { maxTokens: 3 } }).result
  expect(next[0]?.outcome).toBe('completed')
})

test('of a fleet of both dialects, a server dies in the middle of its streams: samples resume on the other, exact (F7, R6)', async () => {
  const [dying, staying] = [await engine({ stepMs: 2 }), await engine({ profile: 'sglang', stepMs: 2, capacity: 8 })]
  const supervisor = await supervise([vllm(dying!), { url: staying!.url }])
  const rollout = supervisor.submit({ prompt: PROMPT, samples: 8, sampling: { maxTokens: 120, ignoreEos: true } })
  await until('both run', () => dying!.counters.tokensDelivered > 60 && staying!.counters.tokensDelivered > 60)
  await dying!.close()
  const { completions } = await rollout.result
  for (const completion of completions) {
    expect(completion).toMatchObject({ outcome: 'completed', finishReason: 'length' })
    expect(completion.tokenIds).toHaveLength(120)
    expectExact(completion, OLD)
  }
  const segments = completions.flatMap((completion) => completion.segments)
  const moved = segments.filter(({ reason }) => reason === 'failed')
  expect(moved.length).toBeGreaterThan(0)
  // No token that had arrived was generated again.
  const arrived = moved.reduce((sum, { start, end }) => sum + end - start, 0)
  expect(staying!.counters.tokensGenerated).toBe(8 * 120 - arrived)
})

test('and the other way round, from SGLang to vLLM', async () => {
  const [staying, dying] = [await engine({ stepMs: 2, capacity: 8 }), await engine({ profile: 'sglang', stepMs: 2 })]
  const supervisor = await supervise([vllm(staying!), { url: dying!.url }])
  const rollout = supervisor.submit({ prompt: PROMPT, samples: 8, sampling: { maxTokens: 120, ignoreEos: true } })
  await until('both run', () => dying!.counters.tokensDelivered > 60 && staying!.counters.tokensDelivered > 60)
  await dying!.close()
  for (const completion of (await rollout.result).completions) {
    expect(completion).toMatchObject({ outcome: 'completed', finishReason: 'length' })
    expect(completion.tokenIds).toHaveLength(120)
    expectExact(completion, OLD)
  }
})

test('an engine that dies behind a living front answers 500: its samples resume elsewhere (R6)', async () => {
  const [dying, staying] = [await engine({ stepMs: 2 }), await engine({ stepMs: 2, capacity: 8 })]
  const supervisor = await supervise([vllm(dying!), vllm(staying!)])
  const rollout = supervisor.submit({ prompt: PROMPT, samples: 8, sampling: { maxTokens: 120, ignoreEos: true } })
  await until('both run', () => dying!.counters.tokensDelivered > 60 && staying!.counters.tokensDelivered > 60)
  // Weights that do not load break the model; the next request kills the engine.
  const body = JSON.stringify({ method: 'reload_weights', kwargs: { weights_path: '/nope' } })
  await fetch(`${dying!.url}/collective_rpc`, { method: 'POST', body })
  const poison = JSON.stringify({ token_ids: [1], sampling_params: {} })
  await fetch(`${dying!.url}/inference/v1/generate`, { method: 'POST', body: poison })
  for (const completion of (await rollout.result).completions) {
    expect(completion).toMatchObject({ outcome: 'completed' })
    expect(completion.tokenIds).toHaveLength(120)
    expectExact(completion, OLD)
  }
})

test('an update from nowhere fails, and the server gets no work under a version it does not have', async () => {
  const path = await mkdtemp(join(tmpdir(), 'weights-'))
  onTestFinished(() => rm(path, { recursive: true }))
  await saveWeights(path, NEW)
  const server = await engine()
  const supervisor = await supervise([vllm(server)])
  await expect(supervisor.updateWeights({ version: 1, path: '/nope' })).rejects.toMatchObject({ code: 'UPDATE_FAILED' })
  expect(server.weightVersion).toMatch(/^unfinished/)
  await supervisor.updateWeights({ version: 2, path })
  const { completions } = await supervisor.submit({ prompt: PROMPT, sampling: { maxTokens: 20 } }).result
  expect(completions[0]?.versions.map(({ version }) => version)).toEqual([2])
  expectExact(completions[0]!, NEW)
})

test('log-probabilities before temperature are refused, accepted by name, or asked to be after it (decision 20)', async () => {
  const hot = { prompt: PROMPT, sampling: { maxTokens: 20, temperature: 0.6, ignoreEos: true } }
  const strict = await supervise([vllm(await engine())])
  const [refused] = (await strict.submit(hot).result).completions
  expect(refused).toMatchObject({ outcome: 'failed', error: { code: 'INVALID_TASK' } })
  for (const advice of ['processed_logprobs', "logprobBasis: 'raw'"]) expect(refused?.error?.message).toContain(advice)
  const [plain] = (await strict.submit({ prompt: PROMPT }).result).completions
  expect(plain).toMatchObject({ outcome: 'completed', logprobBasis: 'sampled' })

  const [raw] = (await (await supervise([vllm(await engine(), { logprobBasis: 'raw' })])).submit(hot).result)
    .completions
  expect(raw).toMatchObject({ outcome: 'completed', logprobBasis: 'raw' })
  expectExact(raw!, OLD, 1)

  const processed = await engine({ logprobsMode: 'processed_logprobs' })
  const [after] = (await (await supervise([vllm(processed)])).submit(hot).result).completions
  expect(after).toMatchObject({ outcome: 'completed', logprobBasis: 'sampled' })
  expectExact(after!, OLD, 0.6)
})

test('an evaluation, and what is greedy, runs at any temperature, and says that its log-probabilities are of before it (decision 20)', async () => {
  const supervisor = await supervise([vllm(await engine())])
  const sampling = { maxTokens: 20, ignoreEos: true }
  const warm = { prompt: PROMPT, sampling: { ...sampling, temperature: 0.6 } }
  const greedy = { prompt: PROMPT, sampling: { ...sampling, temperature: 0 } }
  const evaluated = await supervisor.evaluate([warm, greedy], { interrupt: 'resume' })
  const found = [...evaluated, await supervisor.submit(greedy).result].flatMap(({ completions }) => completions)
  for (const completion of found) {
    expect(completion).toMatchObject({ outcome: 'completed', logprobBasis: 'raw' })
    expect(completion.tokenIds).toHaveLength(20)
    expectExact(completion, OLD, 1)
  }
  expect(found[2]!.tokenIds).toEqual(found[1]!.tokenIds)
})

test('text is turned into ids by the server, and resumes exactly', async () => {
  const server = await engine()
  const supervisor = await supervise([vllm(server)])
  const [completion] = (await supervisor.submit({ prompt: '53b', sampling: { maxTokens: 30 } }).result).completions
  expect(completion).toMatchObject({ outcome: 'completed' })
  expectExact(completion!, OLD)
})
