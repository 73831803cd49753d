/**
 * The whole supervisor, from a task to its completions.
 */
import { expect, test } from 'vitest'
import { createSupervisor } from '../src/index.ts'
import { simulateServer, tokenOf } from '../src/testing/simulated-fleet.ts'
import { createVirtualClock } from '../src/testing/virtual-clock.ts'

test('runs a task end to end on a simulated fleet', async () => {
  const clock = createVirtualClock()
  const servers = ['a', 'b'].map((id) => simulateServer(clock, { id, capacity: 2 }))
  const supervisor = createSupervisor({ instances: servers.map(({ id, url, engine }) => ({ id, url, engine })), clock })
  await clock.run(supervisor.start())
  const rollout = supervisor.submit({ prompt: [7, 20], samples: 5, sampling: { maxTokens: 100 } })
  const group = await clock.run(rollout.result)
  expect(group.complete).toBe(true)
  expect(group.completions.map((c) => c.tokenIds.length)).toEqual([20, 20, 20, 20, 20])
  expect([...group.completions[0]!.tokenIds]).toEqual(Array.from({ length: 20 }, (_, i) => tokenOf(7, i)))
  expect(clock.now()).toBe(400)
  await clock.run(supervisor.close())
  expect(clock.pending).toBe(0)
})
