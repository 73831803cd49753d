/**
 * Interrupted attempts: ended at the engine, exact afterwards, and what that cost is counted.
 */
import { expect, test } from 'vitest'
import type { Completion, DriverFactory, EngineDriver, Task } from '../../src/index.ts'
import { checkOptions } from '../../src/options.ts'
import { closeRun } from '../../src/run/close.ts'
import { createRun } from '../../src/run/create-run.ts'
import { probe } from '../../src/run/fleet.ts'
import { admit, groupOf } from '../../src/run/intake.ts'
import { createInterruption, type InterruptHow, interrupt } from '../../src/run/interrupt.ts'
import { join } from '../../src/run/join.ts'
import { type SimulatedServerOptions, simulateServer, tokenOf } from '../../src/testing/simulated-fleet.ts'
import { createVirtualClock } from '../../src/testing/virtual-clock.ts'

async function startRun(
  change: (driver: EngineDriver) => Partial<EngineDriver> = () => ({}),
  options: Partial<SimulatedServerOptions> = {},
) {
  const clock = createVirtualClock()
  const server = simulateServer(clock, { id: 'a', capacity: 2, ...options })
  const engine: DriverFactory = (given) => {
    const driver = server.engine(given)
    return { ...driver, ...change(driver) }
  }
  const checked = checkOptions({ instances: [{ id: 'a', url: server.url, engine }], clock })
  const run = createRun(checked)
  join(run, checked.instances, (instance) => void probe(run, instance))
  await clock.settle()
  run.actor.send({ type: 'fleet.ready' })
  return {
    clock,
    server,
    run,
    submit: (task: Task) => groupOf(admit(run, task)),
    interrupt(how: InterruptHow) {
      const interruption = createInterruption(how)
      return { attempts: interrupt(run, run.attempts.values(), interruption), interruption }
    },
    async close() {
      await clock.run(closeRun(run, new Set()))
      expect(clock.pending).toBe(0)
    },
  }
}

const expected = (key: number, length: number): number[] =>
  Array.from({ length }, (_, position) => tokenOf(key, position))
const shape = ({ segments }: Completion) =>
  segments.map(({ start, end, reason, dropped }) => (dropped === undefined ? [start, end, reason] : [dropped, reason]))

test('a sample that is interrupted with resume goes on from all its tokens (I8)', async () => {
  const { clock, submit, interrupt, server, close } = await startRun()
  const result = submit({ prompt: [7, 30], samples: 2 })
  await clock.advance(105)
  const { attempts, interruption } = interrupt('resume')
  expect(attempts).toHaveLength(2)
  await clock.settle()
  expect(interruption).toEqual({ how: 'resume', samples: 2, resumedTokens: 20, wastedTokens: 0 })
  const { completions } = await clock.run(result)
  for (const completion of completions) {
    expect([...completion.tokenIds]).toEqual(expected(7, 30))
    expect(shape(completion)).toEqual([
      [0, 10, 'interrupted'],
      [10, 30, 'finished'],
    ])
  }
  expect(server.generated).toBe(60)
  await close()
})

test('restarted, a sample begins again and says what was thrown away; after two restarts it runs on (decision 5)', async () => {
  const { clock, submit, interrupt, close } = await startRun()
  const result = submit({ prompt: [7, 30] })
  const wasted: number[] = []
  for (let time = 0; time < 3; time++) {
    await clock.advance(105)
    const { attempts, interruption } = interrupt('restart')
    await clock.settle()
    wasted.push(interruption.wastedTokens)
    expect(attempts).toHaveLength(time < 2 ? 1 : 0)
  }
  expect(wasted).toEqual([10, 10, 0])
  const [completion] = (await clock.run(result)).completions
  expect([...completion!.tokenIds]).toEqual(expected(7, 30))
  expect(shape(completion!)).toEqual([
    [10, 'interrupted'],
    [10, 'interrupted'],
    [0, 30, 'finished'],
  ])
  await close()
})

test('interrupted many times in a row, with and without new tokens, nothing is lost, repeated, or counted as an attempt', async () => {
  const { clock, submit, interrupt, close } = await startRun()
  const result = submit({ prompt: [7, 30] })
  for (let time = 0; time < 12; time++) {
    await clock.advance(time % 2 === 0 ? 15 : 0)
    interrupt('resume')
    await clock.settle()
  }
  const [completion] = (await clock.run(result)).completions
  expect(completion).toMatchObject({ outcome: 'completed', error: null })
  expect([...completion!.tokenIds]).toEqual(expected(7, 30))
  await close()
})

test('an abort that overtakes its request is repeated as soon as the server has the request', async () => {
  const aborts: [at: number, known: boolean][] = []
  let accepted = false
  const { clock, submit, interrupt, close, server } = await startRun((driver) => ({
    async *generate(request, signal) {
      await new Promise<void>((resolve) => void clock.setTimeout(resolve, 40))
      const onAccepted = (): void => {
        accepted = true
        request.onAccepted?.()
      }
      yield* driver.generate({ ...request, onAccepted }, signal)
    },
    abort(requestId) {
      aborts.push([clock.now(), accepted])
      return driver.abort(requestId)
    },
  }))
  const result = submit({ prompt: [7, 1000] })
  await clock.advance(10)
  interrupt('resume')
  await clock.advance(30)
  expect(aborts).toEqual([
    [10, false],
    [40, true],
  ])
  expect(server.generated).toBe(0)
  await clock.run(result)
  await close()
})

test.each<[string, (driver: EngineDriver) => Partial<EngineDriver>]>([
  ['refuses to abort', () => ({ abort: () => Promise.reject(new Error('no such route')) })],
  [
    'cannot abort by id',
    (driver) => ({
      probe: async () => {
        const found = await driver.probe()
        return { ...found, capabilities: { ...found.capabilities, abortById: false } }
      },
    }),
  ],
])('where the server %s, the socket is closed and the sample goes on exactly', async (_, change) => {
  const { clock, submit, interrupt, close } = await startRun(change, { chunkTokens: 1 })
  const result = submit({ prompt: [7, 30] })
  await clock.advance(105)
  const { interruption } = interrupt('resume')
  await clock.settle()
  expect(interruption).toMatchObject({ samples: 1, resumedTokens: 10, wastedTokens: 0 })
  const [completion] = (await clock.run(result)).completions
  expect([...completion!.tokenIds]).toEqual(expected(7, 30))
  await close()
})

test('a server that ignores aborts loses the socket after 3 s', async () => {
  const { clock, submit, interrupt, close, server } = await startRun(() => ({ abort: () => Promise.resolve() }), {
    chunkTokens: 1,
  })
  const result = submit({ prompt: [7, 400] })
  await clock.advance(105)
  interrupt('resume')
  await clock.advance(2_999)
  expect(server.running).toBe(1)
  await clock.advance(2)
  const [completion] = (await clock.run(result)).completions
  expect(shape(completion!).map(([, , reason]) => reason)).toEqual(['interrupted', 'finished'])
  expect([...completion!.tokenIds]).toEqual(expected(7, 400))
  await close()
})

test('an attempt that is interrupted before its request is sent never sends it', async () => {
  let sent = 0
  let answer = (_ids: number[]): void => {}
  const { clock, submit, interrupt, run, close } = await startRun((driver) => ({
    tokenize: () => new Promise((resolve) => (answer = resolve)),
    generate(request, signal) {
      sent++
      return driver.generate(request, signal)
    },
  }))
  const result = submit({ prompt: 'text' })
  await clock.settle()
  run.actor.send({ type: 'pause.requested' })
  interrupt('resume')
  answer([7, 5])
  await clock.settle()
  expect([sent, run.counts.waiting, run.ledger.held]).toEqual([0, 1, 0])
  run.actor.send({ type: 'resume.requested' })
  await clock.settle()
  answer([7, 5])
  expect((await clock.run(result)).complete).toBe(true)
  expect(sent).toBe(1)
  await close()
})
