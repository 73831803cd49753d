/**
 * How episodes end, whatever their code does: once, at once, and without a trace (I2, I5, I11, D23, F17).
 */
import { expect, onTestFinished, test } from 'vitest'
import { type Completion, RolloutError } from '../../src/index.ts'
import { startSimulation } from '../simulate.ts'
import { endOf, expectNothingLeft, KEY, PROMPT, sleep, tokens } from './episode-fixtures.ts'

test('F17: code that throws fails its episode and nothing else', async () => {
  const simulation = await startSimulation([{ capacity: 4 }])
  const { clock, supervisor } = simulation
  const plain = supervisor.submit({ prompt: [1, 5], samples: 3 })
  const bug = new TypeError('no such tool')
  const thrown = supervisor.episode(async (session) => {
    await session.generate({ append: PROMPT, sampling: { maxTokens: 2 } })
    throw bug
  })
  expect(await endOf(thrown, clock)).toEqual({
    outcome: 'failed',
    code: 'EPISODE_FAILED',
    message: 'the code of episode episode-000000001 threw: no such tool',
    cause: bug,
    value: null,
    attempts: 1,
  })
  expect((await thrown).trajectory.turns).toHaveLength(1)
  // Before its first await, and what is no error.
  const atOnce = supervisor.episode(() => {
    throw 'nothing'
  })
  expect(await endOf(atOnce, clock)).toMatchObject({
    outcome: 'failed',
    message: expect.stringMatching(/threw: nothing$/),
  })
  expect((await clock.run(plain.result)).complete).toBe(true)
  await expectNothingLeft(simulation)
})

test('code that hangs ends at its deadline, and can do nothing afterwards', async () => {
  const simulation = await startSimulation([{ capacity: 1 }])
  const { clock, supervisor } = simulation
  let late: unknown = null
  let told: unknown = null
  const hung = supervisor.episode(
    async (session) => {
      session.signal.addEventListener('abort', () => {
        told = session.signal.reason
      })
      await session.generate({ append: PROMPT, sampling: { maxTokens: 2 } })
      await sleep(clock, 10_000)
      late = await session.generate({}).catch((error: unknown) => error)
    },
    { timeoutMs: 300, retry: { attempts: 3 } },
  )
  expect(await endOf(hung, clock)).toMatchObject({ outcome: 'expired', code: 'EPISODE_TIMEOUT', attempts: 1 })
  expect(clock.now()).toBe(300)
  const { error, trajectory } = await hung
  expect(error!.message).toBe(
    'episode episode-000000001 had not ended within timeoutMs, 300 ms; it was in its own code',
  )
  expect(told).toBe(error)
  expect([...trajectory.tokenIds]).toEqual([...PROMPT, ...tokens(0, 2)])
  await clock.advance(20_000)
  expect(late).toMatchObject({ code: 'EPISODE_MISUSE', message: expect.stringContaining('had ended') })
  await expectNothingLeft(simulation)
})

test('a deadline in a turn ends the turn at its server', async () => {
  const simulation = await startSimulation([{ capacity: 1, chunkTokens: 1 }])
  const { clock, supervisor, servers } = simulation
  const slow = supervisor.episode((session) => session.generate({ append: PROMPT }), { timeoutMs: 55 })
  const { message } = await endOf(slow, clock)
  expect(message).toContain('it was in turn episode-000000001#1')
  await clock.settle()
  expect(servers[0]!.running).toBe(0)
  await expectNothingLeft(simulation)
})

test('generate after the end, or two at once, is an error that says so', async () => {
  const simulation = await startSimulation([{ capacity: 4 }])
  const { clock, supervisor, servers } = simulation
  let kept: { generate(turn: object): Promise<unknown> } | null = null
  const second: unknown[] = []
  const result = supervisor.episode(async (session) => {
    kept = session
    const first = session.generate({ append: PROMPT, sampling: { maxTokens: 5 } })
    second.push(await session.generate({ append: PROMPT }).catch((error: unknown) => error))
    return (await first).tokenIds.length
  })
  expect(await clock.run(result)).toMatchObject({ outcome: 'completed', value: 5 })
  expect(second).toMatchObject([
    { code: 'EPISODE_MISUSE', message: expect.stringContaining('while turn episode-000000001#1 was running') },
  ])
  await expect(kept!.generate({ append: PROMPT })).rejects.toMatchObject({ code: 'EPISODE_MISUSE' })
  expect(servers[0]!.maxRunning).toBe(1)
  await expectNothingLeft(simulation)
})

test('a turn that nobody waited for is cancelled with its episode, which says so', async () => {
  const simulation = await startSimulation([{ capacity: 1, chunkTokens: 1 }])
  const { clock, supervisor } = simulation
  const turns: Completion[] = []
  supervisor.completions$.subscribe((completion) => turns.push(completion))
  const uncaught: unknown[] = []
  const catchIt = (error: unknown): void => void uncaught.push(error)
  process.on('unhandledRejection', catchIt)
  onTestFinished(() => void process.off('unhandledRejection', catchIt))
  const forgetful = supervisor.episode(
    async (session) => {
      void session.generate({ append: PROMPT })
      await sleep(clock, 25)
      return 'done'
    },
    { retry: { attempts: 3 } },
  )
  expect(await endOf(forgetful, clock)).toMatchObject({
    outcome: 'failed',
    code: 'EPISODE_MISUSE',
    message:
      'the code of episode episode-000000001 returned while turn episode-000000001#1 was running; await every generate()',
    attempts: 1,
  })
  expect(turns).toMatchObject([{ outcome: 'cancelled', error: { code: 'EPISODE_MISUSE' } }])
  await expectNothingLeft(simulation)
  expect(uncaught).toEqual([])
})

test('a turn that fails leaves no trace, and the code may go on without it', async () => {
  const simulation = await startSimulation([{ capacity: 1 }])
  const { clock, supervisor } = simulation
  const caught: unknown[] = []
  const result = await clock.run(
    supervisor.episode(async (session) => {
      await session.generate({ append: PROMPT, sampling: { maxTokens: 2 } })
      // Not what the server knows to come next: refused.
      caught.push(await session.generate({ append: [1] }).catch((error: unknown) => error))
      caught.push(await session.generate({ append: 'text' }).catch((error: unknown) => error))
      caught.push(await session.generate({ append: [-1] }).catch((error: unknown) => error))
      caught.push(await session.generate({ apend: [1] } as object).catch((error: unknown) => error))
      caught.push(await session.generate(3 as unknown as object).catch((error: unknown) => error))
      caught.push(await session.generate({ append: 3 as unknown as string }).catch((error: unknown) => error))
      await session.generate({ append: tokens(2, 3), sampling: { maxTokens: 2 } })
    }),
  )
  expect(result.outcome).toBe('completed')
  expect([...result.trajectory.tokenIds]).toEqual([...PROMPT, ...tokens(0, 5)])
  expect(caught.map((error) => (error as RolloutError).code)).toEqual([
    'REQUEST_REJECTED',
    'INVALID_TASK',
    'INVALID_TASK',
    'INVALID_TASK',
    'INVALID_TASK',
    'INVALID_TASK',
  ])
  await expectNothingLeft(simulation)
})

test('retry runs the code from its beginning, with another session and nothing of the last attempt', async () => {
  const simulation = await startSimulation([{ capacity: 1 }])
  const { clock, supervisor } = simulation
  const sessions: { attempt: number; aborted: boolean; signal: AbortSignal }[] = []
  const result = await clock.run(
    supervisor.episode(
      async (session) => {
        sessions.push({ attempt: session.attempt, aborted: false, signal: session.signal })
        await session.generate({ append: PROMPT })
        if (session.attempt < 3) throw new Error('the sandbox is gone')
        return session.attempt
      },
      { sampling: { maxTokens: 2 }, retry: { attempts: 4 } },
    ),
  )
  expect(result).toMatchObject({ outcome: 'completed', value: 3, attempts: 3 })
  expect([...result.trajectory.tokenIds]).toEqual([...PROMPT, ...tokens(0, 2)])
  expect(result.trajectory.turns[0]!.completion.taskId).toBe('episode-000000001#3')
  expect(sessions.map(({ attempt, signal }) => [attempt, signal.aborted])).toEqual([
    [1, true],
    [2, true],
    [3, false],
  ])
  const refused = supervisor.episode((session) => session.generate({ append: [KEY, 9, 1] }), { retry: { attempts: 4 } })
  expect(await endOf(refused, clock)).toMatchObject({ outcome: 'failed', code: 'REQUEST_REJECTED', attempts: 1 })
  const hopeless = supervisor.episode(() => Promise.reject(new Error('never')), { retry: { attempts: 4 } })
  expect(await endOf(hopeless, clock)).toMatchObject({ outcome: 'failed', code: 'EPISODE_FAILED', attempts: 4 })
  await expectNothingLeft(simulation)
})

test.each([5, 15, 25, 60, 110])(
  'D23, I11: aborted after %i ms, at whatever await, it settles at once and leaves nothing',
  async (ms) => {
    const simulation = await startSimulation([{ capacity: 1, chunkTokens: 1 }])
    const { clock, supervisor } = simulation
    // Something before it in the queue: aborts come while it waits, runs, is between turns, and in its second turn.
    supervisor.submit({ prompt: [1, 1] })
    const controller = new AbortController()
    const episode = supervisor.episode(
      async (session) => {
        await session.generate({ append: PROMPT, sampling: { maxTokens: 3 } })
        await sleep(clock, 40)
        await session.generate({})
      },
      { signal: controller.signal },
    )
    await clock.advance(ms)
    const at = clock.now()
    controller.abort(new Error('enough'))
    const { outcome, message } = await endOf(episode, clock)
    expect([outcome, message, clock.now()]).toEqual([
      'cancelled',
      'episode episode-000000001 was cancelled: enough',
      at,
    ])
    await clock.run(supervisor.drainAll())
    await clock.advance(100)
    await expectNothingLeft(simulation)
  },
)

test('a signal that was aborted before cancels it before its code runs', async () => {
  const simulation = await startSimulation([{}])
  const { clock, supervisor } = simulation
  let ran = false
  const episode = supervisor.episode(
    () => {
      ran = true
    },
    { signal: AbortSignal.abort() },
  )
  expect(await endOf(episode, clock)).toMatchObject({ outcome: 'cancelled', code: 'CANCELLED' })
  expect(ran).toBe(false)
  await expectNothingLeft(simulation)
})

test('close ends every episode once, in turns and between them (I2, I12)', async () => {
  const simulation = await startSimulation([{ capacity: 1 }])
  const { clock, supervisor } = simulation
  const all = ['turn', 'tool', 'queue'].map((what) =>
    supervisor.episode((session) => (what === 'tool' ? new Promise(() => {}) : session.generate({ append: PROMPT })), {
      id: what,
    }),
  )
  await clock.advance(20)
  const closed = supervisor.close()
  for (const { outcome, error } of await clock.run(Promise.all(all)))
    expect([outcome, error!.code]).toEqual(['cancelled', 'CLOSED'])
  await clock.run(closed)
  expect(clock.pending).toBe(0)
  await expect(supervisor.episode(() => 1)).rejects.toMatchObject({ code: 'CLOSED' })
})

test('ids are unique among live episodes, and free again at the end', async () => {
  const simulation = await startSimulation([{}])
  const { clock, supervisor } = simulation
  const first = supervisor.episode((session) => session.generate({ append: [KEY, 2] }), { id: 'e' })
  await expect(supervisor.episode(() => 1, { id: 'e' })).rejects.toMatchObject({ code: 'DUPLICATE_TASK' })
  await clock.run(first)
  expect((await supervisor.episode(() => 1, { id: 'e' })).value).toBe(1)
  await expectNothingLeft(simulation)
})

test('every problem of the options is said at once', async () => {
  const simulation = await startSimulation([{}])
  const bad = {
    id: '',
    sessionId: 3,
    signal: {},
    timeoutMs: 0,
    retry: { attempts: 0, times: 3 },
    sampling: { temperature: -1 },
    kind: 'x',
    priority: Number.NaN,
    minVersion: -1,
    maxTurns: 3,
  }
  const error = await simulation.supervisor.episode(undefined as never, bad as never).catch((cause: unknown) => cause)
  expect(RolloutError.isInstance(error) && error.problems.map(({ path }) => path).sort()).toEqual(
    [
      'code',
      'id',
      'kind',
      'maxTurns',
      'minVersion',
      'priority',
      'retry.attempts',
      'retry.times',
      'sampling.temperature',
      'sessionId',
      'signal',
      'timeoutMs',
    ].sort(),
  )
  await expectNothingLeft(simulation)
})
