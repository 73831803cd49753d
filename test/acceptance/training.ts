/**
 * What the acceptance tests of batches share: a trainer that publishes weights with a version, and groups whose every token is
 * checked against the weights that its version names (I8).
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished } from 'vitest'
import type { Completion, Group, Task, WeightUpdateOptions } from '../../src/index.ts'
import { createTinyWeights, saveWeights, scoreTokens, type TinyWeights } from '../../src/testing/index.ts'
import { endless, type Profile, type Supervised, WEIGHTS } from '../failures/fleet.ts'

export interface Trainer {
  /** Version of the last update; null before the first. */
  readonly version: number | null
  /** Makes new weights and brings the fleet to them. */
  update(how?: Pick<WeightUpdateOptions, 'mode'>): Promise<void>
  /** As long as its meta says, and each token has the log-probability that the weights of its version give it. */
  expectExact(group: Group<Numbered>): void
}

export interface Numbered {
  readonly number: number
  readonly tokens: number
}

export async function trainer(supervisor: Supervised): Promise<Trainer> {
  const folder = await mkdtemp(join(tmpdir(), 'rollout-supervisor-test-'))
  onTestFinished(() => rm(folder, { recursive: true, force: true }))
  const weights = new Map<number | null, TinyWeights>([[null, WEIGHTS]])
  let version: number | null = null

  function expectExact({ id, tokenIds, logprobs, versions }: Completion, prompt: number[]): void {
    expect(logprobs).toHaveLength(tokenIds.length)
    expect(versions.at(-1)?.end ?? 0).toBe(tokenIds.length)
    for (const span of versions) {
      const scores = scoreTokens(weights.get(span.version)!, prompt, [...tokenIds])
      for (let at = span.start; at < span.end; at++)
        expect(logprobs[at], `token ${at} of ${id}, version ${span.version}`).toBeCloseTo(scores[at]!, 4)
    }
  }
  return {
    get version() {
      return version
    },
    async update(how: Pick<WeightUpdateOptions, 'mode'> = {}) {
      const next = (version ?? 0) + 1
      const path = join(folder, `version-${next}`)
      weights.set(next, endless(createTinyWeights({ seed: 100 + next })))
      await saveWeights(path, weights.get(next)!)
      await supervisor.updateWeights({ version: next, path, ...how })
      version = next
    },
    expectExact({ completions, meta }) {
      for (const completion of completions) {
        expect(completion).toMatchObject({ outcome: 'completed', finishReason: 'length' })
        expect(completion.tokenIds).toHaveLength(meta.tokens)
        expectExact(completion, promptOf(meta.number))
      }
    },
  }
}

function promptOf(number: number): number[] {
  return [number % 10, 3]
}

/** A task of this number, whose samples are all `tokens` long. */
export function numbered(number: number, tokens: number, samples = 4): Task<Numbered> {
  return { prompt: promptOf(number), samples, sampling: { maxTokens: tokens }, meta: { number, tokens } }
}

/** Such tasks without end, their lengths in turn; `drawn` counts them. */
export function stream(lengths: readonly number[], samples: number | readonly number[] = 4) {
  const state = { drawn: 0 }
  const sizes = typeof samples === 'number' ? [samples] : samples
  function* tasks(): Generator<Task<Numbered>> {
    for (let number = 0; ; number++) {
      state.drawn++
      yield numbered(number, lengths[number % lengths.length]!, sizes[number % sizes.length]!)
    }
  }
  return { state, source: tasks() }
}

export function numbersOf(groups: readonly Group<Numbered>[]): number[] {
  return groups.map(({ meta }) => meta.number)
}

/** Everybody who can be told of batches over HTTP, in the dialects that say which weights they have. */
export function versioned(profiles: readonly Profile[]): readonly Profile[] {
  return profiles.filter(({ versions }) => versions)
}
