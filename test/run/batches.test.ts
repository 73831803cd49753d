/**
 * `batches()` on simulated servers: what is drawn when, what is handed out in which order, and how old it may be.
 */
import { expect, test } from 'vitest'
import { type Batch, createTimeline, type Task } from '../../src/index.ts'
import { closeSimulation, startSimulation } from '../simulate.ts'
import { endless, next, numbers, upTo } from './batch-fixtures.ts'

test('batches of the asked size come out of an endless source, and leaving the loop ends everything (I5)', async () => {
  const simulation = await startSimulation([{ capacity: 4 }, { capacity: 4 }])
  const { clock, supervisor, servers } = simulation
  const { source, state } = endless()
  const seen: number[] = []
  const train = async (): Promise<void> => {
    for await (const batch of supervisor.batches(source, { size: 3, order: 'source' })) {
      seen.push(...numbers(batch))
      if (batch.index === 2) break
    }
  }
  await clock.run(train())
  expect(seen).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8])
  expect(state.returned).toBe(1)
  await clock.settle()
  expect(servers.map(({ running }) => running)).toEqual([0, 0])
  expect(supervisor.getSnapshot()).toMatchObject({ batches: [], conservation: { waiting: 0, running: 0 } })
  expect(await closeSimulation(simulation)).toBe(0)
})

test('the source is asked only for what may run: nothing before the first next(), then as many groups as slots', async () => {
  const simulation = await startSimulation([{ capacity: 5 }])
  const { clock, supervisor } = simulation
  const { source, state } = endless()
  const batches = supervisor.batches(source, { size: 64 })
  await clock.advance(100)
  expect(state.drawn).toBe(0)
  void batches.next()
  await clock.settle()
  // Two groups and half of a third: its second sample is all that waits.
  expect(state.drawn).toBe(3)
  expect(supervisor.getSnapshot().waiting).toMatchObject({ capacity: 1, staleness: 0 })
  await batches.return!()
  expect(await closeSimulation(simulation)).toBe(0)
})

test('every freed slot refills at once: while the reader waits none is ever idle (I7)', async () => {
  const simulation = await startSimulation([{ capacity: 3 }, { capacity: 2 }])
  const { supervisor } = simulation
  const { source } = endless([10, 70, 3, 200, 25])
  const batches = supervisor.batches(source, { size: 16, maxStaleness: 1 })
  const idle: number[] = []
  supervisor.events$.subscribe(({ at, type }) => {
    if (type !== 'sample.released') return
    queueMicrotask(() => {
      if (supervisor.getSnapshot().instances.some(({ running, capacity }) => running < capacity!)) idle.push(at)
    })
  })
  for (let index = 0; index < 4; index++) await next(simulation, batches)
  idle.length = 0
  await next(simulation, batches)
  expect(idle).toEqual([])
  await batches.return!()
  expect(await closeSimulation(simulation)).toBe(0)
})

test.each([0, 1, 3])(
  'with maxStaleness %i so many batches are made while the reader trains (F14)',
  async (maxStaleness) => {
    const simulation = await startSimulation([{ capacity: 8 }])
    const { clock, supervisor } = simulation
    const { source, state } = endless()
    const batches = supervisor.batches(source, { size: 4, maxStaleness })
    for (let index = 0; index < 4; index++) {
      await next(simulation, batches)
      await clock.advance(100_000)
      expect(state.drawn).toBe((index + 1 + maxStaleness) * 4)
      const [view] = supervisor.getSnapshot().batches
      expect(view).toMatchObject({ heldBy: 'staleness', groups: { waiting: 0, running: 0, ready: maxStaleness * 4 } })
      expect(supervisor.getSnapshot().conservation).toMatchObject({ waiting: 0, running: 0 })
    }
    await batches.return!()
    expect(await closeSimulation(simulation)).toBe(0)
  },
)

test('slots that are free because of the bound are shown as such in the timeline', async () => {
  const simulation = await startSimulation([{ capacity: 4 }])
  const { clock, supervisor } = simulation
  const timeline = createTimeline({ view: () => supervisor.getSnapshot(), startedAt: clock.now() })
  supervisor.events$.subscribe((event) => timeline.observe(event))
  const batches = supervisor.batches(endless().source, { size: 2, maxStaleness: 0 })
  await next(simulation, batches)
  const before = timeline.report(clock.now()).idleMs.staleness ?? 0
  await clock.advance(1_000)
  expect((timeline.report(clock.now()).idleMs.staleness ?? 0) - before).toBe(4_000)
  await batches.return!()
  expect(await closeSimulation(simulation)).toBe(0)
})

test('D12: a group that waits for a slot spends no budget, and counts as waiting', async () => {
  const simulation = await startSimulation([{ capacity: 2 }])
  const { clock, supervisor } = simulation
  const { source, state } = endless()
  const before = supervisor.submit({ prompt: [1, 100], samples: 2 })
  const batches = supervisor.batches(source, { size: 8, maxStaleness: 4 })
  void batches.next()
  await clock.advance(500)
  expect(state.drawn).toBe(0)
  await clock.run(before.result)
  await clock.settle()
  expect(state.drawn).toBe(1)
  // An evaluation takes the next slots: what is drawn waits, and is not running.
  supervisor.submit({ prompt: [2, 100], samples: 2, kind: 'evaluation' })
  await clock.advance(150)
  expect(supervisor.getSnapshot().batches[0]!.groups).toMatchObject({ drawn: 1, waiting: 0, running: 0, ready: 1 })
  await batches.return!()
  expect(await closeSimulation(simulation)).toBe(0)
})

test('orders: what was ready first, what is oldest, or as the source had it', async () => {
  for (const [order, expected] of [
    ['as-completed', [2, 1, 3, 5]],
    ['oldest-first', [1, 2, 3, 5]],
    ['source', [0, 1, 2, 3]],
  ] as const) {
    const simulation = await startSimulation([{ capacity: 8 }])
    const { supervisor } = simulation
    const { source } = endless([40, 12, 10, 15])
    const batches = supervisor.batches(source, { size: 2, order, maxStaleness: 1 })
    const seen = [...numbers(await next(simulation, batches)), ...numbers(await next(simulation, batches))]
    expect([order, ...seen]).toEqual([order, ...expected])
    await batches.return!()
    expect(await closeSimulation(simulation)).toBe(0)
  }
})

test('oldest-first: a group of older weights goes before those that were ready sooner in the source', async () => {
  const simulation = await startSimulation([{ capacity: 4 }])
  const { clock, supervisor } = simulation
  const lengths = [10, 10, 10, 90, 10, 10, 10]
  const { source } = endless(lengths)
  const batches = supervisor.batches(source, { size: 2, maxStaleness: 3 })
  await clock.run(supervisor.updateWeights({ version: 0, path: '/w/0' }))
  expect(numbers(await next(simulation, batches))).toEqual([0, 1])
  await clock.run(supervisor.updateWeights({ version: 1, path: '/w/1', mode: 'drain' }))
  const batch = await next(simulation, batches)
  const ages = batch.groups.map(({ staleness }) => staleness)
  expect(ages).toEqual([...ages].sort((a, b) => b - a))
  expect(Object.keys(batch.staleness)).toContain('1')
  await batches.return!()
  expect(await closeSimulation(simulation)).toBe(0)
})

test('each batch says how old its tokens are; those of before the first update count as one version older', async () => {
  const simulation = await startSimulation([{ capacity: 4 }])
  const { clock, supervisor } = simulation
  const { source } = endless()
  const batches = supervisor.batches(source, { size: 2, maxStaleness: 2 })
  const first = await next(simulation, batches)
  expect(first).toMatchObject({ index: 0, version: null, staleness: { 0: 40 } })
  await clock.run(supervisor.updateWeights({ version: 8, path: '/w/8', mode: 'drain' }))
  const second = await next(simulation, batches)
  expect(second).toMatchObject({ index: 1, version: 8, staleness: { 1: 40 } })
  expect(second.groups.map(({ staleness, tooOld }) => [staleness, tooOld])).toEqual([
    [1, false],
    [1, false],
  ])
  await batches.return!()
  expect(await closeSimulation(simulation)).toBe(0)
})

/** One group of version 1 is ready and two have run some of their samples when version 2 comes. */
async function overtaken(tooOld: 'drop' | 'mark') {
  const simulation = await startSimulation([{ capacity: 3 }])
  const { clock, supervisor } = simulation
  await clock.run(supervisor.updateWeights({ version: 1, path: '/w/1' }))
  const batches = supervisor.batches(endless([10, 20]).source, { size: 4, maxStaleness: 0, tooOld })
  const asked = batches.next()
  await clock.advance(150)
  const update = supervisor.updateWeights({ version: 2, path: '/w/2' })
  const completions: string[] = []
  supervisor.completions$.subscribe(({ id, outcome, error }) => completions.push(`${id} ${outcome} ${error?.code}`))
  await clock.run(update)
  return { simulation, batches, asked, completions }
}

test('what is too old is dropped, partial groups before they resume, and gives its budget to others', async () => {
  const { simulation, batches, asked, completions } = await overtaken('drop')
  const { clock, supervisor } = simulation
  const batch = (await clock.run(asked)).value as Batch<number>
  expect(batch.version).toBe(2)
  expect(batch.rejected).toEqual({ filtered: 0, undecided: 0, incomplete: 0, tooOld: 3, invalid: 0 })
  expect(numbers(batch)).not.toContain(0)
  expect(batch.staleness).toEqual({
    0: batch.groups.flatMap((group) => [...group.completions]).reduce((sum, each) => sum + each.tokenIds.length, 0),
  })
  for (const { completions: each } of batch.groups)
    for (const { versions } of each) expect(versions.map(({ version }) => version)).toEqual([2])
  // Cancelled before they ran again, and said so.
  expect(completions.filter((line) => line.includes('TOO_OLD')).length).toBeGreaterThan(0)
  expect(supervisor.getSnapshot().batches[0]!.groups.rejected.tooOld).toBe(3)
  await batches.return!()
  expect(await closeSimulation(simulation)).toBe(0)
})

test("with tooOld: 'mark' nothing is dropped, and old groups say that they are", async () => {
  const { simulation, batches, asked } = await overtaken('mark')
  const { clock } = simulation
  const batch = (await clock.run(asked)).value as Batch<number>
  expect(numbers(batch)).toEqual([0, 1, 2, 3])
  expect(batch.rejected.tooOld).toBe(0)
  expect(batch.groups.map(({ staleness, tooOld }) => [staleness, tooOld])).toEqual([
    [1, true],
    [1, true],
    [1, true],
    [0, false],
  ])
  await batches.return!()
  expect(await closeSimulation(simulation)).toBe(0)
})

test('a source that ends hands out what is left as a last, smaller batch', async () => {
  const simulation = await startSimulation([{ capacity: 4 }])
  const { clock, supervisor } = simulation
  const batches = supervisor.batches(upTo(5), { size: 3, order: 'source' })
  expect(numbers(await next(simulation, batches))).toEqual([0, 1, 2])
  expect(numbers(await next(simulation, batches))).toEqual([3, 4])
  expect(await clock.run(batches.next())).toEqual({ done: true, value: undefined })
  const none = supervisor.batches([], { size: 3 })
  expect(await clock.run(none.next())).toEqual({ done: true, value: undefined })
  expect(await closeSimulation(simulation)).toBe(0)
})

test('a source that takes its time is asked for one task at a time, and slots refill as they come', async () => {
  const simulation = await startSimulation([{ capacity: 4 }])
  const { clock, supervisor } = simulation
  let asked = 0
  const slow: AsyncIterable<Task<number>> = {
    async *[Symbol.asyncIterator]() {
      for (let index = 0; index < 6; index++) {
        asked++
        await new Promise<void>((resolve) => void clock.setTimeout(resolve, 7))
        yield { prompt: [index, 10], samples: 2, meta: index }
      }
    },
  }
  const batches = supervisor.batches(slow, { size: 3 })
  const first = batches.next()
  await clock.settle()
  expect(asked).toBe(1)
  expect(supervisor.getSnapshot().batches[0]).toMatchObject({ heldBy: 'source' })
  expect(numbers((await clock.run(first)).value)).toEqual([0, 1, 2])
  expect(numbers(await next(simulation, batches))).toEqual([3, 4, 5])
  expect((await clock.run(batches.next())).done).toBe(true)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('two streams take turns at free slots, and each keeps to its own bound', async () => {
  const simulation = await startSimulation([{ capacity: 4 }])
  const { clock, supervisor } = simulation
  const sources = [endless(), endless()] as const
  const streams = sources.map(({ source }) =>
    supervisor.batches(
      (function* () {
        for (const { id: _, ...task } of source) yield task
      })(),
      { size: 2, maxStaleness: 1 },
    ),
  )
  await clock.run(Promise.all(streams.map((stream) => stream.next())))
  await clock.advance(10_000)
  expect(sources.map(({ state }) => state.drawn)).toEqual([4, 4])
  await Promise.all(streams.map((stream) => stream.return!()))
  expect(await closeSimulation(simulation)).toBe(0)
})

test('a paused run draws nothing, and goes on where it was', async () => {
  const simulation = await startSimulation([{ capacity: 2 }])
  const { clock, supervisor } = simulation
  const { source, state } = endless()
  const batches = supervisor.batches(source, { size: 2, maxStaleness: 5 })
  const first = batches.next()
  await clock.advance(5)
  await clock.run(supervisor.pause())
  await clock.advance(10_000)
  expect(state.drawn).toBe(1)
  await supervisor.resume()
  expect(numbers((await clock.run(first)).value)).toEqual([0, 1])
  await batches.return!()
  expect(await closeSimulation(simulation)).toBe(0)
})

test('batches asked for at once are answered in order', async () => {
  const simulation = await startSimulation([{ capacity: 4 }])
  const { clock, supervisor } = simulation
  const batches = supervisor.batches(upTo(5), { size: 2, order: 'source' })
  const results = await clock.run(Promise.all([1, 2, 3, 4, 5].map(() => batches.next())))
  expect(results.map(({ value }) => (value === undefined ? null : numbers(value)))).toEqual([
    [0, 1],
    [2, 3],
    [4],
    null,
    null,
  ])
  expect(await closeSimulation(simulation)).toBe(0)
})
