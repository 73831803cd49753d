/**
 * Sources of tasks that throw, yield nonsense, repeat themselves or never yield: each ends with an answer that says why, and nothing leaks.
 */
import { expect, test } from 'vitest'
import { RolloutError, type Task, type TaskSource } from '../../src/index.ts'
import { startSimulation } from '../simulate.ts'
import { expectNothingLeft, failure, next, numbers, upTo } from './batch-fixtures.ts'

test('a source that throws ends the stream with what it threw, at the first task or later', async () => {
  const simulation = await startSimulation([{ capacity: 4 }])
  const { supervisor } = simulation
  const sources: readonly (() => TaskSource)[] = [
    () => ({
      [Symbol.iterator]() {
        throw new Error('no such file')
      },
    }),
    function* () {
      yield* upTo(1)
      throw new Error('no such file')
    },
    async function* () {
      yield* upTo(1)
      throw new Error('no such file')
    },
    () => ({ [Symbol.iterator]: () => ({ next: () => 7 as unknown as IteratorResult<Task> }) }),
  ]
  for (const source of sources) {
    const error = await failure(simulation, supervisor.batches(source(), { size: 2 }).next())
    expect(error.code).toBe('SOURCE_FAILED')
    expect(error.message).toMatch(/the source of tasks failed: (no such file|expected \{ done, value \})/)
  }
  await expectNothingLeft(simulation)
})

test('a source that yields nonsense has it counted and reported; nothing but nonsense is an error', async () => {
  const simulation = await startSimulation([{ capacity: 4 }])
  const { supervisor } = simulation
  const faults: string[] = []
  supervisor.events$.subscribe((event) => {
    if (event.type === 'run.fault') faults.push(event.error.message)
  })
  const nonsense = [undefined, null, 7, 'text', [], {}, { prompt: [] }, { prompt: [1, 1], kind: 'evaluation' }]
  const [first, second] = upTo(2)
  const mixed = [first, ...nonsense, { prompt: [1, 1], minVersion: 4 }, second] as Task<number>[]
  const batches = supervisor.batches(mixed, { size: 2, order: 'source' })
  const batch = await next(simulation, batches)
  expect(numbers(batch)).toEqual([0, 1])
  expect(batch.rejected.invalid).toBe(9)
  expect(faults).toHaveLength(9)
  expect(faults.at(-1)).toMatch(/the batch would wait for weights that wait for the batch/)
  await batches.return!()
  const endlessNonsense = (function* () {
    for (;;) yield 7 as unknown as Task
  })()
  const error = await failure(simulation, supervisor.batches(endlessNonsense, { size: 2 }).next())
  expect(error.message).toMatch(
    /256 groups in a row were rejected \(in all: 256 invalid\); the last error: .*an object/s,
  )
  await expectNothingLeft(simulation)
})

test('a source that goes over its tasks again and again waits for each id to be free', async () => {
  const simulation = await startSimulation([{ capacity: 16 }])
  const { clock, supervisor } = simulation
  const tasks = upTo(3)
  const batches = supervisor.batches(
    (function* () {
      for (;;) yield* tasks
    })(),
    { size: 5, order: 'source' },
  )
  const asked = batches.next()
  await clock.advance(50)
  expect(supervisor.getSnapshot().batches[0]).toMatchObject({ heldBy: 'duplicate', groups: { drawn: 3 } })
  expect(numbers((await clock.run(asked)).value)).toEqual([0, 1, 2, 0, 1])
  await batches.return!()
  await expectNothingLeft(simulation)
})

test.each(['return', 'abort', 'close'] as const)(
  'a source that never yields: the reader can leave, abort and close (%s)',
  async (way) => {
    const simulation = await startSimulation([{ capacity: 4 }])
    const { clock, supervisor } = simulation
    const controller = new AbortController()
    async function* stuck(): AsyncGenerator<Task> {
      yield* upTo(1)
      await new Promise(() => {})
    }
    const batches = supervisor.batches(stuck(), { size: 2, signal: controller.signal })
    const asked = batches.next().then(
      ({ done }) => (done === true ? 'done' : 'a batch'),
      (error: unknown) => (RolloutError.isInstance(error) ? error.code : String(error)),
    )
    await clock.advance(1_000)
    if (way === 'return') await batches.return!()
    else if (way === 'abort') controller.abort('enough')
    else await clock.run(supervisor.close())
    expect(await asked).toBe({ return: 'done', abort: 'enough', close: 'CLOSED' }[way])
    expect((await batches.next()).done).toBe(true)
    await expectNothingLeft(simulation)
  },
)
