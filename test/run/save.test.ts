/**
 * `save()` and `createSupervisor({ restore })`: what is in a saved state, what is not, and what becomes of it (decision 29).
 */
import { expect, test } from 'vitest'
import { createSupervisor, type SavedState, type Supervisor } from '../../src/index.ts'
import { logprobOf, type SimulatedServer, simulateServer, tokenOf } from '../../src/testing/simulated-fleet.ts'
import { createVirtualClock, type VirtualClock } from '../../src/testing/virtual-clock.ts'

/** One server that outlives its supervisors, each of which may have a clock of its own. */
function fleet(capacity = 1) {
  const clock = createVirtualClock()
  const server = simulateServer(clock, { id: 'a', capacity, chunkTokens: 1 })
  return { clock, server }
}

function supervise(clock: VirtualClock, server: SimulatedServer, restore?: SavedState): Supervisor {
  const instances = [{ id: server.id, url: server.url, engine: server.engine }]
  return createSupervisor({ instances, clock, ...(restore === undefined ? {} : { restore }) })
}

const written = (saved: SavedState): SavedState => JSON.parse(JSON.stringify(saved)) as SavedState
const tokens = (key: number, count: number) => Array.from({ length: count }, (_, at) => tokenOf(key, at))

test('partial tokens go on, exactly, and a group that is not whole comes back whole (I8)', async () => {
  const { clock, server } = fleet(2)
  const one = supervise(clock, server)
  await clock.run(one.start())
  await clock.run(one.updateWeights({ version: 3, path: '/w/3' }))
  const prompt = Int32Array.of(7, 10)
  one.submit({ id: 'group', prompt, samples: 3, meta: { row: 9 }, priority: 2 })
  one.submit({ prompt: [8, 40], sampling: { maxTokens: 20, seed: 5, stop: ['x'] }, sessionId: 's' })
  await clock.advance(145)
  const saved = written(one.save())
  expect(saved).toMatchObject({
    format: 'rollout-supervisor',
    version: 1,
    weights: 3,
    ended: { completed: 2, failed: 0, cancelled: 0, expired: 0 },
    line: { evaluation: [], interrupted: [0, 2, 1, 0], retry: [], started: [], fresh: [] },
    leftOut: { episodes: 0, signals: 0 },
  })
  await clock.run(one.close())

  const two = supervise(clock, server, saved)
  expect(two.version).toBe(3)
  expect(two.getSnapshot().conservation).toMatchObject({ submitted: 4, waiting: 2, ended: { completed: 2 } })
  const told: string[] = []
  two.completions$.subscribe(({ id }) => told.push(id))
  await clock.run(two.start())
  const [group, other] = await clock.run(Promise.all(two.restored.map(({ result }) => result)))
  expect([group!.taskId, group!.complete, group!.meta]).toEqual(['group', true, { row: 9 }])
  for (const { tokenIds, logprobs, versions, meta } of group!.completions) {
    expect([...tokenIds]).toEqual(tokens(7, 10))
    expect([...logprobs]).toEqual(tokens(7, 10).map((_, at) => logprobOf(3, at)))
    expect([versions, meta]).toEqual([[{ version: 3, start: 0, end: 10 }], { row: 9 }])
  }
  const { segments, timings } = group!.completions[2]!
  expect(segments.map(({ reason, start, end }) => [reason, start, end])).toEqual([
    ['interrupted', 0, 4],
    ['finished', 4, 10],
  ])
  expect(timings.totalMs).toBe(205)
  expect([...other!.completions[0]!.tokenIds]).toEqual(tokens(8, 20))
  expect(told.sort()).toEqual(['group/2', 'task-000000001/0'])
  // Ids go on where they were.
  expect(two.submit({ prompt: [1, 1] }).id).toBe('task-000000002')
  await clock.run(two.close())
  expect(clock.pending).toBe(0)
})

test('a saved state does not hang on time: another clock, earlier or later, gives the same timings', async () => {
  for (const startMs of [0, 1e9]) {
    const { clock, server } = fleet()
    const one = supervise(clock, server)
    await clock.run(one.start())
    one.submit({ prompt: [7, 10] })
    await clock.advance(1_045)
    one.submit({ prompt: [8, 10] })
    await clock.advance(45)
    const saved = written(one.save())
    await clock.run(one.close())
    const later = createVirtualClock(startMs)
    const two = supervise(later, simulateServer(later, { id: 'a' }), saved)
    await later.run(two.start())
    const { timings, segments } = (await later.run(two.restored[0]!.result)).completions[0]!
    expect(timings).toEqual({ waitedMs: 0, firstTokenMs: 10, totalMs: 105 })
    expect(segments.map(({ placedAt }) => placedAt - startMs)).toEqual([-45, 0])
    await later.run(two.close())
  }
})

test('what was handed out is not in it; what a reader had not taken is, for the next reader', async () => {
  const { clock, server } = fleet(2)
  const one = supervise(clock, server)
  await clock.run(one.start())
  const reader = one.completions({ highWaterMark: 8 })
  const first = reader.next()
  for (const id of ['x', 'y', 'z']) one.submit({ id, prompt: [1, 3], meta: id })
  await clock.run(one.drainAll())
  expect((await first).value.id).toBe('x/0')
  // Neither a batch that was handed out, nor a stream that was left.
  const [group] = await clock.run(one.rollout([{ prompt: [2, 3], kind: 'rollout' }]))
  const stream = one.batches(
    [
      { id: 'b', prompt: [2, 3] },
      { id: 'c', prompt: [2, 3] },
    ],
    { size: 1 },
  )
  const { value } = await clock.run(stream.next())
  await clock.run(one.drainAll())
  await stream.return!()
  expect([group!.complete, value.groups.length]).toEqual([true, 1])
  const saved = written(one.save())
  expect(saved.tasks).toEqual([])
  await clock.run(one.close())
  const two = supervise(clock, server, saved)
  expect(two.restored).toEqual([])
  const again = two.completions({ highWaterMark: 2 })
  const unread = saved.unread.map(() => again.next())
  const back = (await Promise.all(unread)).slice(0, 2).map(({ value }) => [value.id, value.meta, [...value.tokenIds]])
  expect(back).toEqual([
    ['y/0', 'y', tokens(1, 3)],
    ['z/0', 'z', tokens(1, 3)],
  ])
  await clock.run(two.close())
})

test('groups of a batch come with the next batch, finished ones included', async () => {
  const { clock, server } = fleet(2)
  const one = supervise(clock, server)
  await clock.run(one.start())
  const batch = ['a', 'b', 'c'].map((id) => ({ id, prompt: [2, id === 'c' ? 30 : 4] }))
  one.rollout(batch).catch(() => {})
  const stream = one.batches(
    [
      { id: 'd', prompt: [3, 2] },
      { id: 'e', prompt: [3, 9] },
    ],
    { size: 2 },
  )
  stream.next().catch(() => {})
  await clock.advance(95)
  const saved = written(one.save())
  expect(saved.tasks.map(({ id, keptFor, completions }) => [id, keptFor, completions.length])).toEqual([
    ['c', 'rollout', 0],
    ['e', 'batches', 0],
    ['a', 'rollout', 1],
    ['b', 'rollout', 1],
    ['d', 'batches', 1],
  ])
  await clock.run(one.close())
  const two = supervise(clock, server, saved)
  await clock.run(two.start())
  expect(two.restored.map(({ id }) => id)).toEqual(['c', 'e'])
  expect((await clock.run(two.rollout([]))).map(({ taskId }) => taskId)).toEqual(['c', 'a', 'b'])
  const { value } = await clock.run(two.batches([], { size: 2 }).next())
  expect(value.groups.map(({ taskId }: { taskId: string }) => taskId).sort()).toEqual(['d', 'e'])
  await clock.run(two.close())
  expect(clock.pending).toBe(0)
})

test('a restored run begins with the weights of its checkpoint, also where its servers have others', async () => {
  const { clock, server } = fleet()
  const one = supervise(clock, server)
  await clock.run(one.start())
  await clock.run(one.updateWeights({ version: 3, path: '/w/3' }))
  one.submit({ prompt: [7, 10], minVersion: 3 })
  await clock.advance(45)
  const saved = written(one.save())
  await clock.run(one.close())
  server.die()
  server.revive('default')
  const two = supervise(clock, server, saved)
  await clock.run(two.start())
  await clock.advance(1_000)
  expect(two.getSnapshot()).toMatchObject({ waiting: { gate: 1 }, instances: [{ state: 'stale' }] })
  await clock.run(two.updateWeights({ version: 3, path: '/w/3' }))
  const { completions } = await clock.run(two.restored[0]!.result)
  expect(completions[0]!.versions).toEqual([{ version: 3, start: 0, end: 10 }])
  await clock.run(two.close())
  // And where they have the same, the first update may say so.
  const three = supervise(clock, server, saved)
  await clock.run(three.start())
  await clock.run(three.updateWeights({ version: 3, path: '/w/3' }))
  await expect(three.updateWeights({ version: 3, path: '/w/3' })).rejects.toThrow('an integer above 3')
  await clock.run(three.close())
})

test('episodes and signals are code: they are left out, and counted', async () => {
  const { clock, server } = fleet(4)
  const one = supervise(clock, server)
  await clock.run(one.start())
  const { signal } = new AbortController()
  one.submit({ id: 'plain', prompt: [1, 50], signal })
  void one.episode((session) => session.generate({ append: [2, 50] }), { signal })
  await clock.advance(25)
  const saved = written(one.save())
  expect(saved.tasks.map(({ id }) => id)).toEqual(['plain'])
  expect(saved.leftOut).toEqual({ episodes: 1, signals: 1 })
  await clock.run(one.close())
  const two = supervise(clock, server, saved)
  expect(two.getSnapshot().conservation).toMatchObject({ submitted: 1, waiting: 1 })
  await clock.run(two.close())
  expect(() => two.save()).toThrow('save was called after close()')
})

test('what JSON cannot hold is named, task by task, and nothing else has happened', async () => {
  const { clock, server } = fleet()
  const one = supervise(clock, server)
  const circle: Record<string, unknown> = {}
  circle.self = circle
  one.submit({ id: 'good', prompt: [1, 1], meta: { a: [1, 'x', null, { b: true }], gone: undefined } })
  one.submit({ id: 'function', prompt: [1, 1], meta: { reward: () => 1 } })
  one.submit({ id: 'map', prompt: [1, 1], meta: [new Map()] })
  one.submit({ id: 'circle', prompt: [1, 1], meta: circle })
  one.submit({ id: 'nan', prompt: [1, 1], meta: Number.NaN })
  let error: unknown
  try {
    one.save()
  } catch (cause) {
    error = cause
  }
  expect(error).toMatchObject({
    code: 'NOT_SAVABLE',
    problems: [
      { path: 'task function: meta.reward', found: 'a function' },
      { path: 'task map: meta[0]', found: 'a Map' },
      { path: 'task circle: meta.self', found: 'a circle' },
      { path: 'task nan: meta', found: 'NaN (number)' },
    ],
  })
  expect(one.getSnapshot().conservation.waiting).toBe(5)
  await clock.run(one.close())
})

test('text whose token ids nobody knows begins again', async () => {
  const { clock, server } = fleet()
  const one = supervise(clock, server)
  one.submit({ prompt: 'some text' })
  one.submit({ prompt: [{ role: 'user', content: 'hi' }] })
  const saved = written(one.save())
  await clock.run(one.close())
  const two = supervise(clock, server, saved)
  expect(written(two.save()).tasks.map(({ prompt }) => prompt)).toEqual([
    'some text',
    [{ role: 'user', content: 'hi' }],
  ])
  await clock.run(two.close())
})
