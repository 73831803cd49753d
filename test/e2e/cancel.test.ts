/**
 * Cancels and aborts over HTTP, on embedded engines: they reach the server, and what an abort cuts is whole in the end (F3, F12).
 */
import { afterEach, expect, test } from 'vitest'
import { createSupervisor, type RolloutEvent, type Supervisor, type SupervisorEvent } from '../../src/index.ts'
import {
  createTinyWeights,
  type EmbeddedEngine,
  type EmbeddedEngineOptions,
  scoreTokens,
  startEmbeddedEngine,
} from '../../src/testing/index.ts'

const weights = createTinyWeights({ seed: 3 })
const cleanups: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

async function start(options: EmbeddedEngineOptions = {}): Promise<{ engine: EmbeddedEngine; supervisor: Supervisor }> {
  const engine = await startEmbeddedEngine({
    profile: 'sglang',
    capacity: 4,
    stepMs: 2,
    contextLength: 20_000,
    weights,
    ...options,
  })
  cleanups.push(() => engine.close())
  const supervisor = createSupervisor({ instances: [{ url: engine.url }] })
  cleanups.push(() => supervisor.close())
  await supervisor.start()
  return { engine, supervisor }
}

function next<T extends SupervisorEvent['type']>(supervisor: Supervisor, type: T, count = 1): Promise<void> {
  return new Promise((resolve) => {
    let seen = 0
    const subscription = supervisor.events$.subscribe((event) => {
      if (event.type !== type || ++seen < count) return
      subscription.unsubscribe()
      resolve()
    })
  })
}

/** Resolves when so many samples have tokens. */
async function tokensOf(samples: number, events: AsyncIterable<RolloutEvent>): Promise<void> {
  const seen = new Set<number>()
  for await (const event of events) {
    if (event.type === 'sample.tokens') seen.add(event.sample)
    if (seen.size === samples) return
  }
}

/** What the server itself says that it runs and has waiting. */
async function loadOf(url: string): Promise<number> {
  const body = (await (await fetch(`${url}/v1/loads`)).json()) as {
    loads: { num_running_reqs: number; num_waiting_reqs: number }[]
  }
  return body.loads.reduce(
    (sum, { num_running_reqs, num_waiting_reqs }) => sum + num_running_reqs + num_waiting_reqs,
    0,
  )
}

/** Long past any end of sequence. */
const endless = { prompt: [5], sampling: { maxTokens: 10_000, ignoreEos: true } }

test('F3: a cancel settles at once, and the server runs nothing by the time its slots count as free', async () => {
  const { engine, supervisor } = await start()
  const rollout = supervisor.submit({ ...endless, samples: 6 })
  await tokensOf(4, rollout.events)
  expect(engine.counters.running).toBe(4)
  const released = next(supervisor, 'sample.released', 4)
  rollout.cancel('enough')
  const { waiting, running, ended } = supervisor.getSnapshot().conservation
  expect({ waiting, running, ended }).toEqual({
    waiting: 0,
    running: 0,
    ended: { completed: 0, failed: 0, cancelled: 6, expired: 0 },
  })
  expect((await rollout.result).missing.length).toBe(6)
  await released
  expect(await loadOf(engine.url)).toBe(0)
  expect(engine.counters.running + engine.counters.waiting).toBe(0)
  expect(supervisor.getSnapshot().instances[0]).toMatchObject({ running: 0, state: 'serving.idle' })
})

test('F3: a sample that passes its totalMs is ended on the server as well', async () => {
  const engine = await startEmbeddedEngine({
    profile: 'sglang',
    capacity: 1,
    stepMs: 2,
    contextLength: 20_000,
    weights,
  })
  cleanups.push(() => engine.close())
  const supervisor = createSupervisor({ instances: [{ url: engine.url }], timeouts: { totalMs: 100 } })
  cleanups.push(() => supervisor.close())
  await supervisor.start()
  const released = next(supervisor, 'sample.released')
  const { completions } = await supervisor.submit(endless).result
  expect(completions[0]).toMatchObject({ outcome: 'expired', error: { code: 'TOTAL_TIMEOUT' } })
  expect(completions[0]!.tokenIds.length).toBeGreaterThan(0)
  await released
  expect(await loadOf(engine.url)).toBe(0)
})

test('F12: an abort from outside is an interruption: the sample resumes, and its tokens are exact', async () => {
  const { engine, supervisor } = await start()
  const rollout = supervisor.submit({ prompt: [5], samples: 3, sampling: { maxTokens: 300, ignoreEos: true } })
  await tokensOf(3, rollout.events)
  const resumed = next(supervisor, 'sample.placed', 3)
  const answer = await fetch(`${engine.url}/abort_request`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ abort_all: true }),
  })
  expect(answer.status).toBe(200)
  await resumed
  const group = await rollout.result
  expect(group.complete).toBe(true)
  for (const { tokenIds, logprobs, versions, segments, finishReason } of group.completions) {
    expect([tokenIds.length, finishReason]).toEqual([300, 'length'])
    expect(versions).toEqual([{ version: null, start: 0, end: 300 }])
    expect(segments.map(({ reason }) => reason)).toEqual(['interrupted', 'finished'])
    expect([segments[0]!.start, segments[0]!.end, segments[1]!.end]).toEqual([0, segments[1]!.start, 300])
    const scores = scoreTokens(weights, [5], [...tokenIds])
    for (const [at, score] of scores.entries()) expect(logprobs[at]).toBeCloseTo(score, 5)
  }
  expect(supervisor.getSnapshot().instances[0]).toMatchObject({ interrupted: 3, failed: 0, fault: null })
})
