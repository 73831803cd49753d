/**
 * What a timeline tells: slot time, busy or idle by reason, of every instance and of the fleet, and the bars and spans to draw.
 * busyMs + sum(idleMs) = capacityMs for every instance, and so for the fleet.
 */
import type { SegmentEnd } from '../rollout/completion.ts'
import type { TaskKind } from '../rollout/task.ts'
import type { InstanceState } from './events.ts'
import type { IdleReason } from './idle.ts'
import type { PhaseSpan, PhaseTimes } from './timeline-phases.ts'

/** How a bar looks: by the kind of work, or by how it ended when it did not finish. */
export type BarKind = TaskKind | 'interrupted' | 'cancelled' | 'failed'

/** One lease. Times are clock milliseconds. */
export interface Bar {
  readonly lane: number
  readonly start: number
  readonly end: number
  readonly kind: BarKind
  /** Null while it still runs. */
  readonly reason: SegmentEnd | null
  /** `<task id>/<sample>` */
  readonly sample: string
  readonly tokens: number
  /** The fleet's version when it was placed. */
  readonly version: number | null
}

/** A time in which at least one slot of the instance was free. */
export interface IdleSpan {
  readonly start: number
  readonly end: number
  readonly reason: IdleReason
}

/** Where slot time went: one slot for one millisecond counts 1. */
export interface SlotTime {
  readonly busyMs: number
  readonly capacityMs: number
  /** busyMs / capacityMs; 0 where there was no capacity. */
  readonly utilisation: number
  readonly idleMs: Readonly<Partial<Record<IdleReason, number>>>
  readonly busyMsByKind: Readonly<Partial<Record<BarKind, number>>>
}

/** The slot time of one instance, and what to draw of it. */
export interface InstanceTimeline extends SlotTime {
  readonly id: string
  /** Slots at most seen. */
  readonly lanes: number
  readonly bars: readonly Bar[]
  readonly idle: readonly IdleSpan[]
}

/** The slot time of the fleet and of each instance, with everything to draw. Times are clock milliseconds. */
export interface TimelineReport extends SlotTime {
  readonly startedAt: number
  readonly endedAt: number
  /** From here on the bars and spans are complete; later than startedAt when old ones were dropped. */
  readonly completeSince: number
  readonly dropped: number
  readonly instances: readonly InstanceTimeline[]
  readonly updates: readonly { readonly at: number; readonly version: number }[]
  readonly phases: readonly PhaseSpan[]
  /** What each phase took, and how much slot time was idle in it. */
  readonly phaseTimes: PhaseTimes
}

/** A lease that is held. */
export interface Open {
  readonly lane: number
  readonly start: number
  readonly kind: TaskKind
  readonly sample: string
  readonly version: number | null
}

/** An instance as the recorder keeps it. */
export interface Track {
  readonly id: string
  readonly open: Map<number, Open>
  /** True where the lane is taken; as long as the most slots seen. */
  readonly lanes: boolean[]
  readonly idleMs: Partial<Record<IdleReason, number>>
  readonly busyMsByKind: Partial<Record<BarKind, number>>
  capacity: number
  state: InstanceState
  reason: IdleReason
  /** Sums are complete up to here. */
  since: number
  busyMs: number
  capacityMs: number
  span: { start: number; reason: IdleReason } | null
}

/** A record and the instance it belongs to. */
export type Owned<T> = T & { readonly owner: Track }

type Frame = Omit<TimelineReport, keyof SlotTime | 'instances'>

/** Sums and records up to `endedAt`; running bars end there. O(records). */
export function summarise(
  tracks: readonly Track[],
  bars: readonly Owned<Bar>[],
  spans: readonly Owned<IdleSpan>[],
  frame: Frame,
): TimelineReport {
  const byTrack = new Map(tracks.map((track) => [track, { bars: [] as Bar[], idle: [] as IdleSpan[] }]))
  for (const { owner, ...bar } of bars) byTrack.get(owner)!.bars.push(bar)
  for (const { owner, ...span } of spans) byTrack.get(owner)!.idle.push(span)
  const end = frame.endedAt
  const instances = tracks.map((track): InstanceTimeline => {
    const { bars, idle } = byTrack.get(track)!
    const busyMsByKind = { ...track.busyMsByKind }
    for (const open of track.open.values()) {
      bars.push({ ...open, end, reason: null, tokens: 0 })
      busyMsByKind[open.kind] = (busyMsByKind[open.kind] ?? 0) + end - open.start
    }
    if (track.span && end > track.span.start) idle.push({ ...track.span, end })
    const { id, busyMs, capacityMs } = track
    const lanes = Math.max(track.lanes.length, track.capacity)
    return { id, lanes, bars, idle, ...slotTime(busyMs, capacityMs, { ...track.idleMs }, busyMsByKind) }
  })
  const busyMs = instances.reduce((sum, instance) => sum + instance.busyMs, 0)
  const capacityMs = instances.reduce((sum, instance) => sum + instance.capacityMs, 0)
  const idleMs = addUp(instances.map((instance) => instance.idleMs))
  return {
    ...frame,
    instances,
    ...slotTime(busyMs, capacityMs, idleMs, addUp(instances.map((instance) => instance.busyMsByKind))),
  }
}

function slotTime(
  busyMs: number,
  capacityMs: number,
  idleMs: SlotTime['idleMs'],
  busyMsByKind: SlotTime['busyMsByKind'],
): SlotTime {
  return { busyMs, capacityMs, utilisation: capacityMs > 0 ? busyMs / capacityMs : 0, idleMs, busyMsByKind }
}

function addUp<K extends string>(parts: readonly Readonly<Partial<Record<K, number>>>[]): Partial<Record<K, number>> {
  const sum: Partial<Record<K, number>> = {}
  for (const part of parts) for (const key of Object.keys(part) as K[]) sum[key] = (sum[key] ?? 0) + (part[key] ?? 0)
  return sum
}

/** What a bar that ended for this reason counts as. */
export function barKind(kind: TaskKind, reason: SegmentEnd): BarKind {
  switch (reason) {
    case 'finished':
      return kind
    case 'interrupted':
      return 'interrupted'
    case 'cancelled':
      return 'cancelled'
    case 'failed':
    case 'busy':
    case 'timedOut':
      return 'failed'
  }
}
