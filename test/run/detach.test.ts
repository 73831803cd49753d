/**
 * Closed sockets: their slots are free when the server's own count says so, one for each that it counts less (decision 23, D3).
 */
import { expect, test } from 'vitest'
import type { Chunk, DriverFactory } from '../../src/index.ts'
import { simulateServer } from '../../src/testing/simulated-fleet.ts'
import type { VirtualClock } from '../../src/testing/virtual-clock.ts'
import { closeSimulation, simulate } from '../simulate.ts'

/** A server that can end requests only by their sockets, and counts what `counted` says. */
function bySocket(clock: VirtualClock, counted: () => number | Promise<number>) {
  const server = simulateServer(clock, { id: 'socket', capacity: 4, chunkTokens: 1 })
  const engine: DriverFactory = (options) => {
    const driver = server.engine(options)
    return {
      ...driver,
      probe: async () => {
        const found = await driver.probe()
        return { ...found, capabilities: { ...found.capabilities, abortById: false } }
      },
      load: async () => ({ running: await counted(), waiting: 0 }),
    }
  }
  return { id: 'socket', url: server.url, engine }
}

async function started(counted: () => number | Promise<number>) {
  const simulation = simulate([], { minInstances: 0 })
  const { clock, supervisor } = simulation
  await clock.run(supervisor.start())
  supervisor.add(bySocket(clock, counted))
  await clock.advance(1)
  return { ...simulation, running: () => supervisor.getSnapshot().instances[0]!.running }
}

test('two sockets that are closed at once are not both freed by a count that is one less', async () => {
  let counted = 3
  const { running, ...simulation } = await started(() => counted)
  const { clock, supervisor } = simulation
  const rollouts = [1, 2, 3].map((key) => supervisor.submit({ prompt: [key, 10_000], sampling: { maxTokens: 10_000 } }))
  await clock.advance(50)
  rollouts[0]!.cancel()
  rollouts[1]!.cancel()
  // One of the two has ended on the server; both are asked about in the same moment.
  counted = 2
  await clock.advance(2_000)
  expect(running()).toBe(2)
  counted = 1
  await clock.advance(500)
  expect(running()).toBe(1)
  rollouts[2]!.cancel()
  expect(await closeSimulation(simulation)).toBe(0)
})

test('a request that the server has not begun to count does not pass for a socket that it has closed', async () => {
  const { running, ...simulation } = await started(() => 2)
  const { clock, supervisor } = simulation
  const [gone, stays] = [1, 2].map((key) =>
    supervisor.submit({ prompt: [key, 10_000], sampling: { maxTokens: 10_000 } }),
  )
  await clock.advance(50)
  gone!.cancel()
  const late = supervisor.submit({ prompt: [3, 10_000], sampling: { maxTokens: 10_000 } })
  await clock.settle()
  expect(running()).toBe(3)
  late.cancel()
  stays!.cancel()
  expect(await closeSimulation(simulation)).toBe(0)
})

/** One sample that was cancelled, on a server that never says what it counts. */
async function unanswered() {
  const simulation = await started(() => new Promise<never>(() => {}))
  const { clock, supervisor } = simulation
  const released: string[] = []
  supervisor.events$.subscribe(({ type }) => void (type === 'sample.released' && released.push(type)))
  const rollout = supervisor.submit({ prompt: [1, 10_000], sampling: { maxTokens: 10_000 } })
  await clock.advance(50)
  rollout.cancel()
  return { ...simulation, released }
}

test('a slot is free after 10 s, also where the server never answers what it counts (D3)', async () => {
  const { running, released, ...simulation } = await unanswered()
  await simulation.clock.advance(9_999)
  expect([running(), released]).toEqual([1, []])
  await simulation.clock.advance(1)
  expect([running(), released]).toEqual([0, ['sample.released']])
  expect(await closeSimulation(simulation)).toBe(0)
})

// Found by seed 2981 of test/properties.
test('close() gives back a slot of which the server never says that it is free (I4, I12)', async () => {
  const { released, ...simulation } = await unanswered()
  await simulation.clock.advance(100)
  expect(released).toEqual([])
  expect(await closeSimulation(simulation)).toBe(0)
  expect(released).toEqual(['sample.released'])
})

test.each(['stays', 'was removed'])(
  'close() gives back what a driver never ends, from an instance that %s',
  async (which) => {
    const simulation = simulate([], { minInstances: 0 })
    const { clock, supervisor } = simulation
    await clock.run(supervisor.start())
    const { id, url, engine } = bySocket(clock, () => 0)
    const deaf: AsyncIterable<Chunk> = { [Symbol.asyncIterator]: () => ({ next: () => new Promise(() => {}) }) }
    supervisor.add({ id, url, engine: (options) => ({ ...engine(options), generate: () => deaf }) })
    await clock.advance(1)
    const released: string[] = []
    supervisor.events$.subscribe(({ type }) => void (type === 'sample.released' && released.push(type)))
    const { result } = supervisor.submit({ prompt: [1, 10] })
    await clock.advance(1)
    const removed = which === 'stays' ? Promise.resolve() : supervisor.remove(id)
    await clock.advance(1)
    expect(await closeSimulation(simulation)).toBe(0)
    expect([(await result).complete, released]).toEqual([false, ['sample.released']])
    await removed
  },
)

/** A server that ends requests by id, of which the first so many calls are lost. */
async function losing(lost: number) {
  const simulation = simulate([], { minInstances: 0 })
  const { clock, supervisor } = simulation
  await clock.run(supervisor.start())
  const server = simulateServer(clock, { id: 'a', capacity: 1, chunkTokens: 1 })
  const asked: number[] = []
  const engine: DriverFactory = (options) => {
    const driver = server.engine(options)
    return {
      ...driver,
      async abort(id) {
        asked.push(clock.now())
        if (asked.length > lost) await driver.abort(id)
      },
    }
  }
  supervisor.add({ id: 'a', url: server.url, engine })
  await clock.advance(1)
  const rollout = supervisor.submit({ prompt: [1, 10_000], sampling: { maxTokens: 10_000 } })
  await clock.advance(49)
  rollout.cancel()
  return { simulation, server, asked, running: () => supervisor.getSnapshot().instances[0]!.running }
}

test('an abort that was lost is repeated until the server ends the request (F3, I11)', async () => {
  const { simulation, server, asked, running } = await losing(3)
  await simulation.clock.advance(740)
  expect([server.running, running()]).toEqual([1, 1])
  await simulation.clock.advance(20)
  expect([server.running, running()]).toEqual([0, 0])
  expect(asked).toEqual([50, 300, 550, 800])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('where all aborts are lost the socket is closed, and nothing is asked any more (F3, D3)', async () => {
  const { simulation, server, asked, running } = await losing(Number.POSITIVE_INFINITY)
  await simulation.clock.advance(20_000)
  expect([server.running, running()]).toEqual([0, 0])
  expect(asked.length).toBe(12)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('close() waits two seconds for aborts, closes the sockets then, and is done (I12)', async () => {
  const { simulation, server, asked } = await losing(Number.POSITIVE_INFINITY)
  const { clock, supervisor } = simulation
  const before = clock.now()
  await clock.run(supervisor.close())
  expect([clock.now() - before, server.running, clock.pending]).toEqual([2_000, 0, 0])
  expect(asked.length).toBeLessThan(12)
})

test('a sample whose socket was closed goes on elsewhere before its slot is known to be free (I7)', async () => {
  const simulation = await started(() => new Promise<never>(() => {}))
  const { clock, supervisor } = simulation
  const { result } = supervisor.submit({ prompt: [1, 200] })
  await clock.advance(50)
  const { id, url, engine } = simulateServer(clock, { id: 'free', capacity: 1 })
  supervisor.add({ id, url, engine })
  await clock.advance(1)
  const update = supervisor.updateWeights({ version: 1, path: '/w/1', rolling: 1 }).catch(() => {})
  await clock.advance(1_000)
  expect(supervisor.getSnapshot().conservation).toMatchObject({ waiting: 0, running: 1 })
  const { completions } = await clock.run(result)
  expect(completions[0]!.segments.map(({ instance }) => instance)).toEqual(['socket', 'free'])
  await clock.run(update)
  expect(await closeSimulation(simulation)).toBe(0)
})
