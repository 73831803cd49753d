/**
 * `rollout()` on simulated servers: groups in task order, batches that stop when enough are complete, and what becomes of the rest
 * (decision 26).
 */
import { expect, test } from 'vitest'
import { type Completion, type DriverFactory, type Group, RolloutError, type Task } from '../../src/index.ts'
import { simulateServer, tokenOf } from '../../src/testing/simulated-fleet.ts'
import { closeSimulation, startSimulation } from '../simulate.ts'
import { expectNothingLeft, failure } from './batch-fixtures.ts'

/** One group for each length, of two samples; named after its place. */
function tasks(lengths: readonly number[], name = 't'): Task<string>[] {
  return lengths.map((length, index) => ({
    id: `${name}${index}`,
    prompt: [index, length],
    samples: 2,
    meta: `${name}${index}`,
  }))
}
const names = (groups: readonly Group<string>[]): string[] => groups.map(({ meta }) => meta)

function expectExact({ tokenIds, logprobs }: Completion, key: number, length: number): void {
  expect([...tokenIds]).toEqual(Array.from({ length }, (_, at) => tokenOf(key, at)))
  expect(logprobs).toHaveLength(length)
}

test('groups come back in the order of their tasks, whatever order they ended in', async () => {
  const simulation = await startSimulation([{ capacity: 3 }, { capacity: 2 }])
  const { clock, supervisor } = simulation
  const groups = await clock.run(supervisor.rollout(tasks([50, 3, 20, 1])))
  expect(names(groups)).toEqual(['t0', 't1', 't2', 't3'])
  expect(groups.every(({ complete }) => complete)).toBe(true)
  expect(await clock.run(supervisor.rollout([]))).toEqual([])
  await expectNothingLeft(simulation)
})

test('over-issue with carry: the rest is interrupted at once, and ends exactly in the next batch, after its own groups', async () => {
  const simulation = await startSimulation([{ capacity: 8, chunkTokens: 1 }])
  const { clock, supervisor, servers } = simulation
  const first = await clock.run(supervisor.rollout(tasks([90, 5, 80, 5], 'a'), { stopAfter: 2, rest: 'carry' }))
  expect(names(first)).toEqual(['a1', 'a3'])
  const at = clock.now()
  await clock.settle()
  // Interrupted without a moment's delay; what they have is kept.
  expect([clock.now(), servers[0]!.running]).toEqual([at, 0])
  expect(supervisor.getSnapshot()).toMatchObject({
    waiting: { carried: 4, capacity: 0 },
    conservation: { submitted: 8, waiting: 4, running: 0 },
  })
  await clock.advance(10_000)
  expect(servers[0]!.running).toBe(0)
  const second = await clock.run(supervisor.rollout(tasks([3, 200, 3], 'b'), { stopAfter: 4, rest: 'cancel' }))
  expect(names(second)).toEqual(['b0', 'b2', 'a0', 'a2'])
  for (const [index, length] of [
    [2, 90],
    [3, 80],
  ] as const) {
    const { completions } = second[index]!
    for (const completion of completions) {
      expectExact(completion, Number(second[index]!.meta.slice(1)), length)
      expect(completion.segments.map(({ reason, start }) => [reason, start])).toEqual([
        ['interrupted', 0],
        ['finished', 5],
      ])
      // Time between the calls is nobody's wait for a slot.
      expect(completion.timings.waitedMs).toBeLessThan(10_000)
    }
  }
  await expectNothingLeft(simulation)
})

test("carried groups are first in the next call's queue, those that never ran as well, and count toward its k", async () => {
  const simulation = await startSimulation([{ capacity: 2 }])
  const { clock, supervisor } = simulation
  expect(names(await clock.run(supervisor.rollout(tasks([5, 9, 9], 'a'), { stopAfter: 1 })))).toEqual(['a0'])
  const placed: string[] = []
  supervisor.events$.subscribe((event) => {
    if (event.type === 'sample.placed') placed.push(event.taskId)
  })
  expect(names(await clock.run(supervisor.rollout(tasks([1, 1], 'b'), { stopAfter: 2 })))).toEqual(['a1', 'a2'])
  expect(placed.slice(0, 4)).toEqual(['a1', 'a1', 'a2', 'a2'])
  // And again: the batch without tasks of its own ends what was carried.
  expect(names(await clock.run(supervisor.rollout([])))).toEqual(['b0', 'b1'])
  await expectNothingLeft(simulation)
})

test('tokens of a carried group keep the versions they were sampled with', async () => {
  const simulation = await startSimulation([{ capacity: 4, chunkTokens: 1 }])
  const { clock, supervisor } = simulation
  await clock.run(supervisor.updateWeights({ version: 1, path: '/w/1' }))
  await clock.run(supervisor.rollout(tasks([4, 10], 'a'), { stopAfter: 1 }))
  await clock.run(supervisor.updateWeights({ version: 2, path: '/w/2' }))
  const [group] = await clock.run(supervisor.rollout<string>([]))
  for (const { versions } of group!.completions)
    expect(versions).toEqual([
      { version: 1, start: 0, end: 4 },
      { version: 2, start: 4, end: 10 },
    ])
  await expectNothingLeft(simulation)
})

test("with rest: 'cancel' what is left ends at the engines at once", async () => {
  const simulation = await startSimulation([{ capacity: 3 }])
  const { clock, supervisor, servers } = simulation
  const outcomes: string[] = []
  supervisor.completions$.subscribe(({ id, outcome }) => outcomes.push(`${id} ${outcome}`))
  const groups = await clock.run(supervisor.rollout(tasks([5, 500, 500]), { stopAfter: 1, rest: 'cancel' }))
  expect(names(groups)).toEqual(['t0'])
  expect(outcomes.filter((line) => line.endsWith('cancelled'))).toHaveLength(4)
  await clock.settle()
  expect(servers[0]!.running).toBe(0)
  await expectNothingLeft(simulation)
})

/** Refuses the prompts of these keys. */
async function refusing(keys: ReadonlySet<number>) {
  const simulation = await startSimulation([], { minInstances: 0 })
  const { clock, supervisor } = simulation
  const server = simulateServer(clock, { id: 'a', capacity: 4 })
  const engine: DriverFactory = (options) => {
    const driver = server.engine(options)
    return {
      ...driver,
      generate(request, signal) {
        if (keys.has(Number(request.prompt[0])))
          throw new RolloutError('REQUEST_REJECTED', 'the prompt is too long', { status: 400 })
        return driver.generate(request, signal)
      },
    }
  }
  supervisor.add({ id: 'a', url: server.url, engine })
  await clock.settle()
  return simulation
}

test('F16: a group with failed samples is not lost: it is in its place, and says what is missing and why', async () => {
  const simulation = await refusing(new Set([1]))
  const { clock, supervisor } = simulation
  const groups = await clock.run(supervisor.rollout(tasks([5, 5, 5]), { stopAfter: 2 }))
  expect(groups.map(({ complete, missing }) => [complete, missing.length])).toEqual([
    [true, 0],
    [false, 2],
    [true, 0],
  ])
  expect(groups[1]!.missing[0]).toMatchObject({ sample: 0, outcome: 'failed', error: { code: 'REQUEST_REJECTED' } })
  await expectNothingLeft(simulation)
})

test('F15: a batch in which every group failed ends with an error that says so', async () => {
  const simulation = await refusing(new Set([0, 1, 2]))
  const error = await failure(simulation, simulation.supervisor.rollout(tasks([5, 5, 5]), { stopAfter: 2 }))
  expect(error).toMatchObject({ code: 'ALL_REJECTED' })
  expect(error.message).toMatch(/none of 3 is complete; the first error: .*too long/)
  await expectNothingLeft(simulation)
})

test('everything wrong with a batch is said at once, and nothing of it is admitted', async () => {
  const simulation = await startSimulation([{ capacity: 4 }])
  const { supervisor } = simulation
  const [good] = tasks([5])
  const calls: readonly (readonly [() => Promise<unknown>, string, RegExp])[] = [
    [() => supervisor.rollout(7 as never), 'INVALID_OPTIONS', /tasks: expected an iterable of tasks, found 7/],
    [
      () => supervisor.rollout([good!], { stopAfter: 2 }),
      'INVALID_OPTIONS',
      /stopAfter: expected an integer from 1 to 1/,
    ],
    [() => supervisor.rollout([good!], { rest: 'keep' as never }), 'INVALID_OPTIONS', /rest: expected one of/],
    [
      () => supervisor.rollout([good!, { prompt: [] }, 7 as never, { prompt: [1], kind: 'evaluation' }]),
      'INVALID_TASK',
      /tasks\[1\]\.prompt: .*tasks\[2\]: .*tasks\[3\]\.kind: /s,
    ],
    [() => supervisor.rollout([good!, good!]), 'DUPLICATE_TASK', /tasks\[1\]\.id: .*"t0"/],
    [
      () => supervisor.rollout([good!], { signal: AbortSignal.abort(new RolloutError('CANCELLED', 'no')) }),
      'CANCELLED',
      /no/,
    ],
  ]
  for (const [call, code, text] of calls) {
    const error = await failure(simulation, call())
    expect(error.code).toBe(code)
    expect(error.message).toMatch(text)
  }
  expect(supervisor.getSnapshot().conservation.submitted).toBe(0)
  await expectNothingLeft(simulation)
})

test('D23: aborting or closing at any moment ends every group, carried ones too', async () => {
  for (let ms = 0; ms <= 200; ms += 25) {
    for (const way of ['abort', 'close'] as const) {
      const simulation = await startSimulation([{ capacity: 3, chunkTokens: 1 }])
      const { clock, supervisor } = simulation
      await clock.run(supervisor.rollout(tasks([3, 60], 'a'), { stopAfter: 1 }))
      const controller = new AbortController()
      const told = supervisor.rollout(tasks([10, 40], 'b'), { signal: controller.signal }).then(
        () => 'groups',
        (error: unknown) => (RolloutError.isInstance(error) ? error.code : String(error)),
      )
      await clock.advance(ms)
      if (way === 'abort') controller.abort('enough')
      else void supervisor.close()
      expect(supervisor.getSnapshot().conservation).toMatchObject({ waiting: 0, running: 0 })
      expect(await clock.run(told)).toBe(way === 'abort' ? 'enough' : 'CLOSED')
      await clock.advance(10)
      await expectNothingLeft(simulation)
    }
  }
})

test('between two batches carried groups hold up nobody: drainAll() and weight updates do not wait for them, close() cancels them', async () => {
  const simulation = await startSimulation([{ capacity: 4 }])
  const { clock, supervisor } = simulation
  const outcomes: string[] = []
  supervisor.completions$.subscribe(({ id, outcome }) => outcomes.push(`${id} ${outcome}`))
  const drained = supervisor.rollout(tasks([3, 60, 60]), { stopAfter: 1 }).then(() => supervisor.drainAll())
  await clock.run(drained)
  await clock.run(supervisor.updateWeights({ version: 1, path: '/w/1' }))
  expect(supervisor.getSnapshot().waiting.carried).toBe(4)
  expect(await closeSimulation(simulation)).toBe(0)
  expect(outcomes.slice(2)).toEqual(['t1/0 cancelled', 't1/1 cancelled', 't2/0 cancelled', 't2/1 cancelled'])
})

test('a carried group that ends meanwhile, by its caller or by its last token, is in the next result', async () => {
  const simulation = await startSimulation([{ capacity: 4, chunkTokens: 1 }])
  const { clock, supervisor } = simulation
  const controller = new AbortController()
  const [short, long, cancelled] = tasks([3, 60, 60])
  const last = { ...long!, sampling: { maxTokens: 3 }, samples: 1 }
  await clock.run(supervisor.rollout([short!, last, { ...cancelled!, signal: controller.signal }], { stopAfter: 1 }))
  await clock.settle()
  controller.abort('no longer needed')
  const groups = await clock.run(supervisor.rollout<string>([]))
  expect(groups.map(({ meta, complete }) => [meta, complete])).toEqual([
    ['t1', true],
    ['t2', false],
  ])
  await expectNothingLeft(simulation)
})
