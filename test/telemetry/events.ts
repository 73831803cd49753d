/**
 * Builders of event sequences for the timeline's tests: a run without a supervisor, on a clock that the test moves.
 */
import type { SupervisorEvent } from '../../src/telemetry/events.ts'
import type { TimelineView } from '../../src/telemetry/timeline.ts'

/** A view that the test changes in place. */
export interface MutableView {
  phase: TimelineView['phase']
  version: number | null
  waiting: TimelineView['waiting']
  instances: { id: string; state: string; capacity: number | null }[]
}

export function fleetView(capacities: Readonly<Record<string, number | null>>): MutableView {
  const instances = Object.entries(capacities).map(([id, capacity]) => ({ id, state: 'serving.idle', capacity }))
  return { phase: 'rollout', version: null, waiting: {}, instances }
}

export function placed(
  at: number,
  instance: string,
  lease: number,
  kind: 'rollout' | 'evaluation' = 'rollout',
): SupervisorEvent {
  return { type: 'sample.placed', at, taskId: `t${lease}`, sample: 0, kind, instance, lease, resumedTokens: 0 }
}

type Reason = Extract<SupervisorEvent, { type: 'sample.released' }>['reason']

export function released(at: number, instance: string, lease: number, reason: Reason = 'finished'): SupervisorEvent {
  return {
    type: 'sample.released',
    at,
    taskId: `t${lease}`,
    sample: 0,
    kind: 'rollout',
    instance,
    lease,
    reason,
    tokens: 5,
  }
}
