/**
 * What the tests of failures share: fleets of embedded engines over real HTTP, in every wire protocol, and what must hold of
 * whatever comes out of them.
 */
import { expect, onTestFinished } from 'vitest'
import {
  type Completion,
  createSupervisor,
  type EngineName,
  type FleetView,
  type InstanceOptions,
  type SupervisorOptions,
} from '../../src/index.ts'
import {
  createTinyWeights,
  type EmbeddedEngine,
  type EmbeddedEngineOptions,
  EOS,
  scoreTokens,
  startEmbeddedEngine,
  type TinyWeights,
  textOf,
  tokensOf,
} from '../../src/testing/index.ts'
import { until } from '../testing/client.ts'

export { until }

/** A wire protocol, and what can be promised over it. */
export interface Profile {
  readonly name: EngineName
  /** Takes and returns token ids, so that samples resume from their tokens; elsewhere they begin again. */
  readonly tokenIds: boolean
  /** Requests are ended by their id; elsewhere by closing their socket. */
  readonly abortsById: boolean
  /** Says which weights it has, and loads others. */
  readonly versions: boolean
}

export const PROFILES: readonly Profile[] = [
  { name: 'sglang', tokenIds: true, abortsById: true, versions: true },
  { name: 'vllm', tokenIds: true, abortsById: true, versions: true },
  { name: 'llama-server', tokenIds: true, abortsById: false, versions: false },
  { name: 'openai', tokenIds: false, abortsById: false, versions: false },
]

export const WEIGHTS = endless(createTinyWeights({ seed: 1 }))
const PROMPT: readonly number[] = [5, 3, 12]

/** Weights that never end a sample: not every protocol can be told to go on. */
export function endless(weights: TinyWeights): TinyWeights {
  const bigram = weights.bigram.slice()
  for (let from = 0; from < weights.vocabularySize; from++) bigram[from * weights.vocabularySize + EOS] = -60
  return { ...weights, bigram }
}

/** One embedded engine that ends with the test. */
export async function engine(profile: Profile, options: EmbeddedEngineOptions = {}): Promise<EmbeddedEngine> {
  const started = await startEmbeddedEngine({
    profile: profile.name,
    capacity: 4,
    weights: WEIGHTS,
    stepMs: 1,
    perSequenceMs: 0,
    seed: ++lastSeed,
    ...options,
  })
  onTestFinished(() => started.close())
  return started
}
let lastSeed = 0

export function engines(profile: Profile, count: number, options: EmbeddedEngineOptions = {}) {
  return Promise.all(Array.from({ length: count }, () => engine(profile, options)))
}

/** A started supervisor over servers of one protocol, that closes with the test. */
export async function supervise(
  profile: Profile,
  servers: readonly { readonly url: string }[],
  options: SupervisorOptions = {},
  instance: Partial<InstanceOptions> = {},
) {
  const supervisor = createSupervisor({
    instances: servers.map(({ url }) => ({ url, engine: profile.name, capacity: 4, ...instance })),
    // Probes of servers that are to come back come soon; those of dead ones never twice.
    breaker: { resetMs: 60_000, maxResetMs: 60_000 },
    ...options,
  })
  onTestFinished(() => supervisor.close())
  await supervisor.start()
  return supervisor
}

export type Supervised = Awaited<ReturnType<typeof supervise>>

/** Every sample is `maxTokens` long. */
export function task({ tokenIds }: Profile, samples: number, maxTokens: number) {
  return { prompt: tokenIds ? PROMPT : textOf(PROMPT), samples, sampling: { maxTokens } }
}

/** Complete, of the length asked for, and every log-probability is that of the weights, recomputed from nothing (I8). */
export function expectExact(
  profile: Profile,
  completion: Completion,
  tokens: number,
  weights: TinyWeights = WEIGHTS,
): void {
  expect(completion).toMatchObject({ outcome: 'completed', finishReason: 'length', error: null })
  // One character a token.
  expect(tokensOf(completion.text ?? '')).toHaveLength(tokens)
  if (!profile.tokenIds) return
  expect(completion.tokenIds).toHaveLength(tokens)
  expect(completion.text).toBe(textOf(completion.tokenIds))
  expect(completion.logprobs).toHaveLength(tokens)
  const scores = scoreTokens(weights, [...PROMPT], [...completion.tokenIds])
  for (const [i, score] of scores.entries()) expect(completion.logprobs[i]).toBeCloseTo(score, 4)
}

/** Tokens that samples had got from attempts that did not end well. */
export function arrived(completions: readonly Completion[]): number {
  const broken = completions.flatMap(({ segments }) => segments).filter(({ reason }) => reason !== 'finished')
  return broken.reduce((sum, { start, end }) => sum + end - start, 0)
}

export function generated(servers: readonly EmbeddedEngine[]): number {
  return servers.reduce((sum, { counters }) => sum + counters.tokensGenerated, 0)
}

export function viewOf(supervisor: Supervised, server: { readonly url: string }): FleetView['instances'][number] {
  return supervisor.getSnapshot().instances.find(({ url }) => url === server.url)!
}

/** After the last sample nothing runs there, and no slot is held here: 10 s later where a server cannot say so (I5). */
export async function expectEmpty(supervisor: Supervised, servers: readonly EmbeddedEngine[]): Promise<void> {
  await until('no server works', () => servers.every(({ counters }) => counters.running + counters.waiting === 0))
  const free = () => supervisor.getSnapshot().instances.every(({ running }) => running === 0)
  await until('no slot is held', free, 15_000)
}
