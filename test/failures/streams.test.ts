/**
 * Streams that break in the middle, in every way a stream can: the sample goes on elsewhere from the tokens that had arrived, and nothing
 * is lost, repeated or invented.
 */
import { describe, expect, test } from 'vitest'
import type { EngineFaults } from '../../src/testing/index.ts'
import {
  arrived,
  engine,
  engines,
  expectEmpty,
  expectExact,
  generated,
  PROFILES,
  supervise,
  task,
  until,
  viewOf,
} from './fleet.ts'

const TOKENS = 60

const BREAKS: readonly [string, (faults: EngineFaults) => void][] = [
  ['cut between two events (F7)', (faults) => faults.cut({ afterEvents: 2, times: 2 })],
  ['cut inside an event (F7)', (faults) => faults.cut({ afterEvents: 2, times: 2, where: 'event' })],
  ['cut inside a UTF-8 character (F7)', (faults) => faults.cut({ afterEvents: 2, times: 2, where: 'character' })],
  ['cut before its first event (F7)', (faults) => faults.cut({ times: 2 })],
  ['an event of nonsense', (faults) => faults.garbage({ as: 'event', afterEvents: 2, times: 2 })],
  ['an error 500 inside a 200 stream (R9)', (faults) => faults.errorInStream(500, { afterEvents: 2, times: 2 })],
  ['an error 503 inside a 200 stream (R9)', (faults) => faults.errorInStream(503, { times: 2 })],
  ['an error 404 inside a 200 stream (R9)', (faults) => faults.errorInStream(404, { times: 1 })],
  ['an answer that is not HTTP', (faults) => faults.garbage({ as: 'bytes', times: 2 })],
  ['an answer that is a web page', (faults) => faults.garbage({ as: 'page', times: 2 })],
  ['a 500 in place of an answer', (faults) => faults.answer(500, { times: 2 })],
  ['a connection closed under its first request (F13)', (faults) => faults.closeIdleSockets({ onUse: 1 })],
]

describe.each(PROFILES)('$name', (profile) => {
  test.each(BREAKS)('%s: no sample is lost, all are exact', async (_, strike) => {
    const servers = await engines(profile, 2, { streamInterval: 1 })
    const supervisor = await supervise(profile, servers, { breaker: { failures: 3, resetMs: 20, maxResetMs: 50 } })
    // Connections to be reused.
    await supervisor.submit(task(profile, 4, 2)).result
    const before = generated(servers)
    strike(servers[0]!.faults)
    const { completions } = await supervisor.submit(task(profile, 8, TOKENS)).result
    for (const completion of completions) expectExact(profile, completion, TOKENS)
    const { cut, spoilt, answered, socketsClosed } = servers[0]!.faults.counters
    expect(cut + spoilt + answered + socketsClosed).toBeGreaterThan(0)
    await expectEmpty(supervisor, servers)
    expect(generated(servers) - before).toBeGreaterThanOrEqual(8 * TOKENS)
  })

  test('after a cut no token that had arrived is generated again, and none is missing (F7)', async () => {
    const [cutting, staying] = await engines(profile, 2)
    const supervisor = await supervise(profile, [cutting!, staying!])
    const rollout = supervisor.submit(task(profile, 8, TOKENS))
    await until('both run', () => cutting!.counters.tokensDelivered > 12 && staying!.counters.tokensDelivered > 12)
    await cutting!.faults.die()
    const { completions } = await rollout.result
    for (const completion of completions) expectExact(profile, completion, TOKENS)
    const kept = arrived(completions)
    if (profile.tokenIds) expect(kept).toBeGreaterThan(0)
    expect(staying!.counters.tokensGenerated).toBe(8 * TOKENS - kept)
    for (const { segments } of completions)
      for (const [i, { start }] of segments.entries()) expect(start).toBe(i === 0 ? 0 : segments[i - 1]!.end)
  })

  test('idle connections that the server closes lose nothing, and nobody is blamed (F13)', async () => {
    const server = await engine(profile)
    const supervisor = await supervise(profile, [server])
    for (let round = 0; round < 5; round++) {
      await supervisor.submit(task(profile, 4, 3)).result
      server.faults.closeIdleSockets()
      const { completions } = await supervisor.submit(task(profile, 4, 3)).result
      for (const completion of completions) expectExact(profile, completion, 3)
    }
    expect(server.faults.counters.socketsClosed).toBeGreaterThan(0)
    expect(viewOf(supervisor, server)).toMatchObject({ failed: 0, completed: 40 })
  })
})
