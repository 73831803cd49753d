/**
 * Slots that change hands: what the instance's machine is told, and who may refuse.
 */
import { expect, test } from 'vitest'
import { instanceMachine } from '../../machines/index.ts'
import type { SupervisorOptions } from '../../src/index.ts'
import { closeSimulation, startSimulation } from '../simulate.ts'

/** Counts the events of leases and freed slots that machines are sent. */
function counting(): {
  readonly inspect: NonNullable<SupervisorOptions['inspect']>
  readonly counts: Record<string, number>
} {
  const counts: Record<string, number> = {}
  return {
    counts,
    inspect(event) {
      if (event.type !== '@xstate.event' || !/^lease|slot/.test(event.event.type)) return
      counts[event.event.type] = (counts[event.event.type] ?? 0) + 1
    },
  }
}

test('under load a sample costs two machine events: the freed slot, and the lease that passes on', async () => {
  const { inspect, counts } = counting()
  const simulation = await startSimulation([{ capacity: 2 }], { inspect })
  const { clock, supervisor, servers } = simulation
  const group = await clock.run(supervisor.submit({ prompt: [7, 5], samples: 10 }).result)
  await clock.settle()
  expect(group.complete).toBe(true)
  expect(counts).toEqual({ 'lease.granted': 2, 'slot.freed': 8, 'lease.passed': 8, 'lease.released': 2 })
  expect(servers[0]!.maxRunning).toBe(2)
  expect(supervisor.actor.getSnapshot().children[servers[0]!.id]!.getSnapshot().context.leases).toBe(0)
  expect(await closeSimulation(simulation)).toBe(0)
})

test("a machine of the user's own that begins to refuse is handed no slot, and takes work again when it agrees", async () => {
  let open = true
  const { inspect, counts } = counting()
  const simulation = await startSimulation([{ capacity: 2 }], {
    inspect,
    instanceMachine: instanceMachine.provide({ guards: { takesWork: () => open } }),
  })
  const { clock, supervisor, servers } = simulation
  let ended = 0
  supervisor.completions$.subscribe(() => {
    if (++ended === 4) open = false
  })
  const rollout = supervisor.submit({ prompt: [7, 5], samples: 8 })
  await clock.advance(60_000)
  expect([ended, servers[0]!.running, supervisor.getSnapshot().conservation.waiting]).toEqual([5, 0, 3])
  open = true
  await clock.advance(1_000)
  expect((await clock.run(rollout.result)).complete).toBe(true)
  expect(counts['lease.passed']).toBe(3 + 1)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('a guard that only counts leases keeps its limit when slots change hands (I3)', async () => {
  const simulation = await startSimulation([{ capacity: 4 }], {
    instanceMachine: instanceMachine.provide({ guards: { takesWork: ({ context }) => context.leases < 2 } }),
  })
  const { clock, supervisor, servers } = simulation
  const { result } = supervisor.submit({ prompt: [7, 5], samples: 9 })
  expect((await clock.run(result)).complete).toBe(true)
  expect(servers[0]!.maxRunning).toBe(2)
  expect(await closeSimulation(simulation)).toBe(0)
})

test('whoever is told of a release may drain the instance: it leaves, and the next sample runs elsewhere (D9)', async () => {
  const simulation = await startSimulation([{ capacity: 1 }, { capacity: 1 }])
  const { clock, supervisor } = simulation
  let drained = ''
  supervisor.events$.subscribe((event) => {
    if (event.type !== 'sample.released' || drained !== '') return
    drained = event.instance
    void supervisor.drain(event.instance)
  })
  const group = await clock.run(supervisor.submit({ prompt: [7, 5], samples: 6 }).result)
  await clock.settle()
  expect(group.complete).toBe(true)
  expect(group.completions.filter(({ segments }) => segments[0]!.instance === drained)).toHaveLength(1)
  expect(supervisor.getSnapshot().instances.map(({ id }) => id)).not.toContain(drained)
  expect(await closeSimulation(simulation)).toBe(0)
})
