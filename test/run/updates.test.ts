/**
 * Weight updates that go wrong, step by step: the instance is named, stale and never left paused, and the rest goes on (F2).
 */
import { describe, expect, test } from 'vitest'
import type { SupervisorOptions } from '../../src/index.ts'
import { checkTask } from '../../src/rollout/check-task.ts'
import { simulateServer } from '../../src/testing/simulated-fleet.ts'
import { closeSimulation, type Simulation, simulate, startSimulation } from '../simulate.ts'

const start = (options: SupervisorOptions = {}) => startSimulation([{ capacity: 1 }, { capacity: 1 }], options)
const statesOf = ({ supervisor }: Simulation): string[] => supervisor.getSnapshot().instances.map(({ state }) => state)

test('drain: an instance whose generations do not end in time is left behind, they go on, and it follows later', async () => {
  const simulation = await start()
  const { clock, supervisor } = simulation
  const rollout = supervisor.submit({ prompt: [1, 100] })
  const update = supervisor.updateWeights({ version: 1, path: '/w', mode: 'drain', timeoutMs: 500 })
  const { instances } = await clock.run(update)
  const message = 'step quiet of the update to version 1 took longer than 500 ms on instance a'
  expect(instances).toMatchObject([{ ok: false, step: 'quiet', error: { message } }, { ok: true }])
  expect([supervisor.version, supervisor.getSnapshot().phase, clock.now()]).toEqual([1, 'rollout', 500])
  expect(statesOf(simulation)).toEqual(['stale', 'serving.idle'])
  const [completion] = (await clock.run(rollout.result)).completions
  expect(completion!.versions).toEqual([{ version: null, start: 0, end: 100 }])
  await clock.advance(1_000)
  expect(statesOf(simulation)).toEqual(['serving.idle', 'serving.idle'])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('drain: where no instance is quiet in time everything is as it was, and goes on', async () => {
  const simulation = await start()
  const { clock, supervisor } = simulation
  const rollout = supervisor.submit({ prompt: [1, 100], samples: 2 })
  const update = supervisor.updateWeights({ version: 1, path: '/w', mode: 'drain', timeoutMs: 500 })
  await expect(clock.run(update)).rejects.toMatchObject({ code: 'UPDATE_FAILED' })
  expect([supervisor.version, supervisor.getSnapshot().phase, clock.now()]).toEqual([null, 'rollout', 500])
  expect(statesOf(simulation)).toEqual(['serving.saturated', 'serving.saturated'])
  expect((await clock.run(rollout.result)).complete).toBe(true)
  expect(await closeSimulation(simulation)).toBe(0)
})

describe('an instance that fails a step', () => {
  const failures: readonly [step: string, message: RegExp, prepare: (simulation: Simulation) => object][] = [
    [
      'quiet',
      /instance b is busy with 1 requests that are not ours/,
      ({ clock, servers }) => {
        const [, b] = servers
        const { sampling } = checkTask({ prompt: [1] }, null)
        const stranger = b!.engine({ id: 'b', url: b!.url, apiKey: undefined, clock } as never)
        void (async () => {
          const request = { requestId: 'stranger', prompt: [1, 100_000], sampling: { ...sampling, maxTokens: 100_000 } }
          for await (const _ of stranger.generate(request, new AbortController().signal));
        })().catch(() => {})
        return { path: '/w' }
      },
    ],
    [
      'apply',
      /step apply failed on instance b: no such file/,
      ({ servers }) => ({
        apply: async ({ id }: { id: string }) => {
          if (id === 'b') throw new Error('no such file')
          servers[0]!.revive('1')
        },
      }),
    ],
    [
      'apply',
      /step apply of the update to version 1 took longer than 300 ms on instance b/,
      ({ servers }) => ({
        timeoutMs: 300,
        apply: ({ id }: { id: string }) => {
          if (id === 'b') return new Promise(() => {})
          servers[0]!.revive('1')
          return Promise.resolve()
        },
      }),
    ],
    [
      'verify',
      /expected instance b to say version "1" after the update, found "other"/,
      ({ servers }) => ({
        apply: async ({ id }: { id: string }) => servers[id === 'a' ? 0 : 1]!.revive(id === 'a' ? '1' : 'other'),
      }),
    ],
  ]

  test.each(failures)('%s: is named, stale and gets no work, and the others go on', async (step, message, prepare) => {
    const simulation = await start()
    const { clock, supervisor } = simulation
    const update = supervisor.updateWeights({ version: 1, ...prepare(simulation) })
    const { instances } = await clock.run(update)
    expect(instances[0]).toMatchObject({ id: 'a', ok: true, step: null, error: null })
    expect(instances[1]).toMatchObject({ id: 'b', ok: false, step, error: { message: expect.stringMatching(message) } })
    expect(statesOf(simulation)).toEqual(['serving.idle', 'stale'])
    expect(supervisor.getSnapshot().instances[1]!.fault).toMatch(message)
    const { completions } = await clock.run(supervisor.submit({ prompt: [1, 5], samples: 4 }).result)
    for (const { versions, segments } of completions)
      expect([versions, segments[0]!.instance]).toEqual([[{ version: 1, start: 0, end: 5 }], 'a'])
    expect(await closeSimulation(simulation)).toBe(0)
  })

  test.each(failures)(
    '%s: with too few left the update fails as a whole, and names it',
    async (step, message, prepare) => {
      const simulation = await start({ minInstances: 2 })
      const { clock, supervisor } = simulation
      await expect(clock.run(supervisor.updateWeights({ version: 1, ...prepare(simulation) }))).rejects.toMatchObject({
        code: 'UPDATE_FAILED',
        message: expect.stringMatching(
          new RegExp(`expected at least 2 instances at version 1, found 1:\\n  b \\(${step}\\)`),
        ),
        errors: [{ message: expect.stringMatching(message) }],
      })
      expect(supervisor.getSnapshot().phase).toBe('rollout')
      expect(await closeSimulation(simulation)).toBe(0)
    },
  )

  test('is tried again after a growing pause, and comes back when it works (decision 2)', async () => {
    const simulation = await start({ breaker: { failures: 3, resetMs: 1_000, maxResetMs: 3_000 } })
    const { clock, supervisor, servers } = simulation
    const tried: number[] = []
    const apply = async ({ id }: { id: string }): Promise<void> => {
      if (id === 'b') tried.push(clock.now())
      if (id === 'b' && tried.length < 5) throw new Error('no room on this disk')
      servers[id === 'a' ? 0 : 1]!.revive('1')
    }
    await clock.run(supervisor.updateWeights({ version: 1, apply }))
    expect(statesOf(simulation)).toEqual(['serving.idle', 'stale'])
    await clock.advance(60_000)
    expect(tried.slice(1).map((at, index) => at - tried[index]!)).toEqual([1_000, 2_000, 3_000, 3_000])
    expect(statesOf(simulation)).toEqual(['serving.idle', 'serving.idle'])
    expect(supervisor.getSnapshot().instances[1]!.fault).toBeNull()
    expect(await closeSimulation(simulation)).toBe(0)
  })

  test('comes back with the next update', async () => {
    const simulation = await start()
    const { clock, supervisor } = simulation
    await clock.run(supervisor.updateWeights({ version: 1, ...failures[3]![2](simulation) }))
    await clock.run(supervisor.updateWeights({ version: 2, path: '/w/2' }))
    expect(statesOf(simulation)).toEqual(['serving.idle', 'serving.idle'])
    expect(supervisor.getSnapshot().instances.map(({ version, fault }) => [version, fault])).toEqual([
      ['2', null],
      ['2', null],
    ])
    expect(await closeSimulation(simulation)).toBe(0)
  })
})

test('an instance that drains is named as leaving, and ends what it has under its own version', async () => {
  const simulation = await start()
  const { clock, supervisor } = simulation
  const rollout = supervisor.submit({ prompt: [1, 50], samples: 2 })
  void supervisor.drain('b')
  const { instances } = await clock.run(supervisor.updateWeights({ version: 1, path: '/w/1' }))
  const error = { code: 'UNKNOWN_INSTANCE', message: 'instance b was leaving the fleet' }
  expect(instances[1]).toMatchObject({ id: 'b', ok: false, step: 'reach', error })
  const { completions } = await clock.run(rollout.result)
  expect(completions[1]!.versions).toEqual([{ version: null, start: 0, end: 50 }])
  expect(await closeSimulation(simulation)).toBe(0)
})

test.each([{}, { rolling: 2 }])(
  'an update of a fleet with nobody in it is what those have that join %j',
  async (rolling) => {
    const simulation = await startSimulation([], { minInstances: 0 })
    const { clock, supervisor } = simulation
    await clock.run(supervisor.updateWeights({ version: 5, path: '/w/5', ...rolling }))
    expect(supervisor.version).toBe(5)
    const { id, url, engine } = simulateServer(clock, { id: 'late' })
    supervisor.add({ id, url, engine })
    const { completions } = await clock.run(supervisor.submit({ prompt: [1, 5], minVersion: 5 }).result)
    expect(completions[0]!.versions).toEqual([{ version: 5, start: 0, end: 5 }])
    expect(await closeSimulation(simulation)).toBe(0)
  },
)

test('an instance that leaves during the update fails alone', async () => {
  const simulation = await start()
  const { clock, supervisor, servers } = simulation
  const apply = async ({ id }: { id: string }): Promise<void> => {
    if (id === 'b') await supervisor.remove('b')
    else servers[0]!.revive('1')
  }
  const { instances } = await clock.run(supervisor.updateWeights({ version: 1, apply }))
  expect(instances.map(({ ok, error }) => [ok, error?.code ?? null])).toEqual([
    [true, null],
    [false, expect.any(String)],
  ])
  expect(supervisor.getSnapshot().instances.map(({ id }) => id)).toEqual(['a'])
  expect(await closeSimulation(simulation)).toBe(0)
})

describe('a version', () => {
  test('before start is refused', async () => {
    const simulation = simulate([{ capacity: 1 }])
    const { supervisor } = simulation
    await expect(supervisor.updateWeights({ version: 1, path: '/w' })).rejects.toMatchObject({
      code: 'WRONG_PHASE',
      message: 'expected phase rollout or paused, found starting: await start() first',
    })
    expect(await closeSimulation(simulation)).toBe(0)
  })

  const notAbove = (found: number): string =>
    `version: expected an integer above 5, the fleet's version, found ${found}`
  const noInteger = (found: string): string =>
    `updateWeights cannot use these options:\n  version: expected an integer of at least 0, found ${found}`
  test.each<[string, unknown, string]>([
    ['goes backwards', 4, notAbove(4)],
    ['goes back to 0', 0, notAbove(0)],
    ['repeats', 5, notAbove(5)],
    ['is negative', -1, noInteger('-1 (number)')],
    ['is a fraction', 6.5, noInteger('6.5 (number)')],
    ['is not a number', Number.NaN, noInteger('NaN (number)')],
    ['is infinite', Number.POSITIVE_INFINITY, noInteger('Infinity (number)')],
    ['is larger than integers are exact', 2 ** 53, noInteger('9007199254740992 (number)')],
    ['is a string', '6', noInteger('"6" (string)')],
    ['is null', null, noInteger('null')],
    ['is left out', undefined, noInteger('nothing')],
  ])('that %s is refused, says so, and changes nothing', async (_, version, message) => {
    const simulation = await startSimulation([{ capacity: 1 }])
    const { clock, supervisor, server } = simulation
    await clock.run(supervisor.updateWeights({ version: 5, path: '/w' }))
    const before = [...server('a').calls]
    const update = clock.run(supervisor.updateWeights({ version: version as number, path: '/w' }))
    await expect(update).rejects.toMatchObject({ code: 'INVALID_OPTIONS', message })
    expect([supervisor.version, supervisor.getSnapshot().phase, server('a').calls]).toEqual([5, 'rollout', before])
    expect(await closeSimulation(simulation)).toBe(0)
  })

  test('that repeats is taken where an instance failed it, and repairs that one', async () => {
    const simulation = await startSimulation([{ capacity: 1 }, { capacity: 1 }], { breaker: { resetMs: 60_000 } })
    const { clock, supervisor, server } = simulation
    server('b').fail('updateWeights', 500)
    await clock.run(supervisor.updateWeights({ version: 5, path: '/w' }))
    expect(statesOf(simulation)).toEqual(['serving.idle', 'stale'])
    await clock.run(supervisor.updateWeights({ version: 5, path: '/w' }))
    expect(statesOf(simulation)).toEqual(['serving.idle', 'serving.idle'])
    expect(await closeSimulation(simulation)).toBe(0)
  })
})

test('updates wait for each other, and one that fails does not hold up the next', async () => {
  const simulation = await start()
  const { clock, supervisor } = simulation
  const order: number[] = []
  const updates = [1, 2, 3].map((version) =>
    supervisor
      .updateWeights({
        version,
        ...(version === 2 ? { apply: () => Promise.reject(new Error('no')) } : { path: `/w/${version}` }),
      })
      .then(
        () => order.push(version),
        () => order.push(-version),
      ),
  )
  await clock.run(Promise.all(updates))
  expect([order, supervisor.version]).toEqual([[1, -2, 3], 3])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('a pause that takes too long says who still runs, and the run stays paused', async () => {
  const simulation = await start()
  const { clock, supervisor } = simulation
  supervisor.submit({ prompt: [1, 100], samples: 3 })
  await expect(clock.run(supervisor.pause({ timeoutMs: 100 }))).rejects.toMatchObject({
    code: 'WRONG_PHASE',
    message: expect.stringMatching(
      /not whole:\n {2}a \(quiet\): step quiet of the pause took longer than 100 ms.*\n {2}b/,
    ),
  })
  expect(supervisor.getSnapshot()).toMatchObject({ phase: 'paused', waiting: { phase: 1 } })
  await supervisor.resume()
  await clock.run(supervisor.drainAll())
  expect(await closeSimulation(simulation)).toBe(0)
})

describe('trySubmit', () => {
  test('takes a task whose first sample starts at once, and leaves no trace of another', async () => {
    const simulation = await start({ timeouts: { waitMs: 1_000 } })
    const { clock, supervisor } = simulation
    const controller = new AbortController()
    const parked = { prompt: [1, 5], minVersion: 9, signal: controller.signal }
    const before = JSON.stringify(supervisor.getSnapshot().conservation)
    expect(supervisor.trySubmit(parked)).toBe(null)
    controller.abort()
    expect(JSON.stringify(supervisor.getSnapshot().conservation)).toBe(before)
    expect(clock.pending).toBe(0)
    const taken = supervisor.trySubmit({ id: 'taken', prompt: [1, 5], samples: 5 })
    expect([...taken!.waitingFor.keys()]).toEqual([2, 3, 4])
    expect(supervisor.trySubmit({ prompt: [1, 5] })).toBe(null)
    expect((await clock.run(taken!.result)).complete).toBe(true)
    expect(supervisor.getSnapshot().conservation.submitted).toBe(5)
    expect(await closeSimulation(simulation)).toBe(0)
  })

  test('a task that was cancelled before is answered, not refused', async () => {
    const simulation = await start()
    const rollout = simulation.supervisor.trySubmit({ prompt: [1, 5], signal: AbortSignal.abort() })
    expect((await rollout!.result).missing.map(({ outcome }) => outcome)).toEqual(['cancelled'])
    expect(await closeSimulation(simulation)).toBe(0)
  })
})

test('drainAll waits until nothing is left, or until its signal says so', async () => {
  const simulation = await start()
  const { clock, supervisor } = simulation
  await supervisor.drainAll()
  supervisor.submit({ prompt: [1, 50] })
  const reason = new Error('enough')
  await expect(supervisor.drainAll({ signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
  const controller = new AbortController()
  const stopped = supervisor.drainAll({ signal: controller.signal })
  const drained = supervisor.drainAll()
  controller.abort(reason)
  await expect(stopped).rejects.toBe(reason)
  await clock.run(drained)
  expect(clock.now()).toBe(500)
  expect(await closeSimulation(simulation)).toBe(0)
})
