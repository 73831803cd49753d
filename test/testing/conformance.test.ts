/**
 * The conformance suite over the embedded engines: each dialect does what its real engine was seen to do (test/e2e/engines), and the suite
 * sees what goes wrong: caches that outlive their weights, labels that lie, aborts that end nothing, a server left paused.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { realClock } from '../../src/clock.ts'
import type { EngineDriver } from '../../src/engines/driver.ts'
import { engineFactory } from '../../src/engines/index.ts'
import {
  type ConformanceOptions,
  type ConformanceOutcome,
  type ConformanceReport,
  checkConformance,
  conformanceChecks,
  createTinyWeights,
  type EmbeddedEngine,
  type EmbeddedEngineOptions,
  type EngineProfile,
  loadWeights,
  saveWeights,
  scoreTokens,
  startEmbeddedEngine,
} from '../../src/testing/index.ts'

let folder = ''
const weights = ['A', 'B'].map((_, i) => createTinyWeights({ seed: i + 1, scale: 1 }))
const paths = (): [string, string] => [join(folder, 'A'), join(folder, 'B')]
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'conformance-'))
  for (const [i, path] of paths().entries()) await saveWeights(path, weights[i]!)
})
afterAll(() => rm(folder, { recursive: true }))

const closers: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const close of closers.splice(0)) await close()
})

interface Subject {
  readonly engine: EmbeddedEngine
  readonly driver: EngineDriver
}

async function subject(profile: EngineProfile, options: EmbeddedEngineOptions = {}): Promise<Subject> {
  // A step is long enough that 512 tokens are met while they run.
  const engine = await startEmbeddedEngine({ profile, capacity: 3, stepMs: 1, weights: weights[0]!, ...options })
  const driver = engineFactory(profile)({ id: profile, url: engine.url, apiKey: undefined, clock: realClock })
  closers.push(() => driver.close(), engine.close)
  return { engine, driver }
}

function check({ engine, driver }: Subject, options: ConformanceOptions = {}): Promise<ConformanceReport> {
  const score = async (path: string, prompt: readonly number[], tokens: readonly number[]) =>
    scoreTokens(await loadWeights(path), prompt, tokens)
  const allow = { pause: true, release: true, weights: paths(), restart: () => engine.faults.restart() }
  return checkConformance(driver, { allow, score, idleMs: 0, checkMs: 20_000, ...options })
}

/** The checks that do not work, by what came of them. */
function exceptions({ results }: ConformanceReport): Partial<Record<ConformanceOutcome, string[]>> {
  const found: Partial<Record<ConformanceOutcome, string[]>> = {}
  for (const { name, outcome } of results) {
    if (outcome !== 'works') found[outcome] = [...(found[outcome] ?? []), name]
  }
  return found
}

const NO_CONTROL = ['pause and abort', 'pause and keep', 'resume an open server', 'weight change']
const NO_WEIGHTS = [...NO_CONTROL, 'weight change over frozen requests', 'weight change from nowhere']
const NO_ABORT = ['abort one', 'abort an unknown id', 'abort while queued', 'abort all']
const IDLE = ['idle connection']
/** What works over text alone. */
const TEXT = ['stream', ...IDLE]

const EXPECTED: Readonly<Record<EngineProfile, Partial<Record<ConformanceOutcome, readonly string[]>>>> = {
  sglang: {
    'does not': ['token id outside the vocabulary'],
    'not offered': ['seed', 'release and reclaim'],
    skipped: IDLE,
  },
  vllm: { 'not offered': ['release and reclaim'], skipped: IDLE },
  'llama-server': {
    'not offered': ['versions', 'least tokens', ...NO_ABORT, ...NO_WEIGHTS, 'release and reclaim'],
    skipped: IDLE,
  },
  openai: { 'not offered': conformanceChecks.filter((name) => !TEXT.includes(name)), skipped: IDLE },
}

describe('the embedded engines do what the real ones were seen to do', () => {
  it.each(['sglang', 'vllm', 'llama-server', 'openai'] as const)('%s', async (profile) => {
    const report = await check(await subject(profile))
    expect(exceptions(report)).toEqual(EXPECTED[profile])
    expect(report.conforms).toBe(EXPECTED[profile]['does not'] === undefined)
  })
})

describe('the suite sees', () => {
  async function foundBy(name: string, by: Subject, options: ConformanceOptions = {}): Promise<string> {
    const { results } = await check(by, { only: [name], ...options })
    expect(results).toMatchObject([{ name, outcome: 'does not' }])
    return results[0]!.found
  }

  it('R2: caches that outlive their weights, in new requests', async () => {
    const { engine, driver } = await subject('sglang')
    const forgetful: EngineDriver = {
      ...driver,
      async updateWeights({ version, path }) {
        const body = { model_path: path, weight_version: `${version}`, flush_cache: false, abort_all_requests: false }
        const answer = await fetch(`${engine.url}/update_weights_from_disk`, {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify(body),
        })
        expect(answer.status).toBe(200)
      },
    }
    const words = await foundBy('weight change', { engine, driver: forgetful })
    expect(words).toMatch(/nats off those of .*: caches of older weights were used/)
  })

  it('a version that is said and not loaded', async () => {
    const { engine, driver } = await subject('vllm')
    const lazy: EngineDriver = {
      ...driver,
      updateWeights: async ({ version, frozen }) => driver.updateWeights({ version, path: paths()[0], frozen }),
    }
    expect(await foundBy('weight change', { engine, driver: lazy })).toMatch(/nats off those of/)
  })

  it('F12: aborts that end nothing', async () => {
    const by = await subject('vllm')
    by.engine.faults.refuseAbort('ignored')
    expect(await foundBy('abort one', by, { checkMs: 400 })).toContain('expected an')
  })

  it('R7: a server that goes on for a client that has left', async () => {
    const by = await subject('sglang')
    by.engine.faults.ignoreDisconnects()
    expect(await foundBy('disconnect', by)).toMatch(
      /expected that it stops, found \d+ of \d+ tokens generated for nobody/,
    )
  })

  it('a wrong word about log-probabilities (decision 20)', async () => {
    const { engine, driver } = await subject('vllm')
    const wrong: EngineDriver = {
      ...driver,
      async probe(signal) {
        const probe = await driver.probe(signal)
        return { ...probe, capabilities: { ...probe.capabilities, logprobs: 'sampled' } }
      },
    }
    const words = await foundBy('log-probability basis', { engine, driver: wrong })
    expect(words).toBe("the driver says 'sampled', and the server's own are 'raw'")
  })

  it('a pause that holds nothing; the server is open afterwards, and nothing of the check is left on it', async () => {
    const { engine, driver } = await subject('sglang')
    let resumed = 0
    const idle: EngineDriver = {
      ...driver,
      pause: async () => {},
      async resume(signal) {
        resumed++
        await driver.resume(signal)
      },
    }
    expect(await foundBy('pause and keep', { engine, driver: idle })).toBe('the server does not say that it is paused')
    expect(resumed).toBe(1)
    await expect.poll(() => engine.counters.running + engine.counters.waiting).toBe(0)
  })
})

describe('what is not allowed is not done', () => {
  it('no pause, no new weights, no restart', async () => {
    const by = await subject('sglang')
    const paths: string[] = []
    by.engine.faults.onRequest((_, path) => void paths.push(path))
    const report = await check(by, { allow: {}, only: conformanceChecks.slice(-10) })
    expect(exceptions(report).skipped).toEqual(['token id outside the vocabulary', ...NO_WEIGHTS, 'restart'])
    // Its probe asks for the route that pauses with a mode that nobody knows.
    expect(paths.filter((path) => /continue|update|flush/.test(path))).toEqual([])
    expect(by.engine.counters.updates).toBe(0)
  })

  it('a check that nobody knows is an error that lists the known ones', async () => {
    const { driver } = await subject('sglang')
    const refused = checkConformance(driver, { only: ['pause', 'stream'] })
    await expect(refused).rejects.toMatchObject({ code: 'INVALID_OPTIONS' })
    await expect(refused).rejects.toThrow(/stop ids.*found pause$/)
  })

  it('its signal ends it, with the reason of the signal', async () => {
    const by = await subject('sglang')
    const controller = new AbortController()
    const onResult = (): void => controller.abort(new Error('enough'))
    await expect(check(by, { signal: controller.signal, onResult })).rejects.toThrow('enough')
  })
})
