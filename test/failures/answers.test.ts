/**
 * Servers that answer, but say no: whose fault it is decides who pays (decisions 16, 17). A request that is wrong fails alone, a server that
 * is wrong loses its work to others, a server that is busy is waited for.
 */
import { describe, expect, test, vi } from 'vitest'
import { createSupervisor, probeInstance, RolloutError } from '../../src/index.ts'
import { engine, engines, expectEmpty, expectExact, PROFILES, supervise, task, until, viewOf } from './fleet.ts'

const TOKENS = 12
const LONG = 3000

describe.each(PROFILES)('$name', (profile) => {
  test.each([400, 413, 422])(
    '%i fails the sample with the words of the server, which is not blamed (F4, R9)',
    async (status) => {
      const server = await engine(profile)
      const supervisor = await supervise(profile, [server], { breaker: { failures: 1, resetMs: 60_000 } })
      const { requests } = server.counters
      const error = { code: 'REQUEST_REJECTED', status }
      server.faults.answer(status, { body: '{"error":{"message":"your prompt is too long"}}' })
      const [refused] = (await supervisor.submit(task(profile, 1, TOKENS)).result).completions
      expect(refused).toMatchObject({ outcome: 'failed', error })
      expect(refused?.error?.message).toContain('your prompt is too long')
      server.faults.errorInStream(status, { message: 'your prompt is wrong' })
      const [inStream] = (await supervisor.submit(task(profile, 1, TOKENS)).result).completions
      expect(inStream).toMatchObject({ outcome: 'failed', error })
      expect(inStream?.error?.message).toContain('your prompt is wrong')
      expect(server.counters.requests - requests).toBe(2)
      const [fine] = (await supervisor.submit(task(profile, 1, TOKENS)).result).completions
      expectExact(profile, fine!, TOKENS)
      expect(viewOf(supervisor, server)).toMatchObject({ failed: 0, fault: null, state: 'serving.idle' })
    },
  )

  test.each([401, 403, 404, 405])(
    '%i is the fault of the server: its samples go elsewhere, and fail where all say so (F4)',
    async (status) => {
      const [wrong, right] = await engines(profile, 2)
      const supervisor = await supervise(profile, [wrong!, right!], { breaker: { failures: 1, resetMs: 60_000 } })
      wrong!.faults.answer(status, { times: 100 })
      const { completions } = await supervisor.submit(task(profile, 8, TOKENS)).result
      for (const completion of completions) expectExact(profile, completion, TOKENS)
      expect(viewOf(supervisor, wrong!).failed).toBeGreaterThan(0)
      expect(viewOf(supervisor, right!).failed).toBe(0)

      const lone = await engine(profile)
      const alone = await supervise(profile, [lone])
      lone.faults.answer(status, { times: 100 })
      const [refused] = (await alone.submit(task(profile, 1, TOKENS)).result).completions
      expect(refused).toMatchObject({ outcome: 'failed', error: { code: 'INSTANCE_FAULT', status } })
      expect(lone.faults.counters.answered).toBe(1)
    },
  )

  test('a wrong key: the server is out, its samples go elsewhere, and where every server refuses it that is said (F4, decision 17)', async () => {
    const key = 'sk-of-the-user'
    const [locked, free] = [await engine(profile, { apiKey: 'sk-right' }), await engine(profile, { apiKey: key })]
    const supervisor = await supervise(profile, [locked, free], {}, { apiKey: key })
    const { completions } = await supervisor.submit(task(profile, 8, TOKENS)).result
    for (const completion of completions) expectExact(profile, completion, TOKENS)
    expect(viewOf(supervisor, locked)).toMatchObject({ completed: 0, running: 0 })
    expect(viewOf(supervisor, locked).fault).toContain('401')
    expect(locked.counters.tokensGenerated).toBe(0)
    // The locked one is away because it refused us: nobody waits for it once the other refuses, too.
    free.faults.answer(403, { times: 100 })
    const [last] = (await supervisor.submit(task(profile, 1, TOKENS)).result).completions
    expect(last).toMatchObject({ outcome: 'failed', error: { code: 'INSTANCE_FAULT', status: 403 } })

    const alone = createSupervisor({ instances: [{ url: locked.url, engine: profile.name, apiKey: key }] })
    const refused: unknown = await alone.start().catch((error: unknown) => error)
    await alone.close()
    const probed: unknown = await probeInstance({ url: locked.url, engine: profile.name, apiKey: key }).catch((e) => e)
    for (const error of [refused, probed]) {
      expect(error).toBeInstanceOf(RolloutError)
      expect(String(error)).toMatch(/401.*check the api key/)
      expect(JSON.stringify(error) + String(error)).not.toContain(key)
    }
  })

  test.each([408, 429, 503])(
    '%i waits as long as Retry-After says, as often as it takes, and blames nobody',
    async (status) => {
      const server = await engine(profile)
      const supervisor = await supervise(profile, [server], {
        retry: { attempts: 2 },
        breaker: { failures: 1, resetMs: 60_000 },
      })
      const askedAt: number[] = []
      server.faults.onRequest((method, path) => {
        if (method === 'POST' && /generate|completion/.test(path)) askedAt.push(performance.now())
      })
      server.faults.answer(status, { times: 4, retryAfterS: 0.15 })
      const [completion] = (await supervisor.submit(task(profile, 1, TOKENS)).result).completions
      expectExact(profile, completion!, TOKENS)
      expect(askedAt).toHaveLength(5)
      // Timers of Node may fire a millisecond early.
      for (let i = 1; i < askedAt.length; i++) expect(askedAt[i]! - askedAt[i - 1]!).toBeGreaterThanOrEqual(148)
      expect(completion?.segments.map(({ reason }) => reason)).toEqual(['busy', 'busy', 'busy', 'busy', 'finished'])
      expect(viewOf(supervisor, server)).toMatchObject({ failed: 0, fault: null, state: 'serving.idle' })
    },
  )

  test('a server that is busy for long is asked more and more slowly, while others work (R9)', async () => {
    const [busy, free] = await engines(profile, 2)
    const supervisor = await supervise(profile, [busy!, free!], { retry: { attempts: 2 } })
    busy!.faults.errorInStream(503, { times: 1000 })
    const { completions } = await supervisor.submit(task(profile, 20, TOKENS)).result
    for (const completion of completions) expectExact(profile, completion, TOKENS)
    expect(viewOf(supervisor, free!).completed).toBe(20)
    // Each sample meets it a few times at most: the wait doubles.
    expect(busy!.faults.counters.spoilt).toBeLessThan(100)
    expect(viewOf(supervisor, busy!)).toMatchObject({ failed: 0, state: 'serving.idle' })
    await expectEmpty(supervisor, [busy!, free!])
  })

  test('a generation that is silent for twenty minutes is not cut by any default (F18)', async () => {
    const server = await engine(profile, { stepMs: 0 })
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'] })
    try {
      const supervisor = await supervise(profile, [server], { watchdogMs: 24 * 3600_000 })
      const rollout = supervisor.submit(task(profile, 2, LONG))
      const turn = () => vi.advanceTimersByTimeAsync(1)
      while (server.counters.tokensDelivered < 4) await turn()
      server.faults.freeze()
      const frozenAt = server.counters.tokensGenerated
      for (let minute = 0; minute < 20; minute++) await vi.advanceTimersByTimeAsync(60_000)
      expect(server.counters).toMatchObject({ running: 2, tokensGenerated: frozenAt, disconnects: 0 })
      server.faults.thaw()
      let ended = false
      void rollout.result.then(() => (ended = true))
      while (!ended) await turn()
      for (const completion of (await rollout.result).completions) {
        expectExact(profile, completion, LONG)
        expect(completion.segments).toHaveLength(1)
      }
    } finally {
      vi.useRealTimers()
    }
  })
})

describe.each(PROFILES)('$name', (profile) => {
  // A server without token ids has no vocabulary to speak of.
  test.each(['declared by the user', ...(profile.tokenIds ? ['reported by the server'] : [])])(
    'a token id outside the vocabulary (%s) never reaches the server, which lives (R8)',
    async (whence) => {
      const server = await engine(profile)
      const declared = whence === 'declared by the user' ? { vocabularySize: 16 } : {}
      const supervisor = await supervise(profile, [server], {}, declared)
      const { requests } = server.counters
      for (const id of [16, 99_999, -1, 1.5]) {
        expect(() => supervisor.submit({ prompt: [5, id], sampling: { maxTokens: 3 } })).toThrow(
          expect.objectContaining({ code: 'INVALID_TASK' }),
        )
      }
      expect(server.counters.requests).toBe(requests)
      const { completions } = await supervisor.submit(task(profile, 4, TOKENS)).result
      for (const completion of completions) expectExact(profile, completion, TOKENS)
      expect(server.counters.died).toBe(false)
    },
  )
})

describe.each(PROFILES)('$name', (profile) => {
  test('no request id is a prefix of another, over retries and supervisors (F11)', async () => {
    const servers = await engines(profile, 2, { stepMs: 0 })
    const supervisors = [await supervise(profile, servers), await supervise(profile, servers)]
    servers[0]!.faults.cut({ times: 20 })
    const groups = await Promise.all(supervisors.map((each) => each.submit(task(profile, 60, 4)).result))
    const ids = groups.flatMap(({ completions }) =>
      completions.flatMap(({ segments }) => segments.map(({ attempt }) => attempt)),
    )
    expect(ids.length).toBeGreaterThan(120)
    expect(new Set(ids).size).toBe(ids.length)
    expect(new Set(ids.map(({ length }) => length)).size).toBe(1)
    await until('all have ended', () => servers.every(({ counters }) => counters.running === 0))
  })
})
