/**
 * Episodes over real HTTP, in every wire protocol: exact trajectories whatever happens to a server between or in turns (I8), and nothing
 * left behind wherever they are aborted (D23, I5, F17).
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import type { EpisodeSession, Trajectory } from '../../src/index.ts'
import { scoreTokens, textOf } from '../../src/testing/index.ts'
import { engines, expectEmpty, PROFILES, supervise, until, WEIGHTS } from './fleet.ts'

const PROMPT = [5, 3, 12]
const withIds = PROFILES.filter(({ tokenIds }) => tokenIds)

/** Every token that the policy wrote has the log-probability of the weights, given all tokens before it, recomputed from nothing. */
function expectExact({ tokenIds, mask, logprobs, turns }: Trajectory): void {
  expect(mask).toHaveLength(tokenIds.length)
  const wrote = new Uint8Array(tokenIds.length)
  for (const { start, end } of turns) {
    wrote.fill(1, start, end)
    const scores = scoreTokens(WEIGHTS, [...tokenIds.subarray(0, start)], [...tokenIds.subarray(start, end)])
    for (const [at, score] of scores.entries()) expect(logprobs[start + at]).toBeCloseTo(score, 4)
  }
  expect(mask).toEqual(wrote)
}

describe.each(withIds)('$name', (profile) => {
  test('I8: the trajectory is exact to the token, and later turns find their prefix in the cache', async () => {
    const servers = await engines(profile, 3)
    const supervisor = await supervise(profile, servers)
    const where: string[] = []
    const { outcome, value, trajectory } = await supervisor.episode(
      async (session) => {
        for (let turn = 0; turn < 4; turn++) {
          const append = turn === 0 ? PROMPT : [turn, 14]
          where.push((await session.generate({ append })).segments[0]!.instance)
        }
        return 'won'
      },
      { sampling: { maxTokens: 16 } },
    )
    expect([outcome, value, trajectory.tokenIds.length]).toEqual(['completed', 'won', 3 + 4 * 16 + 3 * 2])
    expect([...trajectory.tokenIds.subarray(0, 3)]).toEqual(PROMPT)
    expect([...trajectory.tokenIds.subarray(19, 21)]).toEqual([1, 14])
    expectExact(trajectory)
    expect(new Set(where).size).toBe(1)
    const cached = servers.map(({ counters }) => counters.cachedTokens)
    if (profile.name !== 'llama-server') expect(Math.max(...cached)).toBeGreaterThan(0)
    await expectEmpty(supervisor, servers)
  })

  test('F7: a server that dies in a turn, or between two, loses no token of the trajectory', async () => {
    const servers = await engines(profile, 2)
    const supervisor = await supervise(profile, servers)
    const home = (instance: string) => servers.find(({ url }) => url.endsWith(instance))!
    const { outcome, value, trajectory } = await supervisor.episode(
      async (session) => {
        const first = await session.generate({ append: PROMPT })
        await home(first.segments[0]!.instance).faults.die()
        const second = await session.generate({ append: [1] })
        const survivor = home(second.segments.at(-1)!.instance)
        const { tokensDelivered } = survivor.counters
        const third = session.generate({ append: [2], sampling: { maxTokens: 200 } })
        await until('tokens have come', () => survivor.counters.tokensDelivered > tokensDelivered + 20)
        survivor.faults.cutOpen()
        return (await third).segments.map(({ reason }) => reason)
      },
      { sampling: { maxTokens: 30 } },
    )
    expect([outcome, value]).toEqual(['completed', ['failed', 'finished']])
    expect(trajectory.tokenIds).toHaveLength(3 + 30 + 1 + 30 + 1 + 200)
    expectExact(trajectory)
    await supervisor.drainAll()
  })

  test.each(['in the first turn', 'between turns', 'in the second turn'])(
    'D23, F3: aborted %s, nothing is left',
    async (moment) => {
      const servers = await engines(profile, 2)
      const supervisor = await supervise(profile, servers)
      const controller = new AbortController()
      let at = ''
      const code = async (session: EpisodeSession): Promise<void> => {
        const turn = async (name: string, maxTokens: number): Promise<void> => {
          const work = session.generate({ append: PROMPT, sampling: { maxTokens } })
          await until('the turn runs', () => servers.some(({ counters }) => counters.running > 0))
          at = name
          await work
        }
        await turn('in the first turn', moment === 'in the first turn' ? 3_000 : 20)
        at = 'between turns'
        await sleep(moment === 'between turns' ? 3_600_000 : 0, null, { signal: session.signal })
        await turn('in the second turn', 3_000)
      }
      const episode = supervisor.episode(code, { signal: controller.signal })
      await until(moment, () => at === moment)
      controller.abort(new Error('enough'))
      const { outcome, error } = await episode
      expect([outcome, error!.code]).toEqual(['cancelled', 'CANCELLED'])
      expect(supervisor.getSnapshot()).toMatchObject({
        conservation: { waiting: 0, running: 0 },
        episodes: { running: 0 },
      })
      await expectEmpty(supervisor, servers)
    },
  )
})

test.each(PROFILES)(
  '$name: text and chat go on turn by turn, in one sequence where the server shows the tokens',
  async (profile) => {
    const servers = await engines(profile, 2)
    const supervisor = await supervise(profile, servers)
    const { outcome, error, trajectory, earlier } = await supervisor.episode(
      async (session) => {
        const first = await session.generate({ append: textOf(PROMPT) })
        await session.generate({ append: '77' })
        return first.text
      },
      { sampling: { maxTokens: 8 } },
    )
    expect(error).toBe(null)
    expect(outcome).toBe('completed')
    const turns = [...earlier, trajectory].flatMap((each) => each.turns)
    expect(turns.map(({ completion }) => completion.text!.length)).toEqual([8, 8])
    if (profile.tokenIds) {
      expect(earlier).toEqual([])
      expect(trajectory.tokenIds).toHaveLength(3 + 8 + 2 + 8)
      expectExact(trajectory)
    } else {
      expect(trajectory.tokenIds).toHaveLength(0)
    }
    await expectEmpty(supervisor, servers)
  },
)

test('sglang: chat messages, and exact token ids after them', async () => {
  const profile = PROFILES[0]!
  const servers = await engines(profile, 1)
  const supervisor = await supervise(profile, servers)
  const { error, trajectory, earlier } = await supervisor.episode(
    async (session) => {
      await session.generate({ append: [{ role: 'user', content: '12' }] })
      await session.generate({ append: [{ role: 'tool', content: '3' }] })
      await session.generate({ append: [4, 5] })
    },
    { sampling: { maxTokens: 8 } },
  )
  expect(error).toBe(null)
  for (const each of [...earlier, trajectory]) expectExact(each)
  const { start } = trajectory.turns.at(-1)!
  expect([...trajectory.tokenIds.subarray(start - 2, start)]).toEqual([4, 5])
  await expectEmpty(supervisor, servers)
})
