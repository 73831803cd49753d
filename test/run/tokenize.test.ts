/**
 * Text and chat prompts become token ids at admission (decision 21): once a task, without a slot, in the order of submission where possible,
 * and never in the way of others.
 */
import { expect, test } from 'vitest'
import { refusesChat } from '../../src/engines/refusals.ts'
import { type DriverFactory, type EngineDriver, RolloutError, type SupervisorOptions } from '../../src/index.ts'
import { simulateServer } from '../../src/testing/simulated-fleet.ts'
import type { VirtualClock } from '../../src/testing/virtual-clock.ts'
import { closeSimulation, simulate } from '../simulate.ts'

type Tokenize = NonNullable<EngineDriver['tokenize']>

/** A fleet whose servers make `"7 5"` into `[7, 5]` in 20 ms, each in its own way where it has one. */
async function fleet(ways: readonly (Tokenize | null | undefined)[], options: SupervisorOptions = {}) {
  const simulation = simulate([], { minInstances: 0, ...options })
  const { clock, supervisor } = simulation
  const asked: string[] = []
  const sent: unknown[] = []
  ways.forEach((way, index) => {
    const id = String.fromCharCode(97 + index)
    const server = simulateServer(clock, { id, capacity: 2, chunkTokens: 1 })
    const engine: DriverFactory = (given) => {
      const { tokenize: _, ...driver } = server.engine(given)
      const changed: EngineDriver = {
        ...driver,
        refuses: refusesChat,
        generate(request, signal) {
          sent.push(request.prompt)
          const { prompt } = request
          return driver.generate(typeof prompt === 'string' ? { ...request, prompt: idsOf(prompt) } : request, signal)
        },
      }
      if (way === null) return changed
      return {
        ...changed,
        tokenize(prompt, signal) {
          asked.push(`${id} ${String(prompt)}`)
          return (way ?? ((text) => later(clock, 20, idsOf(text))))(prompt, signal)
        },
      }
    }
    supervisor.add({ id, url: server.url, engine })
  })
  await clock.run(supervisor.start())
  return { ...simulation, asked, sent }
}

const idsOf = (text: unknown): number[] => String(text).split(' ').map(Number)
const later = <T>(clock: VirtualClock, ms: number, value: T): Promise<T> =>
  new Promise((resolve) => void clock.setTimeout(() => resolve(value), ms))
const fails = (code: ConstructorParameters<typeof RolloutError>[0], status?: number): Tokenize => {
  const error = new RolloutError(code, `it says ${code}`, status === undefined ? {} : { status })
  return () => Promise.reject(error)
}

test('a group is made into token ids once, and holds no slot meanwhile', async () => {
  const simulation = await fleet([undefined])
  const { clock, supervisor, asked, sent } = simulation
  const rollout = supervisor.submit({ prompt: '7 5', samples: 4 })
  await clock.advance(19)
  expect(supervisor.getSnapshot()).toMatchObject({ waiting: { tokenizing: 4 }, instances: [{ running: 0 }] })
  expect([...rollout.waitingFor.values()]).toEqual(new Array(4).fill('tokenizing'))
  const { complete } = await clock.run(rollout.result)
  expect([complete, asked]).toEqual([true, ['a 7 5']])
  expect(sent).toEqual(new Array(4).fill([7, 5]))
  expect(await closeSimulation(simulation)).toBe(0)
})

test('others go past it, and it stands where it was submitted when its tokens come (D15)', async () => {
  const simulation = await fleet([undefined])
  const { clock, supervisor } = simulation
  const order: string[] = []
  supervisor.events$.subscribe((event) => {
    if (event.type === 'sample.placed') order.push(event.taskId)
  })
  for (const id of ['first', 'second']) supervisor.submit({ id, prompt: [1, 10] })
  supervisor.submit({ id: 'text', prompt: '7 5' })
  for (const id of ['third', 'fourth']) supervisor.submit({ id, prompt: [1, 10] })
  await clock.run(supervisor.drainAll())
  expect(order).toEqual(['first', 'second', 'text', 'third', 'fourth'])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('a server without a tokenizer is left out, and one that says so is not asked again', async () => {
  const simulation = await fleet([null, fails('INSTANCE_FAULT', 404), undefined])
  const { clock, supervisor, asked, sent } = simulation
  for (const prompt of ['7 5', '8 5', '9 5']) {
    supervisor.submit({ prompt })
    await clock.run(supervisor.drainAll())
  }
  expect(asked.filter((each) => each.startsWith('b')).length).toBe(1)
  expect(asked.filter((each) => each.startsWith('c')).length).toBe(3)
  expect(sent.every(Array.isArray)).toBe(true)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('where no server can, text is sent as it is and begins again when it is interrupted, and chat fails', async () => {
  const simulation = await fleet([fails('INSTANCE_FAULT', 404), null])
  const { clock, supervisor, sent } = simulation
  const text = supervisor.submit({ prompt: '7 20' })
  const chat = supervisor.submit({ prompt: [{ role: 'user', content: '7 5' }] })
  await clock.advance(100)
  await clock.run(supervisor.remove('a'))
  const [completion] = (await clock.run(text.result)).completions
  expect(sent.filter((each) => each === '7 20').length).toBe(completion!.segments.length)
  expect(completion!.tokenIds.length).toBe(20)
  expect((await chat.result).missing).toMatchObject([{ outcome: 'failed', error: { code: 'INSTANCE_FAULT' } }])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('a busy server is asked again, a failing one too, and after too many attempts text goes as it is', async () => {
  let busy = 3
  const simulation = await fleet([() => (busy-- > 0 ? fails('BUSY')('', undefined) : Promise.resolve([7, 5]))])
  const { clock, supervisor, sent } = simulation
  expect((await clock.run(supervisor.submit({ prompt: '7 5' }).result)).complete).toBe(true)
  expect([clock.now(), sent]).toEqual([100 + 200 + 400 + 50, [[7, 5]]])
  expect(await closeSimulation(simulation)).toBe(0)

  const failing = await fleet([fails('ENGINE_ERROR')], { retry: { attempts: 3 } })
  const group = await failing.clock.run(failing.supervisor.submit({ prompt: '7 5' }).result)
  expect([group.complete, failing.asked.length, failing.sent]).toEqual([true, 3, ['7 5']])
  expect(await closeSimulation(failing)).toBe(0)
})

test('cancelled, expired or closed meanwhile, it ends at once, and the call with it (I11, I12)', async () => {
  const ended: string[] = []
  const never: Tokenize = (prompt, signal) =>
    new Promise((_, reject) => {
      signal!.addEventListener('abort', () => {
        ended.push(String(prompt))
        reject(signal!.reason)
      })
    })
  const simulation = await fleet([never], { timeouts: { waitMs: 500 } })
  const { clock, supervisor } = simulation
  const [cancelled, expired] = ['1 5', '2 5'].map((prompt) => supervisor.submit({ prompt }))
  await clock.advance(10)
  cancelled!.cancel()
  await clock.settle()
  expect((await cancelled!.result).completions[0]!.outcome).toBe('cancelled')
  expect((await clock.run(expired!.result)).completions[0]).toMatchObject({ error: { code: 'WAIT_TIMEOUT' } })
  const closed = supervisor.submit({ prompt: '3 5' })
  expect(await closeSimulation(simulation)).toBe(0)
  expect((await closed.result).completions[0]).toMatchObject({ outcome: 'cancelled', error: { code: 'CLOSED' } })
  expect(ended).toEqual(['1 5', '2 5', '3 5'])
})

test('a server is asked for few prompts at once, and none while its gate is closed', async () => {
  let most = 0
  let now = 0
  const simulation = await fleet([
    async (prompt) => {
      most = Math.max(most, ++now)
      await later(simulation.clock, 20, null)
      now--
      return idsOf(prompt)
    },
  ])
  const { clock, supervisor, asked } = simulation
  await clock.run(supervisor.pause())
  for (let key = 0; key < 40; key++) supervisor.submit({ prompt: `${key} 5` })
  await clock.advance(1_000)
  expect(asked).toEqual([])
  await supervisor.resume()
  await clock.run(supervisor.drainAll())
  expect([most, asked.length]).toEqual([8, 40])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('trySubmit takes text where a slot is free that no text before it waits for', async () => {
  const simulation = await fleet([undefined])
  const { clock, supervisor } = simulation
  const taken = ['1 5', '2 5', '3 5'].map((prompt) => supervisor.trySubmit({ prompt }) !== null)
  expect(taken).toEqual([true, true, false])
  await clock.run(supervisor.drainAll())
  expect(supervisor.getSnapshot().conservation).toMatchObject({ submitted: 2, ended: { completed: 2 } })
  expect(await closeSimulation(simulation)).toBe(0)
})

test('before a server was there it waits, and a server that is away is waited for where no other takes the prompt', async () => {
  const simulation = simulate([], { minInstances: 0 })
  const { clock, supervisor } = simulation
  await clock.run(supervisor.start())
  const rollout = supervisor.submit({ prompt: '7 5' })
  await clock.advance(1_000)
  expect([...rollout.waitingFor.values()]).toEqual(['tokenizing'])
  const server = simulateServer(clock, { id: 'late' })
  server.die()
  const engine: DriverFactory = (given) => ({ ...server.engine(given), tokenize: async (text) => idsOf(text) })
  supervisor.add({ id: 'late', url: server.url, engine })
  await clock.advance(5_000)
  expect([...rollout.waitingFor.values()]).toEqual(['tokenizing'])
  server.revive()
  expect((await clock.run(rollout.result)).complete).toBe(true)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('text that no context holds is sent as it is, for the server to refuse, and keeps no tokenizer busy (F4)', async () => {
  const { clock, asked, sent, ...simulation } = await fleet([undefined])
  const prompt = `7 ${'5'.padStart(4 * 1024 * 1024, '0')}`
  const [completion] = (await clock.run(simulation.supervisor.submit({ prompt }).result)).completions
  expect(asked).toEqual([])
  expect(sent[0] === prompt).toBe(true)
  expect(completion!.outcome).toBe('completed')
  expect(await closeSimulation({ clock, ...simulation })).toBe(0)
})
