/**
 * Episodes: turns, tools and one exact trajectory, turn by turn like any other work (I7, I8, F14).
 */
import { expect, test } from 'vitest'
import type { Completion, SupervisorEvent } from '../../src/index.ts'
import { logprobOf } from '../../src/testing/simulated-fleet.ts'
import { startSimulation } from '../simulate.ts'
import { expectNothingLeft, PROMPT, sleep, tokens } from './episode-fixtures.ts'

test('turns and tools make one trajectory, exact to the token (I8)', async () => {
  const simulation = await startSimulation([{ capacity: 2, chunkTokens: 2 }])
  const { clock, supervisor } = simulation
  const told: SupervisorEvent[] = []
  supervisor.events$.subscribe((event) => told.push(event))
  const result = await clock.run(
    supervisor.episode(
      async (session) => {
        const first = await session.generate({ append: PROMPT, sampling: { maxTokens: 3 } })
        expect([...first.tokenIds]).toEqual(tokens(0, 3))
        expect([...session.tokenIds]).toEqual([...PROMPT, ...tokens(0, 3)])
        await sleep(clock, 100)
        await session.generate({ append: tokens(3, 5) })
        await session.generate({ append: Int32Array.from(tokens(9, 10)), sampling: { maxTokens: 2 } })
        return 0.5
      },
      { sampling: { maxTokens: 4 }, meta: { row: 3 } },
    ),
  )
  const { trajectory } = result
  expect(result).toMatchObject({
    episodeId: 'episode-000000001',
    kind: 'rollout',
    outcome: 'completed',
    value: 0.5,
    error: null,
    earlier: [],
    attempts: 1,
    totalMs: 190,
    meta: { row: 3 },
  })
  expect([...trajectory.tokenIds]).toEqual([...PROMPT, ...tokens(0, 12)])
  expect([...trajectory.mask]).toEqual([0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 1, 1])
  trajectory.mask.forEach((wrote, at) => {
    expect(trajectory.logprobs[at]).toBe(wrote === 1 ? logprobOf(null, at - 2) : 0)
  })
  expect(trajectory.versions).toEqual([
    { version: null, start: 2, end: 5 },
    { version: null, start: 7, end: 11 },
    { version: null, start: 12, end: 14 },
  ])
  expect(trajectory.turns.map(({ completion }) => [completion.id, completion.meta])).toEqual([
    ['episode-000000001#1/0', { row: 3 }],
    ['episode-000000001#2/0', { row: 3 }],
    ['episode-000000001#3/0', { row: 3 }],
  ])
  expect(told.filter(({ type }) => type.startsWith('episode'))).toEqual([
    { type: 'episode.began', at: 0, episodeId: 'episode-000000001', kind: 'rollout' },
    {
      type: 'episode.ended',
      at: 190,
      episodeId: 'episode-000000001',
      kind: 'rollout',
      outcome: 'completed',
      turns: 3,
      tokens: 14,
    },
  ])
  expect(supervisor.getSnapshot().episodes).toEqual({
    submitted: 1,
    running: 0,
    ended: { completed: 1, failed: 0, cancelled: 0, expired: 0 },
  })
  await expectNothingLeft(simulation)
})

test('the slot is free while tools run, and a later turn comes before new work', async () => {
  const simulation = await startSimulation([{ capacity: 1 }])
  const { clock, supervisor } = simulation
  const ended: string[] = []
  supervisor.completions$.subscribe(({ id }) => ended.push(id))
  const episode = supervisor.episode(
    async (session) => {
      await session.generate({ append: PROMPT })
      await sleep(clock, 15)
      await session.generate({})
    },
    { id: 'talk', sampling: { maxTokens: 1 } },
  )
  for (const id of ['x', 'y', 'z']) supervisor.submit({ id, prompt: [1, 1] })
  await clock.run(Promise.all([episode, supervisor.drainAll()]))
  expect(ended).toEqual(['talk#1/0', 'x/0', 'y/0', 'talk#2/0', 'z/0'])
  await expectNothingLeft(simulation)
})

test('turns go where their prefix is, and elsewhere at once when that is full (I7)', async () => {
  const simulation = await startSimulation([{ capacity: 1 }, { capacity: 1 }, { capacity: 1 }])
  const { clock, supervisor } = simulation
  const where: string[] = []
  const note = ({ segments }: Completion) => where.push(segments[0]!.instance)
  const episode = supervisor.episode(
    async (session) => {
      note(await session.generate({ append: PROMPT, sampling: { maxTokens: 1 } }))
      note(await session.generate({ sampling: { maxTokens: 1 } }))
      const other = supervisor.submit({ prompt: [1, 5], sessionId: 'shared' })
      await clock.settle()
      note(await session.generate({ sampling: { maxTokens: 1 } }))
      await other.result
    },
    { sessionId: 'shared' },
  )
  await clock.run(episode)
  expect(where[1]).toBe(where[0])
  expect(where[2]).not.toBe(where[0])
  await expectNothingLeft(simulation)
})

test('interruption, retry and versions work turn by turn', async () => {
  const simulation = await startSimulation([
    { capacity: 1, chunkTokens: 1 },
    { capacity: 1, chunkTokens: 1 },
  ])
  const { clock, supervisor, server } = simulation
  const episode = supervisor.episode(async (session) => {
    const first = await session.generate({ append: PROMPT, sampling: { maxTokens: 20 } })
    await supervisor.updateWeights({ version: 4, path: '/w/4' })
    await session.generate({ append: tokens(20, 21), sampling: { maxTokens: 5 } })
    return first.segments
  })
  await clock.advance(75)
  server('a').die()
  await clock.advance(5)
  server('a').revive()
  const { value, trajectory } = await clock.run(episode)
  expect(value!.map(({ instance, reason }) => [instance, reason])).toEqual([
    ['a', 'failed'],
    ['b', 'finished'],
  ])
  expect([...trajectory.tokenIds]).toEqual([...PROMPT, ...tokens(0, 26)])
  expect(trajectory.versions).toEqual([
    { version: null, start: 2, end: 22 },
    { version: 4, start: 23, end: 28 },
  ])
  await expectNothingLeft(simulation)
})

test('paused, an episode waits with its next turn, as samples do', async () => {
  const simulation = await startSimulation([{ capacity: 1 }])
  const { clock, supervisor } = simulation
  const episode = supervisor.episode(async (session) => {
    await session.generate({ append: PROMPT, sampling: { maxTokens: 2 } })
    return session.generate({ sampling: { maxTokens: 2 } })
  })
  await clock.settle()
  await clock.run(supervisor.pause())
  await clock.advance(500)
  expect(supervisor.getSnapshot()).toMatchObject({ waiting: { phase: 1 }, episodes: { running: 1 } })
  await supervisor.resume()
  expect((await clock.run(episode)).totalMs).toBe(540)
  await expectNothingLeft(simulation)
})

test("turns are in completions$, and not in completions(): an episode's product is its trajectory", async () => {
  const simulation = await startSimulation([{ capacity: 1 }])
  const { clock, supervisor } = simulation
  const all: string[] = []
  supervisor.completions$.subscribe(({ id }) => all.push(id))
  const reader = supervisor.completions({ highWaterMark: 1 })
  const next = reader.next()
  await clock.run(
    supervisor.episode((session) => session.generate({ append: PROMPT, sampling: { maxTokens: 2 } }), { id: 'e' }),
  )
  supervisor.submit({ id: 'plain', prompt: [1, 1] })
  expect((await clock.run(next)).value.id).toBe('plain/0')
  expect(all).toEqual(['e#1/0', 'plain/0'])
  await expectNothingLeft(simulation)
})

test('a reader with no room holds new episodes back, and lets later turns go on (F14)', async () => {
  const simulation = await startSimulation([{ capacity: 1 }])
  const { clock, supervisor } = simulation
  const reader = supervisor.completions({ highWaterMark: 1 })
  void reader.next()
  const began: number[] = []
  const code = (turns: number) => async (session: { generate(turn: object): Promise<unknown> }) => {
    for (let turn = 0; turn < turns; turn++) {
      await session.generate(turn === 0 ? { append: PROMPT } : {})
      began.push(turns)
    }
  }
  const sampling = { maxTokens: 2 }
  const running = supervisor.episode(code(5), { sampling })
  for (const id of ['x', 'y']) supervisor.submit({ id, prompt: [1, 1] })
  await clock.advance(60)
  const held = supervisor.episode(code(1), { sampling })
  await clock.run(running)
  await clock.advance(500)
  expect(began).toEqual([5, 5, 5, 5, 5])
  await reader.next()
  await clock.run(held)
  await reader.return!()
  await expectNothingLeft(simulation)
})

test('drainAll waits for episodes that are between two turns', async () => {
  const simulation = await startSimulation([{}])
  const { clock, supervisor } = simulation
  let over = false
  const episode = supervisor.episode(async (session) => {
    await session.generate({ append: PROMPT, sampling: { maxTokens: 2 } })
    await sleep(clock, 1_000)
    await session.generate({ sampling: { maxTokens: 2 } })
    over = true
  })
  await clock.run(supervisor.drainAll())
  expect(over).toBe(true)
  await episode
  await expectNothingLeft(simulation)
})

test('evaluations of episodes come before rollouts', async () => {
  const simulation = await startSimulation([{ capacity: 1 }])
  const { clock, supervisor } = simulation
  const ended: string[] = []
  supervisor.completions$.subscribe(({ id, kind }) => ended.push(`${id} ${kind}`))
  for (const id of ['x', 'y']) supervisor.submit({ id, prompt: [1, 1] })
  const { kind } = await clock.run(
    supervisor.episode((session) => session.generate({ append: [2, 1] }), {
      id: 'e',
      kind: 'evaluation',
      priority: -3,
    }),
  )
  await clock.run(supervisor.drainAll())
  expect(kind).toBe('evaluation')
  expect(ended).toEqual(['x/0 rollout', 'e#1/0 evaluation', 'y/0 rollout'])
  await expectNothingLeft(simulation)
})
