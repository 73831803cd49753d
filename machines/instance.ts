/**
 * One inference server as a statechart: the authority on whether it takes work.
 *
 * A slot is asked for with `lease.granted`; the server took it when `context.leases` has grown by one. A guard that refuses
 * leaves it as it was. Where one sample's slot is at once another's, `lease.passed` stands for both events, if the machine `can` take
 * it: one that cannot is told them one after the other. Keeps I3 (leases <= capacity when granting) and I10 (nothing is taken unless serving or on trial).
 * No I/O and no timers but XState's own: whoever spawns it probes, generates, and tells it what happened. It emits `opened`,
 * `closed`, `probing`, `staled` and `left` when the outside has to act.
 */
import { and, assign, emit, setup } from 'xstate'

/** How the work under a lease ended, seen from the server's health: a user's bad request is neutral. */
export type LeaseOutcome = 'succeeded' | 'failed' | 'neutral'

/** When a failing server gets no more work, and when it is asked again. */
export interface BreakerOptions {
  /** Failures in a row that open the circuit. */
  readonly failures: number
  /** Wait before the first probe of an open circuit, in milliseconds; doubles with each failed one. */
  readonly resetMs: number
  readonly maxResetMs: number
}

/** What an instance machine is started with. */
export interface InstanceInput {
  readonly id: string
  readonly capacity: number
  readonly breaker: BreakerOptions
}

/** What an instance machine knows: numbers and a label, never a prompt. */
export interface InstanceContext extends InstanceInput {
  readonly leases: number
  /** Failures in a row. */
  readonly failures: number
  /** How often in a row the circuit opened. */
  readonly openings: number
  /** Weights label as the server says it. */
  readonly weightVersion: string | null
  readonly drainMs: number | null
  /** To be asked, as soon as its gate opens, before it has work. */
  readonly suspected: boolean
}

/** What an instance machine is told. */
export type InstanceMachineEvent =
  /** The server answered. `expected` is the label it must have to serve, or null in an unversioned fleet. */
  | {
      readonly type: 'probe.succeeded'
      readonly capacity: number
      readonly weightVersion: string | null
      readonly expected: string | null
    }
  | { readonly type: 'probe.failed' }
  | { readonly type: 'lease.granted' }
  | { readonly type: 'lease.released'; readonly outcome: LeaseOutcome }
  /** A lease that succeeded ended, and its slot is granted again at once. */
  | { readonly type: 'lease.passed' }
  | { readonly type: 'capacity.changed'; readonly capacity: number }
  /** A broken stream or a long silence: ask it before it gets more work. */
  | { readonly type: 'server.suspected' }
  /** It answers, but its generations stand still. */
  | { readonly type: 'server.stalled' }
  | { readonly type: 'gate.closed' }
  | { readonly type: 'gate.opened' }
  | { readonly type: 'weights.loaded'; readonly weightVersion: string | null }
  | { readonly type: 'weights.lost' }
  | { readonly type: 'instance.drain'; readonly deadlineMs: number | null }
  | { readonly type: 'instance.stop' }

/** What an instance machine says to whoever spawned it. */
export type InstanceEmitted =
  /** Work may be sent, at most `limit` sequences at once. */
  | { readonly type: 'opened'; readonly limit: number }
  | { readonly type: 'closed' }
  /** Somebody should probe the server and answer with `probe.succeeded` or `probe.failed`. */
  | { readonly type: 'probing' }
  /** Somebody should load the current weights and answer with `weights.loaded`. */
  | { readonly type: 'staled' }
  | { readonly type: 'left' }

/** Longest delay that a Node timer keeps (2^31 - 1 ms, 24.8 days): stands for "no deadline". */
const NO_DEADLINE_MS = 2_147_483_647

/** One inference server: connecting, serving (idle, busy, saturated), suspected, stale, paused, unhealthy (open, probing, trial), draining, stopped. */
export const instanceMachine = setup({
  types: {
    context: {} as InstanceContext,
    input: {} as InstanceInput,
    events: {} as InstanceMachineEvent,
    emitted: {} as InstanceEmitted,
  },
  guards: {
    /** Replace this one to refuse work for reasons of your own. In `lease.passed` the lease that ends still counts. */
    takesWork: ({ context, event }) =>
      (event.type === 'lease.passed' ? context.leases - 1 : context.leases) < context.capacity,
    /** One lease for another would leave everything as it is: it has neither failures to forget nor leases to lose. */
    isSteady: ({ context }) => context.failures === 0 && context.leases > 0 && context.leases <= context.capacity,
    fillsUp: ({ context }) => context.leases + 1 >= context.capacity,
    isFull: ({ context }) => context.leases >= context.capacity,
    isEmpty: ({ context }) => context.leases === 0,
    isLast: ({ context }) => context.leases <= 1,
    staysFull: ({ context }) => context.leases - 1 >= context.capacity,
    hasSucceeded: ({ event }) => event.type === 'lease.released' && event.outcome === 'succeeded',
    hasFailed: ({ event }) => event.type === 'lease.released' && event.outcome === 'failed',
    failsTooOften: ({ context, event }) =>
      event.type === 'lease.released' && event.outcome === 'failed' && context.failures + 1 >= context.breaker.failures,
    /** Its circuit has not closed since it opened: no generation has succeeded yet. */
    wasOnTrial: ({ context }) => context.openings > 0,
    /** Something spoke against it while its gate was closed. */
    isSuspected: ({ context }) => context.suspected,
    hasCurrentWeights: ({ event }) =>
      event.type === 'probe.succeeded' && (event.expected === null || event.expected === event.weightVersion),
  },
  actions: {
    take: assign({ leases: ({ context }) => context.leases + 1 }),
    /** Empty: one lease for another changes no number. */
    pass: () => {},
    give: assign(({ context, event }) => {
      const outcome = event.type === 'lease.released' ? event.outcome : 'neutral'
      const leases = Math.max(0, context.leases - 1)
      if (outcome === 'neutral') return { leases }
      return outcome === 'failed' ? { leases, failures: context.failures + 1 } : { leases, failures: 0 }
    }),
    learn: assign(({ event }) =>
      event.type === 'probe.succeeded'
        ? { capacity: event.capacity, weightVersion: event.weightVersion, suspected: false }
        : {},
    ),
    resize: assign(({ event }) => (event.type === 'capacity.changed' ? { capacity: event.capacity } : {})),
    relabel: assign(({ event }) =>
      event.type === 'weights.loaded' ? { weightVersion: event.weightVersion, failures: 0, suspected: false } : {},
    ),
    suspect: assign({ suspected: true }),
    countOpening: assign({ openings: ({ context }) => context.openings + 1 }),
    recover: assign({ failures: 0, openings: 0 }),
    setDeadline: assign(({ event }) => (event.type === 'instance.drain' ? { drainMs: event.deadlineMs } : {})),
    announceOpen: emit(({ context }) => ({ type: 'opened', limit: context.capacity })),
    announceTrial: emit({ type: 'opened', limit: 1 }),
    announceClosed: emit({ type: 'closed' }),
    askForProbe: emit({ type: 'probing' }),
    askForWeights: emit({ type: 'staled' }),
    announceLeft: emit({ type: 'left' }),
  },
  delays: {
    backoff: ({ context }) =>
      Math.min(context.breaker.resetMs * 2 ** Math.min(30, context.openings - 1), context.breaker.maxResetMs),
    drainDeadline: ({ context }) => Math.min(context.drainMs ?? NO_DEADLINE_MS, NO_DEADLINE_MS),
  },
}).createMachine({
  id: 'instance',
  context: ({ input }) => ({
    ...input,
    leases: 0,
    failures: 0,
    openings: 0,
    weightVersion: null,
    drainMs: null,
    suspected: false,
  }),
  initial: 'connecting',
  on: {
    'lease.released': { actions: 'give' },
    'capacity.changed': { actions: 'resize' },
    'instance.drain': [
      { guard: 'isEmpty', target: '.stopped' },
      { target: '.draining', actions: 'setDeadline' },
    ],
    'instance.stop': { target: '.stopped' },
  },
  states: {
    connecting: {
      on: {
        'probe.succeeded': [
          { guard: 'hasCurrentWeights', target: 'serving', actions: 'learn' },
          { target: 'stale', actions: 'learn' },
        ],
        'probe.failed': { target: 'unhealthy' },
      },
    },
    serving: {
      entry: 'announceOpen',
      exit: 'announceClosed',
      initial: 'settling',
      on: {
        'gate.closed': { target: 'paused' },
        'server.suspected': { target: 'suspected' },
        'server.stalled': { target: 'unhealthy' },
        'weights.lost': { target: 'stale' },
        'weights.loaded': { actions: 'relabel' },
        'lease.passed': { guard: and(['isSteady', 'takesWork']), actions: 'pass' },
        'capacity.changed': { target: '.settling', actions: ['resize', 'announceOpen'] },
      },
      states: {
        settling: {
          always: [{ guard: 'isFull', target: 'saturated' }, { guard: 'isEmpty', target: 'idle' }, { target: 'busy' }],
        },
        idle: {
          on: {
            'lease.granted': [
              { guard: and(['takesWork', 'fillsUp']), target: 'saturated', actions: 'take' },
              { guard: 'takesWork', target: 'busy', actions: 'take' },
            ],
          },
        },
        busy: {
          on: {
            'lease.granted': [
              { guard: and(['takesWork', 'fillsUp']), target: 'saturated', actions: 'take' },
              { guard: 'takesWork', actions: 'take' },
            ],
            'lease.released': [
              { guard: 'failsTooOften', target: '#instance.unhealthy', actions: 'give' },
              { guard: 'isLast', target: 'idle', actions: 'give' },
              { actions: 'give' },
            ],
          },
        },
        saturated: {
          on: {
            'lease.released': [
              { guard: 'failsTooOften', target: '#instance.unhealthy', actions: 'give' },
              { guard: 'staysFull', actions: 'give' },
              { guard: 'isLast', target: 'idle', actions: 'give' },
              { target: 'busy', actions: 'give' },
            ],
          },
        },
      },
    },
    /** Something speaks against it: it gets no more work until it has answered. */
    suspected: {
      entry: 'askForProbe',
      on: {
        'probe.succeeded': [
          { guard: 'hasCurrentWeights', target: 'serving', actions: 'learn' },
          { target: 'stale', actions: 'learn' },
        ],
        'probe.failed': { target: 'unhealthy' },
        'server.stalled': { target: 'unhealthy' },
        'weights.lost': { target: 'stale' },
        'lease.released': [{ guard: 'failsTooOften', target: 'unhealthy', actions: 'give' }, { actions: 'give' }],
      },
    },
    /** Answers, but has weights that the supervisor did not put there. */
    stale: {
      entry: 'askForWeights',
      on: {
        'weights.loaded': [
          { guard: 'wasOnTrial', target: 'unhealthy.trial', actions: 'relabel' },
          { target: 'serving', actions: 'relabel' },
        ],
        'probe.failed': { target: 'unhealthy' },
      },
    },
    /** The gate is closed by a phase; leases may still be held. */
    paused: {
      on: {
        'gate.opened': [
          { guard: 'wasOnTrial', target: 'unhealthy.trial' },
          { guard: 'isSuspected', target: 'suspected' },
          { target: 'serving' },
        ],
        'server.suspected': { actions: 'suspect' },
        'server.stalled': { target: 'unhealthy' },
        'weights.loaded': { actions: 'relabel' },
        'weights.lost': { target: 'stale' },
        'probe.failed': { target: 'unhealthy' },
        'lease.released': [{ guard: 'failsTooOften', target: 'unhealthy', actions: 'give' }, { actions: 'give' }],
      },
    },
    /** The circuit is open. Only a real generation closes it. */
    unhealthy: {
      initial: 'open',
      on: {
        'lease.released': [
          { guard: 'hasSucceeded', target: 'serving', actions: ['give', 'recover'] },
          { actions: 'give' },
        ],
      },
      states: {
        open: {
          entry: 'countOpening',
          after: { backoff: { target: 'probing' } },
        },
        probing: {
          entry: 'askForProbe',
          on: {
            'probe.succeeded': [
              { guard: 'hasCurrentWeights', target: 'trial', actions: 'learn' },
              { target: '#instance.stale', actions: 'learn' },
            ],
            'probe.failed': { target: 'open' },
          },
        },
        trial: {
          entry: 'announceTrial',
          exit: 'announceClosed',
          on: {
            'lease.granted': { guard: and(['takesWork', 'isEmpty']), actions: 'take' },
            'lease.released': [
              { guard: 'hasSucceeded', target: '#instance.serving', actions: ['give', 'recover'] },
              { guard: 'hasFailed', target: 'open', actions: 'give' },
              { actions: 'give' },
            ],
            'gate.closed': { target: '#instance.paused' },
            'server.suspected': { target: 'probing' },
            'server.stalled': { target: 'open' },
            'weights.lost': { target: '#instance.stale' },
            'weights.loaded': { actions: 'relabel' },
          },
        },
      },
    },
    /** Takes no work; leaves when its last lease ends, or at its deadline. */
    draining: {
      on: {
        'lease.released': [{ guard: 'isLast', target: 'stopped', actions: 'give' }, { actions: 'give' }],
        'instance.drain': [
          { guard: 'isEmpty', target: 'stopped' },
          { target: 'draining', reenter: true, actions: 'setDeadline' },
        ],
      },
      after: { drainDeadline: { target: 'stopped' } },
    },
    stopped: { type: 'final', entry: 'announceLeft' },
  },
})
