/**
 * `batches()` with bad options, bad callbacks, samples that fail, and readers that leave at any moment: each ends with an answer that
 * says why, nothing leaks, and no other group is hurt.
 */
import { expect, test } from 'vitest'
import { type BatchesOptions, type DriverFactory, RolloutError, type TaskSource } from '../../src/index.ts'
import { simulateServer } from '../../src/testing/simulated-fleet.ts'
import { closeSimulation, startSimulation } from '../simulate.ts'
import { endless, expectNothingLeft, failure, next, numbers, upTo } from './batch-fixtures.ts'

test('everything wrong with the options is said at once, before the source is asked', async () => {
  const simulation = await startSimulation([{}])
  const { supervisor } = simulation
  const bad = { size: 0, maxStaleness: -1, accept: true, order: 'newest', tooOld: 'keep', maxRejected: 0.5, signal: 1 }
  let error: unknown
  try {
    supervisor.batches('abc' as unknown as TaskSource, bad as unknown as BatchesOptions)
  } catch (cause) {
    error = cause
  }
  expect(RolloutError.isInstance(error) && error.problems.map(({ path }) => path)).toEqual([
    'source',
    'size',
    'maxStaleness',
    'accept',
    'order',
    'tooOld',
    'maxRejected',
    'signal',
  ])
  expect(() => supervisor.batches([], {} as unknown as BatchesOptions)).toThrow(/size: expected an integer.*nothing/)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('accept decides about whole groups, now or later, and the batch counts what it left out', async () => {
  const simulation = await startSimulation([{ capacity: 4 }])
  const { clock, supervisor } = simulation
  const later = (value: boolean): Promise<boolean> =>
    new Promise((resolve) => void clock.setTimeout(() => resolve(value), 33))
  const asked: number[] = []
  const batches = supervisor.batches(upTo(12), {
    size: 3,
    order: 'source',
    accept({ meta, completions }) {
      asked.push(completions.length)
      return meta % 2 === 0 ? meta % 3 === 0 : later(meta % 3 === 0)
    },
  })
  const batch = await next(simulation, batches)
  expect(numbers(batch)).toEqual([0, 3, 6])
  expect(batch.rejected).toMatchObject({ filtered: 4, undecided: 0 })
  const last = await next(simulation, batches)
  expect(numbers(last)).toEqual([9])
  expect(batch.rejected.filtered + last.rejected.filtered).toBe(8)
  expect(new Set(asked)).toEqual(new Set([2]))
  expect((await clock.run(batches.next())).done).toBe(true)
  await expectNothingLeft(simulation)
})

test('D26: rejected groups free their budget: with none to spare, replacements fill the batch', async () => {
  const simulation = await startSimulation([{ capacity: 1 }, { capacity: 1 }])
  const { supervisor } = simulation
  const { source } = endless()
  const batches = supervisor.batches(source, {
    size: 2,
    maxStaleness: 0,
    order: 'source',
    accept: ({ meta }) => meta % 5 > 2,
  })
  expect(numbers(await next(simulation, batches))).toEqual([3, 4])
  expect(numbers(await next(simulation, batches))).toEqual([8, 9])
  await batches.return!()
  await expectNothingLeft(simulation)
})

test('F17: an accept that throws, or answers neither true nor false, rejects that group and is reported', async () => {
  const simulation = await startSimulation([{ capacity: 4 }])
  const { supervisor } = simulation
  const faults: string[] = []
  supervisor.events$.subscribe((event) => {
    if (event.type === 'run.fault') faults.push(`${event.error.code} ${event.error.message}`)
  })
  const answers: readonly (() => unknown)[] = [
    () => {
      throw new Error('no reward')
    },
    () => undefined,
    () => Promise.reject(new Error('timed out')),
    () => Promise.resolve('yes'),
    () => true,
  ]
  const { source } = endless()
  const batches = supervisor.batches(source, {
    size: 2,
    order: 'source',
    accept: ({ meta }) => answers[meta % answers.length]!() as boolean,
  })
  const batch = await next(simulation, batches)
  expect(numbers(batch)).toEqual([4, 9])
  expect(batch.rejected).toMatchObject({ filtered: 0, undecided: 8 })
  expect(faults).toHaveLength(8)
  expect(faults[0]).toBe('ACCEPT_FAILED accept gave no answer for group g0: no reward')
  expect(faults).toContain('ACCEPT_FAILED accept gave no answer for group g1: expected true or false, found undefined')
  await batches.return!()
  await expectNothingLeft(simulation)
})

test('an accept that never answers holds up its own group only as long as acceptTimeoutMs, and never one who leaves', async () => {
  const simulation = await startSimulation([{ capacity: 4 }])
  const { clock, supervisor } = simulation
  const never = new Promise<boolean>(() => {})
  const patient = supervisor.batches(endless().source, { size: 2, maxStaleness: 0, accept: () => never })
  const asked = patient.next()
  await clock.advance(100_000)
  expect(supervisor.getSnapshot().batches[0]).toMatchObject({ heldBy: 'staleness', groups: { deciding: 2 } })
  await patient.return!()
  expect((await asked).done).toBe(true)
  const { source } = endless()
  const accept = ({ meta }: { meta: number }) => (meta === 0 ? never : true)
  const batches = supervisor.batches(source, { size: 2, maxStaleness: 0, accept, acceptTimeoutMs: 5_000 })
  const batch = await next(simulation, batches)
  expect(numbers(batch)).toEqual([1, 2])
  expect(batch.rejected.undecided).toBe(1)
  await batches.return!()
  await expectNothingLeft(simulation)
})

test('F15: when everything is rejected the stream ends with an error that says so', async () => {
  const simulation = await startSimulation([{ capacity: 4 }])
  const { clock, supervisor } = simulation
  const { source, state } = endless()
  const batches = supervisor.batches(source, { size: 2, maxRejected: 20, accept: () => false })
  const error = await failure(simulation, batches.next())
  expect(error).toMatchObject({ code: 'ALL_REJECTED' })
  expect(error.message).toMatch(/20 groups in a row were rejected \(in all: 20 filtered\)/)
  expect(state.drawn).toBeLessThan(25)
  expect((await clock.run(batches.next())).done).toBe(true)
  const finite = await failure(simulation, supervisor.batches(upTo(3), { size: 2, accept: () => false }).next())
  expect(finite.message).toMatch(/every group of the source was rejected \(in all: 3 filtered\)/)
  await expectNothingLeft(simulation)
})

/** Requests for these prompts are refused by the server. */
function refusing(engine: DriverFactory, keys: ReadonlySet<number>): DriverFactory {
  return (options) => {
    const driver = engine(options)
    return {
      ...driver,
      generate(request, signal) {
        if (keys.has(Number(request.prompt[0])))
          throw new RolloutError('REQUEST_REJECTED', 'the prompt is too long', { status: 400 })
        return driver.generate(request, signal)
      },
    }
  }
}

test('F16: a group that is not complete is left out and counted, or offered to accept with what it lacks', async () => {
  const simulation = await startSimulation([], { minInstances: 0 })
  const { clock, supervisor } = simulation
  const server = simulateServer(clock, { id: 'a', capacity: 4 })
  supervisor.add({ id: 'a', url: server.url, engine: refusing(server.engine, new Set([1, 3])) })
  await clock.settle()
  const strict = supervisor.batches(upTo(5), { size: 2, order: 'source' })
  const batch = await next(simulation, strict)
  expect(numbers(batch)).toEqual([0, 2])
  expect(batch.rejected.incomplete).toBeGreaterThan(0)
  await strict.return!()
  const open = supervisor.batches(upTo(2), { size: 2, order: 'source', incomplete: 'offer' })
  const { groups } = await next(simulation, open)
  expect(groups.map(({ complete, missing }) => [complete, missing.length])).toEqual([
    [true, 0],
    [false, 2],
  ])
  expect(groups[1]!.missing[0]!.error?.message).toMatch(/too long/)
  await open.return!()
  const lost = await failure(simulation, supervisor.batches([upTo(2)[1]!], { size: 1 }).next())
  expect(lost.message).toMatch(
    /every group of the source was rejected \(in all: 1 incomplete\); the last error:.*too long/,
  )
  await expectNothingLeft(simulation)
})

test('D23: leaving, aborting or closing at any moment leaves no sample, no slot and no timer behind (I5, I11)', async () => {
  for (let ms = 0; ms <= 260; ms += 20) {
    for (const way of ['return', 'abort', 'close'] as const) {
      const simulation = await startSimulation([{ capacity: 3 }, { capacity: 2 }])
      const { clock, supervisor } = simulation
      const controller = new AbortController()
      const { source, state } = endless([10, 17, 5])
      const batches = supervisor.batches(source, {
        size: 3,
        signal: controller.signal,
        accept: () => new Promise((resolve) => void clock.setTimeout(() => resolve(true), 15)),
      })
      const asked = [batches.next(), batches.next(), batches.next()].map((each) => each.catch(() => null))
      await clock.advance(ms)
      if (way === 'return') await batches.return!()
      else if (way === 'abort') controller.abort()
      else void supervisor.close()
      // At once: no time has passed.
      expect(supervisor.getSnapshot().conservation).toMatchObject({ waiting: 0, running: 0 })
      await clock.advance(50)
      expect(state.returned).toBe(state.drawn > 0 ? 1 : 0)
      await Promise.all(asked)
      await expectNothingLeft(simulation)
    }
  }
})

test('a stream that is aborted before it begins, or left unread, never asks its source', async () => {
  const simulation = await startSimulation([{ capacity: 4 }])
  const { clock, supervisor } = simulation
  const { source, state } = endless()
  const aborted = supervisor.batches(source, { size: 2, signal: AbortSignal.abort('never') })
  await expect(aborted.next()).rejects.toBe('never')
  const unread = supervisor.batches(source, { size: 2 })
  await unread.return!()
  expect((await unread.next()).done).toBe(true)
  supervisor.batches(source, { size: 2 })
  await clock.advance(1_000)
  expect(state.drawn).toBe(0)
  await expectNothingLeft(simulation)
})

test('callbacks that end the stream from inside it end it once', async () => {
  const simulation = await startSimulation([{ capacity: 4 }])
  const { clock, supervisor } = simulation
  for (const where of ['accept', 'sample.queued', 'sample.placed', 'sample.ended'] as const) {
    const leave = (): void => void batches.return!()
    const batches = supervisor.batches(endless().source, {
      size: 2,
      accept() {
        if (where === 'accept') leave()
        return true
      },
    })
    const subscription = supervisor.events$.subscribe(({ type }) => {
      if (type === where) leave()
    })
    expect(await clock.run(batches.next())).toEqual({ done: true, value: undefined })
    subscription.unsubscribe()
    await clock.settle()
    expect(supervisor.getSnapshot()).toMatchObject({ batches: [], conservation: { waiting: 0, running: 0 } })
  }
  await expectNothingLeft(simulation)
})
