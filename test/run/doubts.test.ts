/**
 * Promises that a second reading of the code put in doubt: servers that are being asked, updates that are repeated, servers without
 * labels, slow answers to the watchdog, delays that no timer keeps, and prompts that a server cannot tokenize.
 */
import { expect, test } from 'vitest'
import { realClock } from '../../src/clock.ts'
import { type DriverFactory, type EngineDriver, RolloutError } from '../../src/index.ts'
import { simulateServer } from '../../src/testing/simulated-fleet.ts'
import { createVirtualClock, type VirtualClock } from '../../src/testing/virtual-clock.ts'
import { closeSimulation, simulate, startSimulation } from '../simulate.ts'

/** A simulated server with some of its driver's answers replaced. */
function altered(clock: VirtualClock, id: string, change: (driver: EngineDriver) => Partial<EngineDriver>) {
  const server = simulateServer(clock, { id, capacity: 2 })
  const engine: DriverFactory = (options) => {
    const driver = server.engine(options)
    return { ...driver, ...change(driver) }
  }
  return { server, instance: { id, url: server.url, engine } }
}

const pass = (clock: VirtualClock, ms: number): Promise<void> => new Promise((done) => void clock.setTimeout(done, ms))

/** A versioned server that was silent for so long that it is asked before it gets the task. */
async function beingAsked() {
  const simulation = simulate([], { minInstances: 0 })
  const { clock, supervisor } = simulation
  const { server, instance } = altered(clock, 'slow', (driver) => ({
    probe: () => pass(clock, 5).then(() => driver.probe()),
  }))
  await clock.run(supervisor.start())
  supervisor.add(instance)
  await clock.advance(10)
  await clock.run(supervisor.updateWeights({ version: 1, path: '/w/1' }))
  await clock.advance(6_000)
  const rollout = supervisor.submit({ prompt: [1, 5] })
  expect(supervisor.getSnapshot().instances[0]!.state).toBe('suspected')
  return { simulation, server, rollout }
}

test('an update waits for servers that are just being asked, and takes them along', async () => {
  const { simulation, rollout } = await beingAsked()
  const { clock, supervisor } = simulation
  const report = await clock.run(supervisor.updateWeights({ version: 2, path: '/w/2' }))
  expect(report.instances).toMatchObject([{ id: 'slow', ok: true }])
  expect((await clock.run(rollout.result)).completions[0]!.versions).toEqual([{ version: 2, start: 0, end: 5 }])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('so does a pause that gives memory away: a server that is just being asked still has it (decision 8)', async () => {
  const { simulation, rollout, server } = await beingAsked()
  const { clock, supervisor } = simulation
  const { instances } = await clock.run(supervisor.pause({ mode: 'abort', release: true }))
  expect([instances[0]!.ok, server.released]).toEqual([true, true])
  await clock.run(supervisor.resume())
  expect(server.released).toBe(false)
  expect((await clock.run(rollout.result)).complete).toBe(true)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('an update names the instances that were away, and the same version again repairs the others', async () => {
  const simulation = await startSimulation([{}, {}], {
    breaker: { failures: 1, resetMs: 600_000, maxResetMs: 600_000 },
  })
  const { clock, supervisor } = simulation
  simulation.server('b').die()
  supervisor.submit({ prompt: [1, 5], samples: 2 })
  await clock.run(supervisor.drainAll())
  const report = await clock.run(supervisor.updateWeights({ version: 1, path: '/w/1' }))
  expect(report.instances.map(({ id, ok, step }) => [id, ok, step])).toEqual([
    ['a', true, null],
    ['b', false, 'reach'],
  ])
  expect(await closeSimulation(simulation)).toBe(0)

  let broken = true
  const again = simulate([{}, {}], {})
  const update = (version: number) =>
    again.clock.run(
      again.supervisor.updateWeights({
        version,
        apply: async ({ id }) => {
          if (id === 'b' && broken) throw new Error('no room on this disk')
          again.server(id).revive(String(version))
        },
      }),
    )
  await again.clock.run(again.supervisor.start())
  expect((await update(1)).instances[1]).toMatchObject({ ok: false, step: 'apply' })
  broken = false
  expect((await update(1)).instances).toMatchObject([{ ok: true }, { ok: true }])
  await expect(update(1)).rejects.toMatchObject({ code: 'INVALID_OPTIONS' })
  expect(await closeSimulation(again)).toBe(0)
})

test('a server without labels that joins after an update is loaded before it has work (decision 2)', async () => {
  const simulation = simulate([], { minInstances: 0 })
  const { clock, supervisor } = simulation
  const loaded: string[] = []
  const mute = (id: string) =>
    altered(clock, id, (driver) => ({
      probe: async () => {
        const found = await driver.probe()
        return { ...found, weightVersion: null, capabilities: { ...found.capabilities, versions: 'none' as const } }
      },
      generate: async function* (request, signal) {
        for await (const chunk of driver.generate(request, signal)) yield { ...chunk, versions: null }
      },
    })).instance
  await clock.run(supervisor.start())
  supervisor.add(mute('first'))
  await clock.advance(1)
  await clock.run(supervisor.updateWeights({ version: 1, apply: async ({ id }) => void loaded.push(id) }))
  supervisor.add(mute('second'))
  const group = await clock.run(supervisor.submit({ prompt: [1, 5], samples: 4 }).result)
  expect(group.complete).toBe(true)
  await clock.advance(100)
  expect(loaded).toEqual(['first', 'second'])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('tokens that come while the watchdog asks the server save it', async () => {
  const simulation = simulate([], { minInstances: 0, watchdogMs: 1_000 })
  const { clock, supervisor } = simulation
  const { server, instance } = altered(clock, 'late', (driver) => ({
    load: () => pass(clock, 500).then(() => driver.load()),
  }))
  await clock.run(supervisor.start())
  supervisor.add(instance)
  await clock.advance(1)
  const rollout = supervisor.submit({ prompt: [1, 5] })
  await clock.settle()
  server.freeze()
  await clock.advance(1_200)
  server.thaw()
  const { completions } = await clock.run(rollout.result)
  expect(completions[0]!.segments).toHaveLength(1)
  await clock.advance(1_000)
  expect(supervisor.getSnapshot().instances[0]!.state).toBe('serving.idle')
  expect(await closeSimulation(simulation)).toBe(0)
})

test('a text that the server cannot tokenize is sent as it is', async () => {
  const simulation = simulate([], { minInstances: 0 })
  const { clock, supervisor } = simulation
  const sent: unknown[] = []
  const { instance } = altered(clock, 'plain', (driver) => ({
    tokenize: async () => {
      throw new RolloutError('INSTANCE_FAULT', 'no such route')
    },
    generate: (request, signal) => {
      sent.push(request.prompt)
      return driver.generate({ ...request, prompt: [1, 4] }, signal)
    },
  }))
  await clock.run(supervisor.start())
  supervisor.add(instance)
  const group = await clock.run(supervisor.submit({ prompt: 'as it is' }).result)
  expect(group.complete).toBe(true)
  expect(sent).toEqual(['as it is'])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('a delay that no timer of Node keeps is long, not 1 ms', async () => {
  let fired = false
  const handle = realClock.setTimeout(() => {
    fired = true
  }, 3e9)
  const control = new Promise<void>((resolve) => void realClock.setTimeout(resolve, 5))
  await control
  realClock.clearTimeout(handle)
  expect(fired).toBe(false)
})

test('a signal that is none is refused by name', async () => {
  const clock = createVirtualClock()
  const { supervisor } = simulate([], { clock, minInstances: 0 })
  await expect(supervisor.drainAll({ signal: 5 as never })).rejects.toMatchObject({ code: 'INVALID_OPTIONS' })
  expect(() => supervisor.completions({ signal: 5 as never })).toThrow(/signal: expected an AbortSignal/)
  await clock.run(supervisor.close())
})
