/**
 * Why a free slot does no work, as one closed union (the instance's side of I7: WaitReason is the sample's side).
 * Pure: decided from the state of the instance, the phase of the run, and what the waiting samples wait for.
 */
import type { InstanceState, Phase, WaitReason } from './events.ts'

/** Why a slot is free. */
export type IdleReason =
  /** Nothing waits, but samples still run elsewhere: the long ones of a batch hold up the rest. */
  | 'tail'
  /** Nothing waits and nothing runs: the trainer is doing something else. */
  | 'noWork'
  | 'update'
  | 'paused'
  /** Samples wait, but strict round-robin keeps them for another instance, whose turn it is. */
  | 'turn'
  | 'gate'
  | 'version'
  | 'backPressure'
  | 'staleness'
  | 'backoff'
  | 'tokenizing'
  | 'unhealthy'
  | 'stale'
  | 'draining'
  | 'starting'
  | 'stopping'
  /** Samples wait for no reason but capacity, and here is some: nothing that a sound scheduler shows for longer than an instant. */
  | 'unplaced'

/** What people read. */
export const idleLabels: Readonly<Record<IdleReason, string>> = {
  tail: 'tail of a batch',
  noWork: 'no work',
  update: 'weight update',
  paused: 'paused',
  turn: 'turn (strict round-robin)',
  gate: 'gate closed',
  version: 'version',
  backPressure: 'back-pressure',
  staleness: 'staleness',
  backoff: 'backoff',
  tokenizing: 'tokenizing',
  unhealthy: 'unhealthy',
  stale: 'stale weights',
  draining: 'draining',
  starting: 'starting',
  stopping: 'stopping',
  unplaced: 'not placed',
}

/** Number of waiting samples by what they wait for; absent is 0. */
export type Waiting = Readonly<Partial<Record<WaitReason, number>>>

/** Why streams of batches draw nothing, as `BatchesView` says it; only staleness explains a free slot. */
export interface Held {
  readonly heldBy: string | null
}

/** The reason that holds for every instance that is fit for work: of several, the one that explains most about a free slot. */
export function fleetIdleReason(
  phase: Phase,
  waiting: Waiting,
  running: number,
  batches: readonly Held[] = [],
): IdleReason {
  switch (phase) {
    case 'starting':
      return 'starting'
    case 'weightUpdate':
      return 'update'
    case 'paused':
      return 'paused'
    case 'stopping':
    case 'stopped':
      return 'stopping'
    case 'rollout':
    case 'evaluation':
      if (batches.some(({ heldBy }) => heldBy === 'staleness')) return waitingReason(waiting) ?? 'staleness'
      return waitingReason(waiting) ?? (running > 0 ? 'tail' : 'noWork')
  }
}

/** What the instance's own state says first, then the fleet's reason. */
export function instanceIdleReason(state: InstanceState, fleet: IdleReason): IdleReason {
  switch (state.split('.', 1)[0]) {
    case 'serving':
      return fleet
    case 'unhealthy':
      return 'unhealthy'
    case 'draining':
      return 'draining'
    case 'connecting':
      return 'starting'
    case 'stopped':
      return 'stopping'
    case 'stale':
      return fleet === 'update' ? 'update' : 'stale'
    default:
      return fleet === 'update' || fleet === 'paused' || fleet === 'stopping' ? fleet : 'gate'
  }
}

/** Ordered: a turn that is being kept explains a free slot better than a sample in backoff does. */
const BY_WEIGHT: readonly (readonly [WaitReason, IdleReason])[] = [
  ['turn', 'turn'],
  ['version', 'version'],
  ['gate', 'gate'],
  ['phase', 'gate'],
  ['staleness', 'staleness'],
  ['backPressure', 'backPressure'],
  ['capacity', 'unplaced'],
  ['tokenizing', 'tokenizing'],
  ['backoff', 'backoff'],
]

function waitingReason(waiting: Waiting): IdleReason | null {
  return BY_WEIGHT.find(([wait]) => (waiting[wait] ?? 0) > 0)?.[1] ?? null
}
