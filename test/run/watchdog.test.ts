/**
 * The watchdog tells a slow server from one that stands still, by the server's own counter, and takes no longer for it (F6, decision 18).
 */
import { expect, test } from 'vitest'
import { closeSimulation, startSimulation } from '../simulate.ts'

const WATCHDOG_MS = 1_000
const start = (tokenMs: number) =>
  startSimulation([{ capacity: 1, tokenMs }, { capacity: 1 }], { watchdogMs: WATCHDOG_MS, policy: 'round-robin' })

test('streams that are silent while the counter moves are left alone', async () => {
  // One chunk after the first token: 5 s of silence.
  const simulation = await start(100)
  const { clock, supervisor } = simulation
  const rollout = supervisor.submit({ prompt: [1, 50] })
  const { completions } = await clock.run(rollout.result)
  expect(completions[0]!.segments.map(({ instance, reason }) => [instance, reason])).toEqual([['a', 'finished']])
  expect(clock.now()).toBe(5_000)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('a server that stands still is found after watchdogMs, also where it has a counter (F6)', async () => {
  const simulation = await start(10)
  const { clock, supervisor, server } = simulation
  const rollout = supervisor.submit({ prompt: [1, 50] })
  await clock.advance(25)
  const faults: unknown[] = []
  supervisor.events$.subscribe((event) => {
    if (event.type === 'instance.fault') faults.push([event.instance, event.error.code])
  })
  server('a').freeze()
  const { completions } = await clock.run(rollout.result)
  const [first, second] = completions[0]!.segments
  expect([first!.instance, first!.reason, second!.instance]).toEqual(['a', 'timedOut', 'b'])
  // Its first token came after 10 ms.
  expect(first!.endedAt).toBe(10 + WATCHDOG_MS)
  expect(faults[0]).toEqual(['a', 'STALLED'])
  expect(completions[0]!.outcome).toBe('completed')
  expect(await closeSimulation(simulation)).toBe(0)
})

test('one that worked in silence and then stands still is found within two', async () => {
  const simulation = await start(100)
  const { clock, supervisor, server } = simulation
  const rollout = supervisor.submit({ prompt: [1, 50] })
  await clock.advance(2_550)
  server('a').freeze()
  const { completions } = await clock.run(rollout.result)
  const [first] = completions[0]!.segments
  expect(first!.reason).toBe('timedOut')
  expect(first!.endedAt).toBeLessThanOrEqual(2_550 + 2 * WATCHDOG_MS)
  expect(await closeSimulation(simulation)).toBe(0)
})

test.each(['update', 'pause'])(
  'a server that stands still in the drain of an %s keeps nobody waiting',
  async (what) => {
    const simulation = await start(10)
    const { clock, supervisor, server } = simulation
    const rollout = supervisor.submit({ prompt: [1, 50] })
    await clock.advance(25)
    server('a').freeze()
    const drained: Promise<unknown> =
      what === 'pause' ? supervisor.pause() : supervisor.updateWeights({ version: 1, path: '/w/1', mode: 'drain' })
    await clock.run(drained)
    expect(clock.now()).toBeLessThan(2 * WATCHDOG_MS)
    await supervisor.resume()
    const { completions } = await clock.run(rollout.result)
    expect(completions[0]!.segments.map(({ instance, reason }) => [instance, reason])).toEqual([
      ['a', 'timedOut'],
      ['b', 'finished'],
    ])
    server('a').thaw()
    expect(await closeSimulation(simulation)).toBe(0)
  },
)

test('a server that a pause has frozen stands still by order', async () => {
  const simulation = await start(10)
  const { clock, supervisor } = simulation
  const rollout = supervisor.submit({ prompt: [1, 50] })
  await clock.advance(25)
  await clock.run(supervisor.pause({ mode: 'keep' }))
  await clock.advance(10 * WATCHDOG_MS)
  await clock.run(supervisor.resume())
  const { completions } = await clock.run(rollout.result)
  expect(completions[0]!.segments.map(({ instance, reason }) => [instance, reason])).toEqual([['a', 'finished']])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('2,000 streams of 500 tokens at 5 tokens/s over 4 servers: no circuit opens, nothing is tried again (F5)', async () => {
  const fleet = Array.from({ length: 4 }, () => ({ capacity: 500, tokenMs: 200, chunkTokens: 10 }))
  // Every default but this one; the benchmark streams-2000 is the same over HTTP.
  const simulation = await startSimulation(fleet, { watchdogMs: 3_000 })
  const { clock, supervisor } = simulation
  const states = new Set<string>()
  supervisor.events$.subscribe((event) => {
    if (event.type === 'instance.state') states.add(event.state.split('.')[0]!)
  })
  const rollouts = [0, 1].map(() => supervisor.submit({ prompt: [1, 500], samples: 1_000 }))
  const groups = await clock.run(Promise.all(rollouts.map(({ result }) => result)))
  expect(groups.map(({ complete }) => complete)).toEqual([true, true])
  expect(states).toEqual(new Set())
  expect(groups.flatMap(({ completions }) => completions).filter(({ segments }) => segments.length !== 1)).toEqual([])
  expect(await closeSimulation(simulation)).toBe(0)
})
