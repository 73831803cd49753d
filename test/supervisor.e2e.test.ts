/**
 * The whole supervisor, from a task to its completions.
 */
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { createSupervisor } from '../src/index.ts'
import { createTinyWeights, EOS, saveWeights, scoreTokens, startEmbeddedEngine } from '../src/testing/index.ts'

test('generates over HTTP, updates weights, and every log-probability can be recomputed', async () => {
  const weights = createTinyWeights({ seed: 1 })
  const next = createTinyWeights({ seed: 2 })
  const path = await mkdtemp(join(tmpdir(), 'weights-'))
  await saveWeights(path, next)
  const engines = await Promise.all(
    [1, 2].map((seed) =>
      startEmbeddedEngine({ profile: 'sglang', capacity: 4, seed, weights, stepMs: 0, perSequenceMs: 0 }),
    ),
  )
  const supervisor = createSupervisor({ instances: engines.map(({ url }) => ({ url })) })
  await supervisor.start()
  const task = { prompt: [5], samples: 16, sampling: { maxTokens: 40 } }
  const before = await supervisor.submit(task).result
  const report = await supervisor.updateWeights({ version: 1, path })
  expect(report.instances.map(({ ok }) => ok)).toEqual([true, true])
  const after = await supervisor.submit(task).result
  for (const [group, used, version] of [
    [before, weights, null],
    [after, next, 1],
  ] as const) {
    expect(group.complete).toBe(true)
    for (const completion of group.completions) {
      expect(completion.versions).toEqual([{ version, start: 0, end: completion.tokenIds.length }])
      const scores = scoreTokens(used, [5], [...completion.tokenIds])
      for (const [i, score] of scores.entries()) expect(completion.logprobs[i]).toBeCloseTo(score, 5)
      expect(completion.finishReason).toBe(completion.tokenIds.at(-1) === EOS ? 'stop' : 'length')
    }
  }
  expect(supervisor.getSnapshot().instances.map(({ running }) => running)).toEqual([0, 0])
  await supervisor.close()
  await Promise.all(engines.map((engine) => engine.close()))
})
