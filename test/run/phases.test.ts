/**
 * Weight updates, pauses and the end of a run, where they meet each other and instances that come and go.
 */
import { expect, test } from 'vitest'
import { type DriverFactory, RolloutError } from '../../src/index.ts'
import { simulateServer } from '../../src/testing/simulated-fleet.ts'
import { closeSimulation, simulate, startSimulation } from '../simulate.ts'

const never = () => new Promise<never>(() => {})
const codeOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => 'resolved',
    (error: { code?: string }) => error.code ?? error,
  )

test('an instance that joins during an update has its weights before it has work (I9)', async () => {
  const simulation = await startSimulation([{ capacity: 1, tokenMs: 10 }])
  const { clock, supervisor } = simulation
  supervisor.submit({ prompt: [1, 10] })
  const update = supervisor.updateWeights({ version: 3, path: '/w/3', mode: 'drain' })
  await clock.settle()
  const { id, url, engine } = simulateServer(clock, { id: 'late', capacity: 1 })
  supervisor.add({ id, url, engine })
  const rollout = supervisor.submit({ prompt: [2, 10], samples: 4 })
  await clock.run(update)
  const { completions } = await clock.run(rollout.result)
  expect(new Set(completions.map(({ segments }) => segments[0]!.instance))).toEqual(new Set(['a', 'late']))
  for (const { versions } of completions) expect(versions).toEqual([{ version: 3, start: 0, end: 10 }])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('an instance on trial is updated before it has more work (I9)', async () => {
  const breaker = { failures: 1, resetMs: 10, maxResetMs: 10 }
  const simulation = await startSimulation([{ capacity: 2 }, { capacity: 2 }], { breaker })
  const { clock, supervisor } = simulation
  const b = simulation.server('b')
  b.die()
  supervisor.submit({ prompt: [1, 5], samples: 2 })
  await clock.run(supervisor.drainAll())
  b.revive()
  await clock.advance(20)
  expect(supervisor.getSnapshot().instances[1]!.state).toBe('unhealthy.trial')
  await clock.run(supervisor.updateWeights({ version: 1, path: '/w/1' }))
  const { completions } = await clock.run(supervisor.submit({ prompt: [2, 5], samples: 6 }).result)
  for (const { versions } of completions) expect(versions).toEqual([{ version: 1, start: 0, end: 5 }])
  expect(b.weightVersion).toBe('1')
  expect(await closeSimulation(simulation)).toBe(0)
})

test('an instance that its old work recovers after an update is updated first (I9)', async () => {
  const simulation = await startSimulation([], { minInstances: 0, breaker: { failures: 1, resetMs: 60_000 } })
  const { clock, supervisor } = simulation
  const server = simulateServer(clock, { id: 'a', capacity: 2 })
  const engine: DriverFactory = (options) => {
    const driver = server.engine(options)
    const generate: typeof driver.generate = (request, signal) => {
      if (request.prompt[0] === 99) throw new RolloutError('ENGINE_ERROR', 'this prompt is unlucky')
      return driver.generate(request, signal)
    }
    return { ...driver, generate }
  }
  supervisor.add({ id: 'a', url: server.url, engine })
  await clock.settle()
  const old = supervisor.submit({ prompt: [1, 50] })
  const unlucky = supervisor.submit({ prompt: [99, 5] })
  await clock.advance(10)
  expect(supervisor.getSnapshot().instances[0]!.state).toBe('unhealthy.open')
  const other = simulateServer(clock, { id: 'b', capacity: 1 })
  supervisor.add({ id: 'b', url: other.url, engine: other.engine })
  await clock.settle()
  unlucky.cancel()
  await clock.run(supervisor.updateWeights({ version: 1, path: '/w/1' }))
  await clock.run(old.result)
  const { completions } = await clock.run(supervisor.submit({ prompt: [2, 5], samples: 6 }).result)
  expect(new Set(completions.map(({ segments }) => segments[0]!.instance))).toEqual(new Set(['a', 'b']))
  for (const { versions } of completions) expect(versions).toEqual([{ version: 1, start: 0, end: 5 }])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('a pause does not close the circuit of an instance on trial', async () => {
  const breaker = { failures: 1, resetMs: 10, maxResetMs: 10 }
  const simulation = await startSimulation([{ capacity: 2 }, { capacity: 2 }], { breaker })
  const { clock, supervisor } = simulation
  simulation.server('b').die()
  supervisor.submit({ prompt: [1, 5], samples: 2 })
  await clock.run(supervisor.drainAll())
  simulation.server('b').revive()
  await clock.advance(20)
  await clock.run(supervisor.pause())
  expect(supervisor.getSnapshot().instances[1]!.state).toBe('paused')
  await supervisor.resume()
  expect(supervisor.getSnapshot().instances[1]!.state).toBe('unhealthy.trial')
  expect(await closeSimulation(simulation)).toBe(0)
})

test('an update waits for the load that an instance still does for the last one', async () => {
  const simulation = await startSimulation([{ capacity: 1 }])
  const { clock, supervisor } = simulation
  const done: string[] = []
  let slow = true
  const apply = (version: number) => async (instance: { id: string }) => {
    if (instance.id === 'late' && slow) await new Promise<void>((resolve) => void clock.setTimeout(resolve, 100))
    if (instance.id === 'late') late.revive(String(version))
    else await a.driver(version)
    done.push(`${instance.id} ${version}`)
  }
  const a = { driver: async (version: number) => simulation.server('a').revive(String(version)) }
  await clock.run(supervisor.updateWeights({ version: 1, apply: apply(1) }))
  const late = simulateServer(clock, { id: 'late', capacity: 1 })
  supervisor.add({ id: late.id, url: late.url, engine: late.engine })
  await clock.advance(10)
  slow = false
  const report = await clock.run(supervisor.updateWeights({ version: 2, apply: apply(2) }))
  expect(report.instances.map(({ ok }) => ok)).toEqual([true, true])
  expect(done).toEqual(['a 1', 'a 2', 'late 1', 'late 2'])
  expect(supervisor.getSnapshot().instances.map(({ version }) => version)).toEqual(['2', '2'])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('close() ends an update whose loading never ends, and one that waits for it (decision 9, I12)', async () => {
  const simulation = await startSimulation([{ capacity: 1 }])
  const { clock, supervisor } = simulation
  const updates = [1, 2].map((version) => codeOf(supervisor.updateWeights({ version, apply: never })))
  await clock.settle()
  expect(supervisor.getSnapshot().phase).toBe('weightUpdate')
  expect(await closeSimulation(simulation)).toBe(0)
  expect(await Promise.all(updates)).toEqual(['CLOSED', 'CLOSED'])
})

test('close() while an update waits for running samples loads no weights', async () => {
  const simulation = await startSimulation([{ capacity: 1 }])
  const { clock, supervisor } = simulation
  supervisor.submit({ prompt: [1, 1000] })
  const update = codeOf(supervisor.updateWeights({ version: 1, path: '/w/1', mode: 'drain' }))
  const paused = codeOf(supervisor.pause())
  await clock.advance(50)
  expect(await closeSimulation(simulation)).toBe(0)
  expect(await update).toBe('CLOSED')
  expect(await paused).toBe('CLOSED')
  expect(simulation.server('a').weightVersion).toBe('default')
})

test('close() resolves a drain that was waiting', async () => {
  const simulation = await startSimulation([{ capacity: 1 }])
  const { clock, supervisor } = simulation
  supervisor.submit({ prompt: [1, 1000] })
  const drained = supervisor.drain('a')
  await clock.advance(50)
  expect(await closeSimulation(simulation)).toBe(0)
  await drained
})

test('after close() every method says so, and closing again is the same close', async () => {
  const simulation = await startSimulation([{ capacity: 1 }])
  const { clock, supervisor } = simulation
  expect(await closeSimulation(simulation)).toBe(0)
  const { url, engine } = simulation.servers[0]!
  expect(() => supervisor.submit({ prompt: [1] })).toThrow(/submit was called after close/)
  expect(() => supervisor.trySubmit({ prompt: [1] })).toThrow(/trySubmit was called after close/)
  expect(() => supervisor.add({ url, engine })).toThrow(/add was called after close/)
  const rejected = [
    supervisor.pause(),
    supervisor.resume(),
    supervisor.drain('a'),
    supervisor.remove('a'),
    supervisor.updateWeights({ version: 1, path: '/w/1' }),
  ]
  expect(await Promise.all(rejected.map(codeOf))).toEqual(rejected.map(() => 'CLOSED'))
  expect((await supervisor.completions().next()).done).toBe(true)
  await supervisor.drainAll()
  expect(supervisor.getSnapshot().phase).toBe('stopped')
  await clock.run(supervisor.close())
})

test('options of promise-returning methods reject, they do not throw', async () => {
  const simulation = simulate([{ capacity: 1 }])
  const { supervisor } = simulation
  const rejected = [
    supervisor.pause({ timeoutMs: -1 }),
    supervisor.drain('a', { timeoutMs: Number.NaN }),
    supervisor.updateWeights({ version: -1 }),
    supervisor.updateWeights({ version: 1, path: '/w', apply: async () => {} }),
    supervisor.updateWeights(null as never),
  ]
  expect(await Promise.all(rejected.map(codeOf))).toEqual(rejected.map(() => 'INVALID_OPTIONS'))
  expect(await closeSimulation(simulation)).toBe(0)
})

test('a server on trial that was silent for long is asked again before it has work, and placement goes on (F1)', async () => {
  const breaker = { failures: 1, resetMs: 10, maxResetMs: 10 }
  const simulation = await startSimulation([{ capacity: 2 }, { capacity: 2 }], { breaker })
  const { clock, supervisor } = simulation
  await clock.run(supervisor.updateWeights({ version: 1, path: '/w/1' }))
  const b = simulation.server('b')
  b.die()
  supervisor.submit({ prompt: [1, 5], samples: 2 })
  await clock.run(supervisor.drainAll())
  b.revive('1')
  await clock.advance(10_000)
  expect(supervisor.getSnapshot().instances[1]!.state).toBe('unhealthy.trial')
  const group = await clock.run(supervisor.submit({ prompt: [1, 5], samples: 8 }).result)
  expect(group.complete).toBe(true)
  expect(supervisor.getSnapshot().instances.map(({ state }) => state)).toEqual(['serving.idle', 'serving.idle'])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('a server that restarts during a pause is asked before it has work again (F1, I9)', async () => {
  const simulation = await startSimulation([{ capacity: 1 }])
  const { clock, supervisor } = simulation
  await clock.run(supervisor.updateWeights({ version: 1, path: '/w/1' }))
  const rollout = supervisor.submit({ prompt: [1, 20], samples: 2 })
  await clock.advance(50)
  const paused = supervisor.pause()
  simulation.server('a').die()
  simulation.server('a').revive()
  await clock.run(paused)
  await supervisor.resume()
  const { completions } = await clock.run(rollout.result)
  for (const { versions } of completions) expect(versions).toEqual([{ version: 1, start: 0, end: 20 }])
  expect(await closeSimulation(simulation)).toBe(0)
})

// Found by seed 2199 of test/properties.
test('a server that restarted while it gave its memory away is brought up to date before it has work (F1, I9)', async () => {
  const simulation = await startSimulation([{ capacity: 1, tokenMs: 10 }])
  const { clock, supervisor } = simulation
  await clock.run(supervisor.updateWeights({ version: 1, path: '/w/1' }))
  simulation.server('a').fail('release', 'restartAfter', 1)
  await clock.run(supervisor.pause({ release: true }).catch(() => {}))
  expect(simulation.server('a').weightVersion).toBe('default')
  await clock.run(supervisor.resume())
  const { completions } = await clock.run(supervisor.submit({ prompt: [2, 5] }).result)
  expect(completions[0]!.versions).toEqual([{ version: 1, start: 0, end: 5 }])
  expect(simulation.server('a').weightVersion).toBe('1')
  expect(await closeSimulation(simulation)).toBe(0)
})
