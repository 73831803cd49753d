/**
 * The third case of the mission over real HTTP (A9): an evaluation interrupts rollouts, they go on afterwards, and weight updates in every mode
 * on the way leave every token exact under the version that it is stamped with (I8, R2, R3).
 */
import { describe, expect, test } from 'vitest'
import type { UpdateMode } from '../../src/index.ts'
import { engines, PROFILES, supervise } from '../failures/fleet.ts'
import { numbered, trainer, versioned } from './training.ts'

describe.each(versioned(PROFILES))('on $name', (profile) => {
  test('A9 case 3: an evaluation interrupts rollouts, runs, and they are performed again from their tokens', async () => {
    const supervisor = await supervise(profile, await engines(profile, 2, { capacity: 4 }))
    const train = await trainer(supervisor)
    const rollouts = [0, 1].map((number) => supervisor.submit(numbered(number, 300)))
    while (supervisor.getSnapshot().conservation.running < 8) await new Promise((resolve) => setImmediate(resolve))
    const groups = await supervisor.evaluate([numbered(2, 20, 3)])
    expect(groups.map(({ kind, complete }) => [kind, complete])).toEqual([['evaluation', true]])
    const results = await Promise.all(rollouts.map(({ result }) => result))
    const segments = results.flatMap(({ completions }) => completions.map((each) => each.segments.length))
    expect(segments.filter((count) => count > 1)).toHaveLength(3)
    for (const group of [...results, ...groups]) train.expectExact(group)
    expect(supervisor.getSnapshot().conservation.running).toBe(0)
  })

  test.each<UpdateMode>(['abort', 'restart', 'keep', 'drain'])(
    'R2, R3: updates with %s in the middle of generations leave every token exact',
    async (mode) => {
      const supervisor = await supervise(profile, await engines(profile, 2, { capacity: 4 }))
      const train = await trainer(supervisor)
      const rollouts = [0, 1, 2, 3, 4, 5].map((number) => supervisor.submit(numbered(number, 120)))
      for (let update = 0; update < 3; update++) {
        while (supervisor.getSnapshot().conservation.running === 0)
          await new Promise((resolve) => setImmediate(resolve))
        await train.update({ mode })
      }
      const results = await Promise.all(rollouts.map(({ result }) => result))
      for (const group of results) train.expectExact(group)
      if (mode === 'restart' || mode === 'drain')
        for (const { completions } of results) for (const { versions } of completions) expect(versions).toHaveLength(1)
    },
  )
})
