/**
 * A driver of the user's own that throws where it should reject, or answers with no promise: what it is asked for is taken as failed, and
 * nothing else changes.
 */
import { expect, test } from 'vitest'
import type { DriverFactory, EngineDriver } from '../../src/index.ts'
import { simulateServer } from '../../src/testing/simulated-fleet.ts'
import { closeSimulation, simulate } from '../simulate.ts'

const bug = (): never => {
  throw new Error('a bug of the driver')
}
const nothing = () => undefined as never

test.each([
  ['throw', bug],
  ['return nothing', nothing],
])('calls that %s end no cancel, removal or close midway', async (_, faulty) => {
  const simulation = simulate([])
  const { clock, supervisor } = simulation
  const servers = ['a', 'b'].map((id) => simulateServer(clock, { id, capacity: 2 }))
  const engineOf = (factory: DriverFactory): DriverFactory => {
    return (options) => ({ ...factory(options), abort: faulty, close: faulty }) satisfies EngineDriver
  }
  for (const { id, url, engine } of servers) supervisor.add({ id, url, engine: engineOf(engine) })
  await clock.run(supervisor.start())
  const cancelled = supervisor.submit({ prompt: [1, 5_000], samples: 5 })
  await clock.advance(50)
  cancelled.cancel()
  expect((await cancelled.result).missing.length).toBe(5)
  const rollout = supervisor.submit({ prompt: [1, 20], samples: 6 })
  await clock.advance(20_000)
  expect((await rollout.result).complete).toBe(true)
  const moved = supervisor.submit({ prompt: [1, 100], samples: 2 })
  await clock.advance(50)
  await clock.run(supervisor.remove('a'))
  expect((await clock.run(moved.result)).complete).toBe(true)
  const last = supervisor.submit({ prompt: [1, 5_000], samples: 3 })
  await clock.advance(50)
  expect(await closeSimulation(simulation)).toBe(0)
  expect((await last.result).missing.length).toBe(3)
  expect(supervisor.getSnapshot().conservation).toMatchObject({ submitted: 16, waiting: 0, running: 0 })
})
