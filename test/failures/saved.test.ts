/**
 * Saved and restored over real HTTP: the samples of the second life go on from the tokens of the first, and every log-probability is that of the
 * weights, recomputed from nothing (I8, decision 29).
 */
import { expect, test } from 'vitest'
import type { SavedState } from '../../src/index.ts'
import { engines, expectEmpty, expectExact, PROFILES, supervise, task, until } from './fleet.ts'

const MAX_TOKENS = 120

test.each(PROFILES.filter(({ tokenIds }) => tokenIds))(
  '$name: partial tokens go on in another run',
  async (profile) => {
    const servers = await engines(profile, 2)
    const one = await supervise(profile, servers)
    const first = one.submit({ ...task(profile, 12, MAX_TOKENS), id: 'group' })
    await until('tokens have come', () => servers.every(({ counters }) => counters.tokensDelivered > 80))
    const saved = JSON.parse(JSON.stringify(one.save())) as SavedState
    await one.close()
    expect((await first.result).complete).toBe(false)

    const two = await supervise(profile, servers, { restore: saved })
    const { completions } = await two.restored[0]!.result
    expect(completions).toHaveLength(12)
    for (const completion of completions) expectExact(profile, completion, MAX_TOKENS)
    const joined = completions.filter(({ segments }) => segments.length > 1 && segments[0]!.end > 0)
    expect(joined.length).toBeGreaterThan(0)
    await expectEmpty(two, servers)
  },
)
