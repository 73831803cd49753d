/**
 * What users may rely on when things go wrong around them (D24, D27, F11, F16, F17, R8 and the bad input of a running supervisor).
 */
import { type Observable, Subject } from 'rxjs'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import {
  type Completion,
  type DriverFactory,
  type Group,
  type PlacementPolicy,
  RolloutError,
  type SupervisorOptions,
} from '../../src/index.ts'
import { simulateServer } from '../../src/testing/simulated-fleet.ts'
import { closeSimulation, type Simulation, simulate, startSimulation } from '../simulate.ts'

/** An engine that records what it is asked, and may refuse. */
function watched(simulation: Simulation, refuse: (key: number, attempt: number) => RolloutError | null = () => null) {
  const ids: string[] = []
  const server = simulateServer(simulation.clock, { id: 'w', capacity: 2, chunkTokens: 2 })
  const engine: DriverFactory = (options) => {
    const driver = server.engine(options)
    const generate: typeof driver.generate = (request, signal) => {
      ids.push(request.requestId)
      const error = refuse(Number(request.prompt[0]), ids.length)
      if (error !== null) throw error
      return driver.generate(request, signal)
    }
    return { ...driver, generate }
  }
  simulation.supervisor.add({ id: 'w', url: server.url, engine })
  return { ids, server }
}

test('D24: a slot is given back once, whatever ends it twice: cancel, abort, death, removal and close together', async () => {
  const simulation = await startSimulation([{ capacity: 2 }, { capacity: 2 }])
  const { clock, supervisor, servers } = simulation
  const released: number[] = []
  supervisor.events$.subscribe((event) => event.type === 'sample.released' && released.push(event.lease))
  const controller = new AbortController()
  const rollout = supervisor.submit({ prompt: [1, 50], samples: 4, signal: controller.signal })
  await clock.advance(20)
  rollout.cancel()
  rollout.cancel('again')
  controller.abort()
  servers[0]!.die()
  const left = [supervisor.remove('a'), supervisor.remove('b')]
  expect(await closeSimulation(simulation)).toBe(0)
  await Promise.all(left)
  expect(released.sort()).toEqual([1, 2, 3, 4])
})

test('D27: what is in flight, waiting, decided, failed and versioned is told for each instance', async () => {
  const simulation = await startSimulation([{ capacity: 1 }, { capacity: 1 }], { breaker: { failures: 5 } })
  const { clock, supervisor } = simulation
  await clock.run(supervisor.updateWeights({ version: 3, path: '/w/3' }))
  supervisor.submit({ prompt: [1, 20], samples: 3 })
  await clock.advance(10)
  const view = supervisor.getSnapshot()
  expect(view.conservation).toMatchObject({ submitted: 3, waiting: 1, running: 2 })
  expect(view.instances.map(({ id, running, placed, version }) => [id, running, placed, version])).toEqual([
    ['a', 1, 1, '3'],
    ['b', 1, 1, '3'],
  ])
  simulation.server('a').die()
  await clock.run(supervisor.drainAll())
  const [a, b] = supervisor.getSnapshot().instances
  expect(a).toMatchObject({ placed: 1, completed: 0, failed: expect.any(Number), fault: expect.stringContaining('a') })
  expect(a!.failed).toBeGreaterThan(0)
  expect(b).toMatchObject({ placed: 3, completed: 3, failed: 0, fault: null })
  expect(a!.tokens + b!.tokens).toBe(60)
  expect(b!.waitedMs).toBeGreaterThan(0)
  expect(supervisor.getSnapshot().placementSteps).toBeGreaterThan(0)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('F11: every attempt has an id of its own, and none begins another', async () => {
  const simulation = simulate([], { retry: { attempts: 3 }, breaker: { failures: 1_000 } })
  const { clock, supervisor } = simulation
  const { ids } = watched(simulation, (_, attempt) =>
    attempt % 3 === 0 ? new RolloutError('ENGINE_ERROR', 'unlucky') : null,
  )
  await clock.run(supervisor.start())
  for (let key = 0; key < 30; key++) supervisor.submit({ prompt: [key, 5], samples: 4 })
  await clock.run(supervisor.drainAll())
  expect(ids.length).toBeGreaterThan(150)
  expect(new Set(ids).size).toBe(ids.length)
  expect(new Set(ids.map(({ length }) => length)).size).toBe(1)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('F16: one bad sample does not shrink its group: the group says which is missing and why', async () => {
  const simulation = simulate([])
  const { clock, supervisor } = simulation
  const rejected = new RolloutError('REQUEST_REJECTED', 'the prompt is too long', { status: 400 })
  watched(simulation, (_, attempt) => (attempt === 2 ? rejected : null))
  await clock.run(supervisor.start())
  const groups: Group[] = []
  supervisor.groups$.subscribe((group) => groups.push(group))
  const group = await clock.run(supervisor.submit({ prompt: [1, 5], samples: 4, meta: { line: 7 } }).result)
  expect(groups).toEqual([group])
  expect(group.complete).toBe(false)
  expect(group.completions.map(({ sample, outcome }) => [sample, outcome])).toEqual([
    [0, 'completed'],
    [1, 'failed'],
    [2, 'completed'],
    [3, 'completed'],
  ])
  expect(group.missing).toEqual([{ sample: 1, outcome: 'failed', error: rejected }])
  expect(group.meta).toEqual({ line: 7 })
  expect(supervisor.getSnapshot().instances[0]).toMatchObject({ state: 'serving.idle', fault: null })
  expect(await closeSimulation(simulation)).toBe(0)
})

describe('F17: a callback that throws changes nothing', () => {
  const bug = (): never => {
    throw new Error("a bug of the user's")
  }
  /** Completions of one and the same workload, as JSON. */
  async function outcome(
    options: SupervisorOptions,
    prepare: (simulation: Simulation) => void = () => {},
  ): Promise<string> {
    const simulation = simulate([{ capacity: 2 }, { capacity: 1 }], { runId: 'callback', ...options })
    const { clock, supervisor } = simulation
    const done: Pick<Completion, 'id' | 'outcome' | 'tokenIds'>[] = []
    supervisor.completions$.subscribe(({ id, outcome: how, tokenIds }) => done.push({ id, outcome: how, tokenIds }))
    prepare(simulation)
    await clock.run(supervisor.start())
    const cancelled = supervisor.submit({ id: 'cancelled', prompt: [1, 50], samples: 2 })
    for (let key = 0; key < 10; key++) supervisor.submit({ id: `t${key}`, prompt: [key, 5 + key], samples: 2 })
    await clock.advance(30)
    cancelled.cancel()
    simulation.server('b').die()
    await clock.advance(50)
    simulation.server('b').revive()
    await clock.run(supervisor.drainAll())
    const { conservation } = supervisor.getSnapshot()
    expect(await closeSimulation(simulation)).toBe(0)
    return JSON.stringify({ done: done.sort((x, y) => (x.id < y.id ? -1 : 1)), conservation })
  }
  let uncaught: unknown[] = []
  const note = (error: unknown): void => void uncaught.push(error)
  const others: NodeJS.UncaughtExceptionListener[] = []
  beforeEach(() => {
    uncaught = []
    others.push(...process.listeners('uncaughtException'))
    process.removeAllListeners('uncaughtException')
    process.on('uncaughtException', note)
  })
  afterEach(() => {
    process.removeListener('uncaughtException', note)
    for (const other of others.splice(0)) process.on('uncaughtException', other)
  })
  /** RxJS reports from a timer of its own. */
  const reported = () => new Promise((resolve) => setTimeout(resolve, 1))

  test('policy, logger and inspector', async () => {
    const expected = await outcome({})
    const throwing: PlacementPolicy = { name: 'throws', add: bug, remove: bug, changed: bug, pick: bug }
    expect(await outcome({ policy: throwing })).toBe(expected)
    expect(await outcome({ logger: { debug: bug, info: bug, warn: bug, error: bug } })).toBe(expected)
    expect(await outcome({ inspect: bug })).toBe(expected)
    expect(await outcome({ inspect: { next: bug } })).toBe(expected)
    await reported()
    expect(uncaught).toEqual([])
  })

  test('subscribers of every stream: uncaught in the process of the user, and nothing else', async () => {
    const expected = await outcome({})
    for (const stream of ['completions$', 'groups$', 'events$', 'states$'] as const) {
      uncaught = []
      const found = await outcome({}, ({ supervisor }) => {
        const observable: Observable<unknown> = supervisor[stream]
        observable.subscribe(bug)
      })
      expect(found, stream).toBe(expected)
      await reported()
      expect(uncaught.length, stream).toBeGreaterThan(0)
    }
  })

  test('a reader of task events, an abort listener, and a subject that throws', async () => {
    const expected = await outcome({})
    const found = await outcome({}, ({ supervisor }) => {
      const subject = new Subject<unknown>()
      subject.subscribe(bug)
      supervisor.events$.subscribe(subject)
      const rollout = supervisor.submit({ id: 'read', prompt: [1, 3] })
      void (async () => {
        for await (const _ of rollout.events) bug()
      })().catch(() => {})
    })
    await reported()
    expect(JSON.parse(found).done.filter(({ id }: Completion) => !id.startsWith('read'))).toEqual(
      JSON.parse(expected).done,
    )
  })

  test('a policy that throws is reported, in the log and as an event', async () => {
    const logged: string[] = []
    const faults: string[] = []
    const nothing = (): void => {}
    const logger = {
      debug: nothing,
      info: nothing,
      warn: nothing,
      error: (_: object, text: string) => logged.push(text),
    }
    const policy: PlacementPolicy = { name: 'own', add: nothing, remove: nothing, changed: nothing, pick: bug }
    await outcome({ policy, logger: logger as never }, ({ supervisor }) => {
      supervisor.events$.subscribe((event) => event.type === 'run.fault' && faults.push(event.error.code))
    })
    expect(new Set(faults)).toEqual(new Set(['POLICY_FAILED']))
    expect(logged).toContain("policy own threw in pick: a bug of the user's")
  })
})

describe('bad input to a running supervisor', () => {
  const codeOf = (call: () => unknown): string => {
    try {
      call()
      return 'nothing'
    } catch (error) {
      return (error as RolloutError).code
    }
  }

  test('a task that cannot be run leaves no trace', async () => {
    const simulation = await startSimulation([{ capacity: 1 }])
    const { clock, supervisor } = simulation
    const bad = [
      null,
      {},
      { prompt: [] },
      { prompt: [-1] },
      { prompt: [Number.NaN] },
      { prompt: [50_000] },
      { prompt: [1], samples: 0 },
      { prompt: [1], kind: 'other' },
      { prompt: [1], sampling: { maxTokens: Number.NaN } },
    ]
    for (const task of bad) {
      expect(codeOf(() => supervisor.submit(task as never))).toBe('INVALID_TASK')
      expect(codeOf(() => supervisor.trySubmit(task as never))).toBe('INVALID_TASK')
    }
    expect(supervisor.getSnapshot().conservation).toMatchObject({ submitted: 0, waiting: 0 })
    supervisor.submit({ prompt: [1, 5], samples: 2 })
    expect(codeOf(() => supervisor.trySubmit(null as never))).toBe('INVALID_TASK')
    await clock.run(supervisor.drainAll())
    expect(await closeSimulation(simulation)).toBe(0)
  })

  test('an id is taken while its task lives, and free afterwards', async () => {
    const simulation = await startSimulation([{ capacity: 1 }])
    const { clock, supervisor } = simulation
    const first = supervisor.submit({ id: 'same', prompt: [1, 5] })
    expect(codeOf(() => supervisor.submit({ id: 'same', prompt: [1, 5] }))).toBe('DUPLICATE_TASK')
    // Also where no slot is free, in which case no other would be taken either.
    expect(codeOf(() => supervisor.trySubmit({ id: 'same', prompt: [1, 5] }))).toBe('DUPLICATE_TASK')
    await clock.run(first.result)
    expect((await clock.run(supervisor.submit({ id: 'same', prompt: [1, 5] }).result)).complete).toBe(true)
    supervisor.submit({ id: 'task-000000001', prompt: [1, 5] })
    const ours = supervisor.submit({ prompt: [1, 5] })
    expect(ours.id).not.toBe('task-000000001')
    await clock.run(supervisor.drainAll())
    expect(await closeSimulation(simulation)).toBe(0)
  })

  test('an instance of a taken id or url, and one that nobody knows', async () => {
    const simulation = await startSimulation([{ capacity: 1 }])
    const { supervisor, servers } = simulation
    const { url, engine } = servers[0]!
    expect(codeOf(() => supervisor.add({ id: 'b', url, engine }))).toBe('DUPLICATE_INSTANCE')
    expect(codeOf(() => supervisor.add({ id: 'a', url: 'http://other', engine }))).toBe('DUPLICATE_INSTANCE')
    expect(codeOf(() => supervisor.add({ url: 'nowhere' }))).toBe('INVALID_OPTIONS')
    await expect(supervisor.drain('b')).rejects.toMatchObject({
      code: 'UNKNOWN_INSTANCE',
      message: expect.stringContaining('(a)'),
    })
    await expect(supervisor.remove('b')).rejects.toMatchObject({ code: 'UNKNOWN_INSTANCE' })
    expect(supervisor.getSnapshot().instances.map(({ id }) => id)).toEqual(['a'])
    expect(await closeSimulation(simulation)).toBe(0)
  })

  test('cancelling twice, after the end, and by a signal that was aborted before', async () => {
    const simulation = await startSimulation([{ capacity: 1 }])
    const { clock, supervisor } = simulation
    const done: string[] = []
    supervisor.completions$.subscribe(({ id, outcome }) => done.push(`${id} ${outcome}`))
    const rollout = supervisor.submit({ id: 'a', prompt: [1, 5], samples: 2 })
    rollout.cancel('first')
    rollout.cancel('second')
    const reason = (await rollout.result).completions[0]!.error!
    expect([reason.code, reason.message]).toEqual(['CANCELLED', 'task a was cancelled: first'])
    const ended = supervisor.submit({ id: 'b', prompt: [1, 5] })
    await clock.run(ended.result)
    ended.cancel()
    const aborted = supervisor.submit({ id: 'c', prompt: [1, 5], signal: AbortSignal.abort('before') })
    expect((await aborted.result).missing.length).toBe(1)
    expect(done).toEqual(['a/0 cancelled', 'a/1 cancelled', 'b/0 completed', 'c/0 cancelled'])
    expect(await closeSimulation(simulation)).toBe(0)
  })

  test('start twice is one start, and close before it is its end', async () => {
    const simulation = simulate([{ capacity: 1 }])
    const { clock, supervisor } = simulation
    expect(supervisor.start()).toBe(supervisor.start())
    await clock.run(supervisor.start())
    expect(await closeSimulation(simulation)).toBe(0)
    const early = simulate([{ capacity: 1 }])
    const started = early.supervisor.start()
    const closed = early.supervisor.close()
    await expect(early.clock.run(started)).rejects.toMatchObject({ code: 'CLOSED' })
    await early.clock.run(closed)
    expect(early.clock.pending).toBe(0)
    const late = simulate([{ capacity: 1 }])
    await late.clock.run(late.supervisor.close())
    await expect(late.supervisor.start()).rejects.toThrow('start was called after close()')
  })

  test('a fleet of which nobody answers is named, instance by instance', async () => {
    const simulation = simulate([{ capacity: 1 }, { capacity: 1 }])
    for (const server of simulation.servers) server.die()
    await expect(simulation.clock.run(simulation.supervisor.start())).rejects.toMatchObject({
      code: 'NO_INSTANCES',
      message: expect.stringMatching(/found 0 of 2\n {2}a: .*\n {2}b: /),
    })
    simulation.server('b').revive()
    const group = await simulation.clock.run(simulation.supervisor.submit({ prompt: [1, 5] }).result)
    expect(group.complete).toBe(true)
    expect(await closeSimulation(simulation)).toBe(0)
  })
})
