/**
 * AbortControllers that are used again: only where nobody can abort them any more, or waits for that.
 */
import { expect, test } from 'vitest'
import { createSupervisor, type EngineDriver } from '../../src/index.ts'
import { simulateServer } from '../../src/testing/simulated-fleet.ts'
import { createVirtualClock } from '../../src/testing/virtual-clock.ts'

/** A supervisor of one server, and the signal of each generation there in order. */
async function start(capacity: number, onSignal: (signal: AbortSignal) => void = () => {}) {
  const clock = createVirtualClock()
  const server = simulateServer(clock, { id: 'a', capacity })
  const signals: AbortSignal[] = []
  const supervisor = createSupervisor({
    clock,
    instances: [
      {
        id: 'a',
        url: server.url,
        engine: (options): EngineDriver => {
          const driver = server.engine(options)
          const generate: EngineDriver['generate'] = (request, signal) => {
            signals.push(signal)
            onSignal(signal)
            return driver.generate(request, signal)
          }
          return Object.assign(Object.create(driver) as EngineDriver, { generate })
        },
      },
    ],
  })
  await clock.run(supervisor.start())
  return { clock, supervisor, signals }
}

test('an attempt that ended by itself leaves its controller to the next, a limited number of times', async () => {
  const { clock, supervisor, signals } = await start(1)
  await clock.run(supervisor.submit({ prompt: [7, 1], samples: 200 }).result)
  const uses = [...new Set(signals)].map((signal) => signals.filter((each) => each === signal).length)
  expect(uses).toEqual([65, 65, 65, 5])
  await clock.run(supervisor.close())
})

test('no two attempts have one controller at the same time', async () => {
  const { clock, supervisor, signals } = await start(4)
  await clock.run(supervisor.submit({ prompt: [7, 5], samples: 16 }).result)
  for (let at = 0; at < signals.length; at += 4) expect(new Set(signals.slice(at, at + 4)).size).toBe(4)
  await clock.run(supervisor.close())
})

test('one of an attempt that was told to end is not used again (I11)', async () => {
  const { clock, supervisor, signals } = await start(1)
  const first = supervisor.submit({ prompt: [7, 50] })
  await clock.advance(5)
  first.cancel()
  await clock.run(supervisor.submit({ prompt: [7, 5], samples: 2 }).result)
  expect(signals).toHaveLength(3)
  expect(signals[1]).not.toBe(signals[0])
  expect(signals[2]).toBe(signals[1])
  await clock.run(supervisor.close())
})

test('one that a driver still listens to is not used again', async () => {
  const { clock, supervisor, signals } = await start(1, (signal) => signal.addEventListener('abort', () => {}))
  await clock.run(supervisor.submit({ prompt: [7, 5], samples: 5 }).result)
  expect(new Set(signals).size).toBe(5)
  await clock.run(supervisor.close())
})
