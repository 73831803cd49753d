/**
 * Which instances get a sample: machines of the user's own, and fleets whose instances differ.
 */
import { expect, test } from 'vitest'
import { assign, emit, setup } from 'xstate'
import type {
  InstanceContext,
  InstanceEmitted,
  InstanceInput,
  InstanceMachineEvent,
  instanceMachine,
} from '../../machines/index.ts'
import { closeSimulation, startSimulation } from '../simulate.ts'

/** Knows probes, leases and new weights, and nothing else: no suspicion, no circuit. */
const plainMachine = setup({
  types: {
    context: {} as InstanceContext,
    input: {} as InstanceInput,
    events: {} as InstanceMachineEvent,
    emitted: {} as InstanceEmitted,
  },
}).createMachine({
  context: ({ input }) => ({ ...instanceMachineContext, ...input }),
  initial: 'connecting',
  on: { 'instance.stop': '.stopped', 'instance.drain': '.stopped' },
  states: {
    connecting: {
      on: {
        'probe.succeeded': { target: 'serving', actions: assign({ capacity: ({ event }) => event.capacity }) },
      },
    },
    serving: {
      entry: emit(({ context }) => ({ type: 'opened', limit: context.capacity }) as const),
      on: {
        'lease.granted': { actions: assign({ leases: ({ context }) => context.leases + 1 }) },
        'lease.released': { actions: assign({ leases: ({ context }) => context.leases - 1 }) },
        'weights.loaded': { actions: assign({ weightVersion: ({ event }) => event.weightVersion }) },
        'gate.closed': 'paused',
      },
    },
    paused: {
      entry: emit({ type: 'closed' } as const),
      on: {
        'gate.opened': 'serving',
        'weights.loaded': { actions: assign({ weightVersion: ({ event }) => event.weightVersion }) },
      },
    },
    stopped: { type: 'final', entry: emit({ type: 'left' } as const) },
  },
})

const instanceMachineContext = {
  leases: 0,
  failures: 0,
  openings: 0,
  weightVersion: null,
  drainMs: null,
  suspected: false,
}

test('a machine that does not know suspicion is asked for, and starves nobody (F1, I7)', async () => {
  const simulation = await startSimulation([{ capacity: 1 }, { capacity: 1 }], {
    instanceMachine: plainMachine as unknown as typeof instanceMachine,
  })
  const { clock, supervisor } = simulation
  await clock.run(supervisor.updateWeights({ version: 1, path: '/w/1' }))
  // Both have been silent for so long that they may have restarted.
  await clock.advance(60_000)
  const startedAt = clock.now()
  const group = await clock.run(supervisor.submit({ prompt: [1, 5], samples: 4 }).result)
  expect(group.complete).toBe(true)
  expect(new Set(group.completions.map(({ segments }) => segments[0]!.instance))).toEqual(new Set(['a', 'b']))
  expect(clock.now() - startedAt).toBe(100)
  expect(await closeSimulation(simulation)).toBe(0)
})
