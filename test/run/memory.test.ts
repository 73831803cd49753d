/**
 * GPU memory that was given away and does not come back at once (decision 8): it is asked for again, and weights that were discarded with it are
 * never sampled from.
 */
import { expect, test } from 'vitest'
import { closeSimulation, type Simulation, startSimulation } from '../simulate.ts'

const stateOf = ({ supervisor }: Simulation, id: string): string =>
  supervisor.getSnapshot().instances.find((each) => each.id === id)!.state

test.each([500, 'hang', 'dieBefore'] as const)(
  'memory that does not come back (%s) is asked for again until it does',
  async (how) => {
    const breaker = { failures: 3, resetMs: 100, maxResetMs: 400 }
    const simulation = await startSimulation([{ capacity: 1 }, { capacity: 1 }], { breaker })
    const { clock, supervisor, server } = simulation
    await clock.run(supervisor.pause({ release: true }))
    const b = server('b')
    b.fail('reclaim', how, 3)
    const { instances } = await clock.run(supervisor.resume())
    expect(instances.map(({ ok, step }) => [ok, step])).toEqual([
      [true, null],
      [false, 'reclaim'],
    ])
    expect(stateOf(simulation, 'b')).toMatch(/^unhealthy/)
    await clock.advance(how === 'hang' ? 25_000 : 1_000)
    if (how === 'dieBefore') {
      b.heal()
      b.revive()
      await clock.advance(1_000)
    }
    expect(b.released).toBe(false)
    const { completions } = await clock.run(supervisor.submit({ prompt: [1, 5], samples: 4 }).result)
    expect(new Set(completions.map(({ segments }) => segments[0]!.instance))).toEqual(new Set(['a', 'b']))
    expect(stateOf(simulation, 'b')).toBe('serving.idle')
    expect(await closeSimulation(simulation)).toBe(0)
  },
)

test('weights that were discarded are not trusted after an update that took the memory back and went no further', async () => {
  const simulation = await startSimulation([{ capacity: 1 }, { capacity: 1, keepsWeights: false }], { minInstances: 0 })
  const { clock, supervisor, server } = simulation
  await clock.run(supervisor.updateWeights({ version: 1, path: '/w/1' }))
  await clock.run(supervisor.pause({ release: true }))
  for (const id of ['a', 'b']) server(id).fail('load', 500)
  const report = await clock.run(
    supervisor.updateWeights({ version: 2, path: '/w/2' }).catch((error: unknown) => error),
  )
  expect(report).toMatchObject({ instances: [{ step: 'quiet' }, { step: 'quiet' }] })
  expect([server('b').released, stateOf(simulation, 'b')]).toEqual([false, 'stale'])
  await clock.run(supervisor.resume())
  await clock.advance(5_000)
  const { completions } = await clock.run(supervisor.submit({ prompt: [1, 5], samples: 4 }).result)
  for (const { versions } of completions) expect(versions).toEqual([{ version: 1, start: 0, end: 5 }])
  expect(await closeSimulation(simulation)).toBe(0)
})
