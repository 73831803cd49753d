/**
 * The control routes of embedded engines: memory that is given away, a flush that waits, and calls that go wrong before or after what they do.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { realClock } from '../../src/clock.ts'
import type { EngineDriver } from '../../src/engines/driver.ts'
import { engineFactory } from '../../src/engines/index.ts'
import { checkTask } from '../../src/rollout/check-task.ts'
import {
  createTinyWeights,
  type EmbeddedEngineOptions,
  type RouteFault,
  saveWeights,
  scoreTokens,
  startEmbeddedEngine,
  type TinyWeights,
} from '../../src/testing/index.ts'
import { largestDifference, until } from './client.ts'

const OLD = createTinyWeights({ seed: 1 })
const NEW = createTinyWeights({ seed: 2, scale: 0.8 })
const PROMPT = [7, 1, 12, 3, 9]

let path = ''
beforeAll(async () => {
  path = await mkdtemp(join(tmpdir(), 'embedded-control-'))
  await saveWeights(path, NEW)
})
afterAll(() => rm(path, { recursive: true, force: true }))

async function start(options: EmbeddedEngineOptions) {
  const engine = await startEmbeddedEngine({
    stepMs: 1,
    perSequenceMs: 0,
    weights: OLD,
    weightVersion: '1',
    ...options,
  })
  const { profile = 'sglang' } = options
  const driver = engineFactory(profile)({ id: 'a', url: engine.url, apiKey: undefined, clock: realClock })
  onTestFinished(async () => {
    await driver.close()
    await engine.close()
  })
  await driver.probe()
  return { engine, driver }
}

let serial = 0
function generate(driver: EngineDriver, maxTokens: number) {
  const { sampling } = checkTask({ prompt: PROMPT, sampling: { maxTokens, ignoreEos: true } }, null)
  const out = { id: `r-${serial++}`, tokens: [] as number[], logprobs: [] as number[], finishReason: '', versions: '' }
  const ended = (async () => {
    for await (const chunk of driver.generate(
      { requestId: out.id, prompt: PROMPT, sampling },
      new AbortController().signal,
    )) {
      out.tokens.push(...chunk.tokenIds)
      out.logprobs.push(...chunk.logprobs)
      out.finishReason = chunk.finishReason ?? ''
      out.versions = (chunk.versions ?? []).map(({ version }) => version).join(' ')
    }
    return out
  })()
  return { ...out, ended }
}
const off = (out: { tokens: number[]; logprobs: number[] }, weights: TinyWeights): number =>
  largestDifference(out.logprobs, scoreTokens(weights, PROMPT, out.tokens))
const code = (promise: Promise<unknown>) =>
  promise.then(
    () => 'no error',
    (error) => error.code,
  )

describe.each(['sglang', 'vllm'] as const)('an embedded %s, through its driver', (profile) => {
  test('declares how it can be held, and gives memory away only where it was started for that', async () => {
    const { driver } = await start({ profile })
    expect((await driver.probe()).capabilities).toMatchObject({ pause: ['abort', 'keep'], release: false })
    const saving = await start({ profile, memorySaver: true })
    expect((await saving.driver.probe()).capabilities).toMatchObject({ release: true })
  })

  test('is held with its requests ended; what comes waits, and runs when it is opened', async () => {
    const { driver, engine } = await start({ profile })
    const running = generate(driver, 3000)
    await until('it runs', () => engine.counters.tokensDelivered > 0)
    await driver.pause!('abort')
    expect((await running.ended).finishReason).toBe('abort')
    expect((await driver.probe()).paused).toBe(true)
    const held = generate(driver, 5)
    await until('it waits', () => engine.counters.held + engine.counters.waiting === 1)
    expect((await driver.load()).running).toBe(0)
    await driver.resume()
    await driver.resume()
    expect((await held.ended).tokens).toHaveLength(5)
  })

  test('is held with its requests frozen, and takes new weights under them: exact on both sides (R3)', async () => {
    const { driver, engine } = await start({ profile })
    const frozen = generate(driver, 300)
    await until('it runs', () => engine.counters.tokensDelivered > 20)
    await driver.pause!('keep')
    const { tokensGenerated } = engine.counters
    await driver.updateWeights({ version: 2, path, frozen: true })
    expect([engine.counters.tokensGenerated, await driver.weightVersion()]).toEqual([tokensGenerated, '2'])
    await driver.resume()
    const out = await frozen.ended
    const old = { tokens: out.tokens, logprobs: out.logprobs.slice(0, tokensGenerated) }
    expect([out.tokens.length, out.versions]).toEqual([300, '1 2'])
    const scores = [scoreTokens(OLD, PROMPT, out.tokens), scoreTokens(NEW, PROMPT, out.tokens)]
    expect(largestDifference(old.logprobs, scores[0]!.slice(0, tokensGenerated))).toBeLessThan(1e-9)
    expect(largestDifference(out.logprobs.slice(tokensGenerated), scores[1]!.slice(tokensGenerated))).toBeLessThan(1e-9)
  })

  test('says when a flush is refused, and after one is exact again (R2)', async () => {
    const { driver, engine } = await start({ profile })
    const running = generate(driver, 3500)
    await until('it runs', () => engine.counters.tokensDelivered > 0)
    const controller = new AbortController()
    const waiting = driver.flush!(false, controller.signal)
    if (profile === 'sglang') controller.abort()
    expect(await code(waiting)).toBe(profile === 'sglang' ? 'CANCELLED' : 'BUSY')
    await driver.pause!('abort')
    await running.ended
    await driver.resume()
    await driver.flush!(false)
    expect(off(await generate(driver, 30).ended, OLD)).toBeLessThan(1e-9)
  })

  test.each([true, false])(
    'gives its memory away and takes it back; weights with a backup: %s (decision 8)',
    async (weightsBackup) => {
      const { driver } = await start({ profile, memorySaver: true, weightsBackup })
      expect(await driver.reclaim!()).toEqual({ weightsKept: true })
      await driver.pause!('abort')
      await driver.release!()
      await driver.release!()
      const { weightsKept } = await driver.reclaim!()
      expect(weightsKept).toBe(profile === 'vllm' || weightsBackup)
      await driver.resume()
      const out = await generate(driver, 30).ended
      expect(await driver.weightVersion()).toBe('1')
      if (weightsKept) expect(off(out, OLD)).toBeLessThan(1e-9)
      else expect(off(out, OLD)).toBeGreaterThan(0.01)
      await driver.updateWeights({ version: 2, path, frozen: false })
      expect(off(await generate(driver, 30).ended, NEW)).toBeLessThan(1e-9)
    },
  )

  test('counts tokens while they are generated', async () => {
    const { driver, engine } = await start({ profile })
    const running = generate(driver, 3000)
    await until('it runs', () => engine.counters.tokensDelivered > 0)
    const { generatedTokens: before } = await driver.load()
    await until('it goes on', () => engine.counters.tokensDelivered > before! + 20)
    expect((await driver.load()).generatedTokens).toBeGreaterThan(before!)
    await driver.abort(running.id)
    await running.ended
  })

  const UPDATE = profile === 'sglang' ? '/update_weights_from_disk' : '/collective_rpc'
  const unfinished = profile === 'sglang' ? '1' : 'unfinished-update-to-2'
  test.each([
    ['die', 'UNREACHABLE', unfinished],
    ['dieAfter', 'UNREACHABLE', profile === 'sglang' ? '2' : unfinished],
    // A connection that was used before and broke is taken for one that was idle too long: the call is sent again (F13).
    ['restart', 'no error', '2'],
    ['restartAfter', 'no error', '2'],
    ['pretend', profile === 'sglang' ? 'ENGINE_ERROR' : 'no error', profile === 'sglang' ? '1' : '2'],
  ] as const satisfies readonly (readonly [RouteFault, string, string])[])(
    'an update that goes wrong by %s: %s, and its label is then %s',
    async (how, expected, label) => {
      const { driver, engine } = await start({ profile })
      engine.faults.route(UPDATE, how)
      expect(await code(driver.updateWeights({ version: 2, path, frozen: false }))).toBe(expected)
      expect(engine.weightVersion).toBe(label)
      expect(await code(driver.probe())).toBe(how.startsWith('die') ? 'UNREACHABLE' : 'no error')
      if (how.startsWith('restart')) expect(off(await generate(driver, 30).ended, NEW)).toBeLessThan(1e-9)
    },
  )

  test.each(['hang', 'hangAfter'] as const)('a call that goes wrong by %s ends with its signal', async (how) => {
    const { driver, engine } = await start({ profile })
    engine.faults.route(profile === 'sglang' ? '/pause_generation' : '/pause', how)
    const controller = new AbortController()
    const pausing = driver.pause!('abort', controller.signal)
    await until('it was asked', () => engine.faults.counters.answered === 1)
    controller.abort()
    expect(await code(pausing)).toBe('CANCELLED')
    expect((await driver.probe()).paused).toBe(how === 'hangAfter')
    await driver.resume()
    expect((await driver.probe()).paused).toBe(false)
    engine.faults.route('/metrics', 'hang', { times: 3 })
    engine.faults.heal()
    expect((await generate(driver, 3).ended).tokens).toHaveLength(3)
  })
})

test('an embedded llama-server counts tokens while they are generated', async () => {
  const { driver, engine } = await start({ profile: 'llama-server' })
  const controller = new AbortController()
  const { sampling } = checkTask({ prompt: PROMPT, sampling: { maxTokens: 3000, ignoreEos: true } }, null)
  const stream = driver.generate({ requestId: 'r', prompt: PROMPT, sampling }, controller.signal)
  const ended = (async () => {
    for await (const _ of stream);
  })().catch(() => {})
  await until('it runs', () => engine.counters.tokensDelivered > 0)
  const { generatedTokens: before } = await driver.load()
  await until('it goes on', () => engine.counters.tokensDelivered > before! + 20)
  expect((await driver.load()).generatedTokens).toBeGreaterThan(before!)
  controller.abort()
  await ended
})

describe('an embedded SGLang', () => {
  test('ends when it is to take back what it never gave, give what it needs, or generate without it', async () => {
    const post = (url: string, route: string, body: object = {}) =>
      code(fetch(url + route, { method: 'POST', body: JSON.stringify(body) }).then(() => {}))
    const never = await start({})
    await post(never.engine.url, '/resume_memory_occupation')
    await until('it has ended', () => never.engine.counters.died)
    const busy = await start({ memorySaver: true })
    const cut = code(generate(busy.driver, 3000).ended)
    await until('it runs', () => busy.engine.counters.tokensDelivered > 0)
    await post(busy.engine.url, '/release_memory_occupation')
    await until('it has ended', () => busy.engine.counters.died)
    expect(await cut).toBe('TRANSPORT')
    const empty = await start({ memorySaver: true })
    await empty.driver.release!()
    expect(await code(generate(empty.driver, 3).ended)).toBe('TRANSPORT')
    expect(empty.engine.counters.died).toBe(true)
  })

  test('without the saver gives nothing away, and says that it did', async () => {
    const { driver } = await start({})
    await driver.release!()
    expect(off(await generate(driver, 30).ended, OLD)).toBeLessThan(1e-9)
    expect(await driver.reclaim!()).toEqual({ weightsKept: false })
    expect(off(await generate(driver, 30).ended, OLD)).toBeLessThan(1e-9)
  })

  test('a flush with a timeout waits for what runs to end, and says when it did not', async () => {
    const { engine, driver } = await start({})
    const running = generate(driver, 100)
    await until('it runs', () => engine.counters.tokensDelivered > 0)
    await driver.flush!(false)
    expect((await running.ended).tokens).toHaveLength(100)
    const long = generate(driver, 3000)
    await until('it runs', () => engine.counters.running === 1)
    const reply = await fetch(`${engine.url}/flush_cache?timeout=0.02`, { method: 'POST' })
    expect([reply.status, await reply.text()]).toEqual([400, 'Timed out waiting for idle state.'])
    await driver.abort(long.id)
    await long.ended
  })

  test('another server under the same name is not asked for what the first one gave', async () => {
    const { engine, driver } = await start({ memorySaver: true, seed: 1 })
    await driver.release!()
    await engine.faults.restart()
    expect(await driver.reclaim!()).toEqual({ weightsKept: true })
    expect(engine.counters.died).toBe(false)
  })
})
