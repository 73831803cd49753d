/**
 * The run as a statechart: membership of the fleet, phases, and the moments at which waiting samples may be placed.
 *
 * Placement happens in the action `place` and nowhere else, so only on an event to this actor, and only in the phases rollout and
 * evaluation, and in an update that rolls over the fleet while the rest of it serves on (D13, I10). A pause that has to wait for one of
 * these to end is wanted from the moment it was asked for: `place` is told by the context. The machine ships with an empty `place`;
 * createSupervisor provides the real one. Instances are spawned in one batch, because spawning one by one is quadratic in live
 * children, and stopped children are removed.
 */
import { assign, setup, stopChild } from 'xstate'
import { type InstanceInput, instanceMachine } from './instance.ts'

/** What the supervisor machine knows of the run. */
export interface SupervisorContext {
  /** True while the user wants the run paused, whatever phase it is in. */
  readonly paused: boolean
  /** Version of the policy weights that the fleet was last brought to; null in an unversioned fleet. */
  readonly version: number | null
}

/** What the supervisor machine is told. */
export type SupervisorMachineEvent =
  | { readonly type: 'instances.added'; readonly instances: readonly InstanceInput[] }
  | { readonly type: 'fleet.ready' }
  /** Something changed that may let a waiting sample run. */
  | { readonly type: 'task.submitted' }
  | { readonly type: 'slot.freed' }
  | { readonly type: 'instance.opened' }
  | { readonly type: 'queue.changed' }
  | { readonly type: 'pause.requested' }
  | { readonly type: 'resume.requested' }
  | { readonly type: 'evaluation.started' }
  | { readonly type: 'evaluation.ended' }
  | { readonly type: 'update.started' }
  /** Instance by instance: the others serve on. */
  | { readonly type: 'update.rolls' }
  | { readonly type: 'gates.closed' }
  | { readonly type: 'fleet.quiet' }
  | { readonly type: 'weights.applied' }
  | { readonly type: 'weights.verified'; readonly version: number }
  | { readonly type: 'update.failed' }
  | { readonly type: 'gates.opened' }
  | { readonly type: 'run.stopping' }
  | { readonly type: 'run.stopped' }

/** The run: starting, rollout, evaluation, paused, weightUpdate, stopping, stopped. */
export const supervisorMachine = setup({
  types: {
    context: {} as SupervisorContext,
    events: {} as SupervisorMachineEvent,
  },
  actors: { instance: instanceMachine },
  guards: {
    isPaused: ({ context }) => context.paused,
  },
  actions: {
    /** Gives free slots to waiting samples. */
    place: () => {},
    /** An instance's machine threw, as only one of the user's own does. */
    lose: () => {},
    join: assign(({ event, spawn }) => {
      if (event.type === 'instances.added')
        for (const input of event.instances) spawn('instance', { id: input.id, input })
      return {}
    }),
    remove: stopChild(({ event, self }) => {
      const { actorId } = event as unknown as { readonly actorId: string }
      // An instance of the same id may have joined since: it stays.
      return self.getSnapshot().children[actorId]?.getSnapshot().status === 'active' ? 'nobody' : actorId
    }),
    wantPause: assign({ paused: true }),
    wantResume: assign({ paused: false }),
    setVersion: assign(({ event }) => (event.type === 'weights.verified' ? { version: event.version } : {})),
  },
}).createMachine({
  id: 'supervisor',
  context: { paused: false, version: null },
  initial: 'starting',
  on: {
    'instances.added': { actions: 'join' },
    'xstate.done.actor.*': { actions: 'remove' },
    'xstate.error.actor.*': { actions: ['remove', 'lose'] },
    'pause.requested': { actions: 'wantPause' },
    'resume.requested': { actions: 'wantResume' },
    'run.stopping': { target: '.stopping' },
  },
  states: {
    starting: {
      on: {
        'fleet.ready': [{ guard: 'isPaused', target: 'paused' }, { target: 'rollout' }],
      },
    },
    rollout: {
      entry: 'place',
      on: {
        'task.submitted': { actions: 'place' },
        'slot.freed': { actions: 'place' },
        'instance.opened': { actions: 'place' },
        'queue.changed': { actions: 'place' },
        'pause.requested': { target: 'paused', actions: 'wantPause' },
        'evaluation.started': { target: 'evaluation' },
        'update.started': { target: 'weightUpdate' },
      },
    },
    evaluation: {
      entry: 'place',
      on: {
        'task.submitted': { actions: 'place' },
        'slot.freed': { actions: 'place' },
        'instance.opened': { actions: 'place' },
        'queue.changed': { actions: 'place' },
        'evaluation.ended': [{ guard: 'isPaused', target: 'paused' }, { target: 'rollout' }],
      },
    },
    paused: {
      on: {
        'resume.requested': { target: 'rollout', actions: 'wantResume' },
        'evaluation.started': { target: 'evaluation' },
        'update.started': { target: 'weightUpdate' },
      },
    },
    weightUpdate: {
      initial: 'closing',
      on: { 'update.failed': { target: '.reopening' } },
      states: {
        closing: { on: { 'gates.closed': { target: 'interrupting' }, 'update.rolls': { target: 'rolling' } } },
        interrupting: { on: { 'fleet.quiet': { target: 'applying' } } },
        applying: { on: { 'weights.applied': { target: 'verifying' } } },
        verifying: { on: { 'weights.verified': { target: 'reopening', actions: 'setVersion' } } },
        rolling: {
          entry: 'place',
          on: {
            'task.submitted': { actions: 'place' },
            'slot.freed': { actions: 'place' },
            'instance.opened': { actions: 'place' },
            'queue.changed': { actions: 'place' },
            'weights.verified': { target: 'reopening', actions: 'setVersion' },
          },
        },
        reopening: {
          on: {
            'gates.opened': [{ guard: 'isPaused', target: '#supervisor.paused' }, { target: '#supervisor.rollout' }],
          },
        },
      },
    },
    stopping: {
      // The whole tree is about to go: removing its children one by one would be quadratic.
      on: {
        'run.stopped': { target: 'stopped' },
        'run.stopping': {},
        'xstate.done.actor.*': {},
        'xstate.error.actor.*': {},
      },
    },
    stopped: { type: 'final' },
  },
})
