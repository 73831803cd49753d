/**
 * What a run looks like from outside: plain, serialisable records without prompts or tokens. Instance views that have not
 * changed since the last look are the same objects.
 */
import { Observable } from 'rxjs'
import type { Outcome } from '../rollout/completion.ts'
import type { InstanceState, Phase, WaitReason } from '../telemetry/events.ts'
import type { BatchesView } from './feed.ts'
import { stateOf } from './fleet.ts'
import { phaseOf } from './phase.ts'
import { blockedBy, isForEvaluationsOnly, reasonOf } from './placement.ts'
import type { Instance, Run } from './run.ts'

/** One instance at one moment. */
export interface InstanceView {
  readonly id: string
  readonly url: string
  readonly engine: string
  readonly engineVersion: string | null
  readonly state: InstanceState
  /** Slots held, by our books. */
  readonly running: number
  /** Sequences it may run at once; null before it was probed. */
  readonly capacity: number | null
  readonly weight: number
  /** Weights label as the server says it. */
  readonly version: string | null
  /** Totals since it joined. `waitedMs` is what samples waited, in sum, before they were placed here. */
  readonly placed: number
  readonly completed: number
  readonly failed: number
  readonly interrupted: number
  readonly tokens: number
  readonly waitedMs: number
  /** The last fault of the server, until it answers again. */
  readonly fault: string | null
}

/** The run at one moment. */
export interface FleetView {
  readonly phase: Phase
  readonly version: number | null
  readonly instances: readonly InstanceView[]
  /** Waiting samples by what they wait for; they sum to `conservation.waiting`. */
  readonly waiting: Readonly<Record<WaitReason, number>>
  /** Samples: submitted = waiting + running + the sum of ended, at every moment. */
  readonly conservation: {
    readonly submitted: number
    readonly waiting: number
    readonly running: number
    readonly ended: Readonly<Record<Outcome, number>>
  }
  /** Open streams of batches, in no order that matters. */
  readonly batches: readonly BatchesView[]
  /** Episodes: submitted = running + the sum of ended. One that waits for its tools is running too. */
  readonly episodes: {
    readonly submitted: number
    readonly running: number
    readonly ended: Readonly<Record<Outcome, number>>
  }
  /** Placement steps taken so far. */
  readonly placementSteps: number
}

/** states$ changes at most this often. */
const VIEW_INTERVAL_MS = 100

const views = new WeakMap<Instance, InstanceView>()

function viewInstance(instance: Instance): InstanceView {
  const { context } = instance.actor.getSnapshot()
  const view: InstanceView = {
    id: instance.id,
    url: instance.spec.url,
    engine: instance.probe?.engine ?? instance.spec.engine,
    engineVersion: instance.probe?.engineVersion ?? null,
    state: stateOf(instance),
    running: instance.account.running,
    capacity: instance.probe === null ? instance.spec.capacity : context.capacity,
    weight: instance.spec.weight,
    version: context.weightVersion,
    ...instance.totals,
    fault: instance.fault?.message ?? null,
  }
  const last = views.get(instance)
  if (last !== undefined && (Object.keys(view) as (keyof InstanceView)[]).every((key) => view[key] === last[key]))
    return last
  views.set(instance, view)
  return view
}

export function viewFleet(run: Run): FleetView {
  const waiting: Record<WaitReason, number> = {
    capacity: 0,
    backPressure: 0,
    staleness: 0,
    gate: 0,
    version: 0,
    backoff: 0,
    turn: 0,
    phase: 0,
    carried: 0,
    tokenizing: 0,
  }
  for (const sample of run.parked) waiting[sample.parked!]++
  if (isForEvaluationsOnly(run)) {
    for (const sample of run.queue) waiting[reasonOf(run, sample)]++
  } else {
    if (run.sinks.full) waiting.backPressure = run.queue.sizeOf('fresh')
    for (let track = 0; track <= run.tracks.length; track++) {
      const blocked = run.queue.sizeOfTrack(track, run.sinks.full)
      if (blocked > 0) waiting[blockedBy(run, track)] += blocked
    }
  }
  const { submitted, running, ended } = run.counts
  return {
    phase: phaseOf(run),
    version: run.version,
    instances: [...run.instances.values()].map(viewInstance),
    waiting,
    conservation: { submitted, waiting: run.counts.waiting, running, ended: { ...ended } },
    batches: [...run.feeds].map((feed) => feed.view()),
    episodes: {
      submitted: run.episodes.submitted,
      running: run.episodes.live.size,
      ended: { ...run.episodes.ended },
    },
    placementSteps: run.steps,
  }
}

/** The current view first, then changes at most ten times a second (decision 15). Costs nothing while nobody subscribes. */
export function statesOf(run: Run, onClose: Set<() => void>): Observable<FleetView> {
  return new Observable((subscriber) => {
    let timer: unknown = null
    const look = (): void => {
      timer = null
      subscriber.next(viewFleet(run))
    }
    const mark = (): void => {
      timer ??= run.clock.setTimeout(look, VIEW_INTERVAL_MS)
    }
    const complete = (): void => {
      run.clock.clearTimeout(timer)
      subscriber.next(viewFleet(run))
      subscriber.complete()
    }
    subscriber.next(viewFleet(run))
    if (run.closing) {
      subscriber.complete()
      return
    }
    run.hub.onChange.add(mark)
    onClose.add(complete)
    return () => {
      run.hub.onChange.delete(mark)
      onClose.delete(complete)
      run.clock.clearTimeout(timer)
    }
  })
}
