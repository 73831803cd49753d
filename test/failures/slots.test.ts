/**
 * When a slot is free again: not when the caller has what it wanted, but when the server has really ended the work (D3, decision 23).
 */
import { describe, expect, test } from 'vitest'
import { type Clock, realClock } from '../../src/clock.ts'
import type { EmbeddedEngine } from '../../src/testing/index.ts'
import { engine, engines, expectEmpty, expectExact, PROFILES, supervise, task, until, viewOf } from './fleet.ts'

const TOKENS = 40
const LONG = 3000
/** Where a server does not say what it runs, a slot is taken for 10 s after its socket closed. */
const SLOTS_MS = 15_000
/** Between two looks at whether the server has ended it. */
const POLL_MS = 250

function requestsOf(server: EmbeddedEngine, pattern: RegExp): () => number {
  let count = 0
  server.faults.onRequest((_, path) => {
    if (pattern.test(path)) count++
  })
  return () => count
}

describe.each(PROFILES)('$name', (profile) => {
  test('a cancelled sample ends at once for the caller, and on the server, whose own count returns to 0 (F3, R4)', async () => {
    const server = await engine(profile, { stepMs: 2 })
    const supervisor = await supervise(profile, [server])
    const rollout = supervisor.submit(task(profile, 6, LONG))
    await until('four run', () => server.counters.running === 4 && server.counters.tokensDelivered > 8)
    rollout.cancel()
    const { completions } = await rollout.result
    expect(completions.map(({ outcome }) => outcome)).toEqual(Array(6).fill('cancelled'))
    await expectEmpty(supervisor, [server])
    if (profile.abortsById) expect(server.counters).toMatchObject({ disconnects: 0, aborted: 4 })
    else expect(server.counters.disconnects).toBe(4)
    // Far from the 3000 tokens that each would have had.
    expect(server.counters.tokensGenerated).toBeLessThan(4 * 1000)
  })

  test('a timed-out attempt is ended at the engine before its slot is counted free (D3)', async () => {
    const [slow, quick] = await engines(profile, 2)
    const supervisor = await supervise(profile, [slow!, quick!], { timeouts: { progressMs: 250 } })
    const aborts = requestsOf(slow!, /abort/)
    const released: { readonly told: number; readonly runs: number; readonly held: number }[] = []
    supervisor.events$.subscribe((event) => {
      if (event.type !== 'sample.released' || event.reason !== 'timedOut') return
      const told = profile.abortsById ? aborts() : slow!.counters.disconnects
      released.push({ told, runs: slow!.counters.running, held: viewOf(supervisor, slow!).running })
    })
    const rollout = supervisor.submit(task(profile, 8, TOKENS))
    await until('both run', () => slow!.counters.tokensDelivered > 4 && quick!.counters.tokensDelivered > 4)
    slow!.faults.slow(500)
    const { completions } = await rollout.result
    for (const completion of completions) expectExact(profile, completion, TOKENS)
    await until('its slots are free', () => viewOf(supervisor, slow!).running === 0, SLOTS_MS)
    expect(released.length).toBeGreaterThan(0)
    for (const { told, runs, held } of released) {
      expect(told).toBeGreaterThan(0)
      // The server runs no more of ours than there are slots held: none was counted free before it had ended.
      expect(runs).toBeLessThanOrEqual(held + 1)
    }
    slow!.faults.heal()
    await expectEmpty(supervisor, [slow!, quick!])
  })
})

describe.each(PROFILES.filter(({ name }) => name === 'openai'))('$name', (profile) => {
  test('a server that goes on, and counts nothing: the slot stays taken for 10 s after the socket closed (D3, decision 23)', async () => {
    const server = await engine(profile, { capacity: 2, stepMs: 2 })
    let polls = 0
    let heldAt: number | null = null
    const clock: Clock = {
      ...realClock,
      now: () => heldAt ?? realClock.now(),
      setTimeout(callback, ms) {
        if (ms === POLL_MS) polls++
        return realClock.setTimeout(callback, ms)
      },
    }
    const supervisor = await supervise(profile, [server], { clock, timeouts: { totalMs: 100 } }, { capacity: 1 })
    server.faults.ignoreDisconnects()
    const before = clock.now()
    const [expired] = (await supervisor.submit(task(profile, 1, LONG)).result).completions
    expect(expired).toMatchObject({ outcome: 'expired', error: { code: 'TOTAL_TIMEOUT' } })
    const next = supervisor.submit(task(profile, 1, 3))
    const { requests } = server.counters
    heldAt = before + 10_000
    polls = 0
    await until('the supervisor has looked again and again', () => {
      expect(viewOf(supervisor, server).running).toBe(1)
      expect(server.counters.requests).toBe(requests)
      return polls >= 3
    })
    heldAt = realClock.now() + 10_000
    await until('the next has its slot', () => server.counters.requests > requests)
    heldAt = null
    expectExact(profile, (await next.result).completions[0]!, 3)
    server.faults.heal()
    await expectEmpty(supervisor, [server])
  })
})

describe.each(PROFILES.filter(({ name }) => name !== 'openai'))('$name', (profile) => {
  test.each(['ignored', 'failed'] as const)(
    'an abort that is %s, and a server that goes on: the slot stays taken until the server counts nothing (D3)',
    async (how) => {
      const server = await engine(profile, { capacity: 2, stepMs: 2 })
      const supervisor = await supervise(profile, [server], { timeouts: { totalMs: 100 } }, { capacity: 1 })
      const polls = requestsOf(server, /loads|metrics|slots/)
      server.faults.refuseAbort(how)
      server.faults.ignoreDisconnects()
      const [expired] = (await supervisor.submit(task(profile, 1, LONG)).result).completions
      expect(expired).toMatchObject({ outcome: 'expired', error: { code: 'TOTAL_TIMEOUT' } })
      const { requests } = server.counters
      const next = supervisor.submit({ ...task(profile, 1, 3) })
      await until('the supervisor has asked again and again', () => {
        expect(viewOf(supervisor, server).running).toBe(1)
        expect(server.counters.requests).toBe(requests)
        return polls() >= 3 || server.faults.counters.abortsRefused >= 4
      })
      expect(server.counters.running).toBe(1)
      server.faults.heal()
      const [completion] = (await next.result).completions
      expectExact(profile, completion!, 3)
      expect(server.counters.maxRunning).toBe(1)
      await expectEmpty(supervisor, [server])
    },
  )
})
