/**
 * R2, R3: what protects an update is switched off on purpose, and the check that calls the protected one exact must see it. A check that could not fail
 * would prove nothing.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { engineFactory } from '../../src/engines/index.ts'
import type { DriverFactory, EngineDriver, UpdateMode } from '../../src/index.ts'
import { createFidelityChecker, createTinyWeights, saveWeights, scoreTokens } from '../../src/testing/index.ts'
import { endless, engine, PROFILES, type Profile, supervise, WEIGHTS } from '../failures/fleet.ts'
import { versioned } from './training.ts'

const NEW = endless(createTinyWeights({ seed: 2, scale: 0.8 }))
const PROMPT = [7, 1, 12, 3, 9]

async function post(url: string, path: string, body: object = {}): Promise<void> {
  const headers = { 'content-type': 'application/json' }
  const reply = await fetch(url + path, { method: 'POST', headers, body: JSON.stringify(body) })
  expect([path, reply.status]).toEqual([path, 200])
  await reply.text()
}

/** Loads and labels weights by the server's own routes, and empties no cache. */
async function load(profile: Profile, url: string, folder: string, version: string): Promise<void> {
  if (profile.name === 'sglang') {
    const update = { model_path: folder, weight_version: version, flush_cache: false, abort_all_requests: false }
    return post(url, '/update_weights_from_disk', update)
  }
  await post(url, '/collective_rpc', { method: 'reload_weights', kwargs: { weights_path: folder } })
  await post(url, '/update_weight_version', { new_version: version })
}

/** Samples under version 1, over the update to 2 and after it, all of one prompt. */
async function reportOf(
  profile: Profile,
  mode: UpdateMode,
  off: (driver: EngineDriver, url: string) => Partial<EngineDriver>,
) {
  const folder = await mkdtemp(join(tmpdir(), 'rollout-supervisor-protection-'))
  onTestFinished(() => rm(folder, { recursive: true, force: true }))
  await saveWeights(join(folder, '1'), WEIGHTS)
  await saveWeights(join(folder, '2'), NEW)
  const server = await engine(profile, { capacity: 4 })
  const driver: DriverFactory = (options) => {
    const made = engineFactory(profile.name)(options)
    return { ...made, ...off(made, server.url) }
  }
  const supervisor = await supervise(profile, [server], {}, { engine: driver })
  const update = (version: 1 | 2, how: UpdateMode): Promise<unknown> =>
    supervisor.updateWeights({
      version,
      mode: how,
      apply: ({ url }) => load(profile, url, join(folder, String(version)), String(version)),
    })
  const check = createFidelityChecker({
    score: (version, prompt, tokenIds) => scoreTokens(version === 1 ? WEIGHTS : NEW, prompt, tokenIds),
  })
  const sample = async (samples: number): Promise<void> => {
    const rollout = supervisor.submit({ prompt: PROMPT, samples, sampling: { maxTokens: 200 } })
    for (const completion of (await rollout.result).completions) await check.check(PROMPT, completion)
  }
  await update(1, 'abort')
  await sample(1)
  expect(check.report).toMatchObject({ exact: true, tokens: 200 })
  const generated = server.counters.tokensGenerated
  const running = sample(4)
  while (server.counters.tokensGenerated < generated + 100) await new Promise((resolve) => setImmediate(resolve))
  await update(2, mode)
  await running
  await sample(4)
  return { ...check.report, aborted: server.counters.aborted }
}

describe.each(versioned(PROFILES))('on $name', (profile) => {
  /** Nothing empties a cache: no flush of ours, none with a pause of vLLM, and SGLang keeps the KV of what stands still. */
  const unprotected = ({ pause }: EngineDriver, url: string): Partial<EngineDriver> => ({
    flush: async () => {},
    pause: (mode, signal) => {
      if (profile.name === 'vllm') return post(url, `/pause?mode=${mode}&clear_cache=false`)
      return mode === 'keep' ? post(url, '/pause_generation', { mode: 'in_place' }) : pause!(mode, signal)
    },
  })

  test.each<UpdateMode>(['abort', 'keep'])(
    'R2, R3, F9: %s with its protection is exact, and ends nothing that it did not mean to',
    async (mode) => {
      const { aborted, ...report } = await reportOf(profile, mode, () => ({}))
      // Neither the new weights nor the number that they are published under end anything (F9).
      if (mode === 'keep') expect(aborted).toBe(0)
      expect(report).toMatchObject({ exact: true, completions: 9, tokens: 1_800, offenders: [], malformed: [] })
      expect(Object.keys(report.versions)).toEqual(['1', '2'])
    },
  )

  test('R2: without the flush, new samples of the prompt that the cache holds are seen to be wrong', async () => {
    const { exact, versions } = await reportOf(profile, 'abort', unprotected)
    expect(exact).toBe(false)
    expect(versions[1]!.largest).toBeLessThan(1e-4)
    expect(versions[2]!.largest).toBeGreaterThan(0.01)
  })

  test('R3: with the KV kept over the update, the samples that stood still are seen to be wrong', async () => {
    const { exact, versions, positions } = await reportOf(profile, 'keep', unprotected)
    expect(exact).toBe(false)
    expect(versions[1]!.largest).toBeLessThan(1e-4)
    expect(positions.seams.largest).toBeGreaterThan(0.01)
  })
})
