/**
 * Records where the time of every slot went: bars (a lease on a lane) and idle spans with their reason.
 * For every instance, at every moment: busy + idle = capacity, so that over a run busyMs + sum(idleMs) = capacityMs.
 * Sums are exact for the whole run; the records behind the picture are bounded by `maxIntervals`, oldest dropped first, and `dropped` says so.
 * O(1) for an event; a burst of events that leaves a slot free costs one look at the view, O(instances), afterwards.
 */
import type { SegmentEnd } from '../rollout/completion.ts'
import type { TaskKind } from '../rollout/task.ts'
import type { InstanceState, Phase, SupervisorEvent } from './events.ts'
import { fleetIdleReason, type Held, type IdleReason, instanceIdleReason, type Waiting } from './idle.ts'
import { createPhaseRecord } from './timeline-phases.ts'
import {
  type Bar,
  barKind,
  type IdleSpan,
  type Owned,
  summarise,
  type TimelineReport,
  type Track,
} from './timeline-report.ts'

/** What the recorder reads besides events; `supervisor.getSnapshot()` fits. */
export interface TimelineView {
  readonly phase: Phase
  readonly version: number | null
  readonly waiting: Waiting
  /** Open streams of batches, where there are any. */
  readonly batches?: readonly Held[]
  readonly instances: readonly {
    readonly id: string
    readonly state: InstanceState
    readonly capacity: number | null
  }[]
}

/** Options of createTimeline. */
export interface TimelineOptions {
  /** Called at most once for each burst of events. */
  readonly view: () => TimelineView
  /** When the record begins, on the clock of the events. */
  readonly startedAt: number
  /** Bars kept for the picture, and as many idle spans: at least 100. A bar takes about 100 bytes. @default 100_000 */
  readonly maxIntervals?: number
}

/** A recorder; feed it `supervisor.events$`. */
export interface Timeline {
  observe(event: SupervisorEvent): void
  /** Brings the reasons up to date. Happens by itself after each burst of events. */
  settle(): void
  /** Busy and capacity slot time of the fleet up to a moment: the difference of two moments is the utilisation between them. */
  slotTime(at: number): { readonly busyMs: number; readonly capacityMs: number }
  /** Everything up to a moment, the running bars included. */
  report(at: number): TimelineReport
}

const LEAST_INTERVALS = 100

/**
 * Records where slot time goes. Subscribe it to `supervisor.events$` before `start()`:
 *
 *     const timeline = createTimeline({ view: () => supervisor.getSnapshot(), startedAt: performance.now() })
 *     supervisor.events$.subscribe((event) => timeline.observe(event))
 *     const svg = timelineSvg(timeline.report(performance.now()))
 */
export function createTimeline({ view, startedAt, maxIntervals = 100_000 }: TimelineOptions): Timeline {
  const limit = Math.max(LEAST_INTERVALS, maxIntervals)
  const tracks = new Map<string, Track>()
  let bars: Owned<Bar>[] = []
  let spans: Owned<IdleSpan>[] = []
  let updates: { at: number; version: number }[] = []
  let dropped = 0
  let completeSince = startedAt
  let now = startedAt
  let running = 0
  let { phase, version } = view()
  const phases = createPhaseRecord(phase, startedAt)
  let fleet: IdleReason = 'starting'
  let settling = false
  let look = true
  let withSpan = 0

  settle()

  function trackOf(id: string): Track {
    const known = tracks.get(id)
    if (known) return known
    const track: Track = {
      id,
      open: new Map(),
      lanes: [],
      idleMs: {},
      busyMsByKind: {},
      capacity: 0,
      state: 'connecting',
      reason: 'starting',
      since: now,
      busyMs: 0,
      capacityMs: 0,
      span: null,
    }
    tracks.set(id, track)
    look = true
    return track
  }

  /** Adds the time since the last change to the sums. Call before anything of the track changes. */
  function advance(track: Track): void {
    const elapsed = Math.max(0, now - track.since)
    track.since = Math.max(track.since, now)
    const busy = track.open.size
    const slots = Math.max(track.capacity, busy)
    track.busyMs += busy * elapsed
    track.capacityMs += slots * elapsed
    phases.add(slots * elapsed, (slots - busy) * elapsed)
    if (slots > busy && elapsed > 0)
      track.idleMs[track.reason] = (track.idleMs[track.reason] ?? 0) + (slots - busy) * elapsed
  }

  /** Opens, keeps or closes the idle span. Call after a change. */
  function refresh(track: Track): void {
    track.reason = instanceIdleReason(track.state, fleet)
    const idle = track.capacity > track.open.size
    if (idle && track.span?.reason === track.reason) return
    if (track.span && now > track.span.start) {
      spans.push({ owner: track, start: track.span.start, end: now, reason: track.span.reason })
      if (spans.length > limit) trim(spans)
    }
    withSpan += (idle ? 1 : 0) - (track.span ? 1 : 0)
    track.span = idle ? { start: now, reason: track.reason } : null
  }

  function place(track: Track, lease: number, kind: TaskKind, sample: string): void {
    const free = track.lanes.indexOf(false)
    const lane = free === -1 ? track.lanes.length : free
    track.lanes[lane] = true
    track.open.set(lease, { lane, start: now, kind, sample, version })
    running += 1
  }

  function release(track: Track, lease: number, reason: SegmentEnd, tokens: number): void {
    const open = track.open.get(lease)
    // A lease taken before the recorder was attached has no beginning to draw.
    if (!open) return
    track.open.delete(lease)
    track.lanes[open.lane] = false
    running -= 1
    const bar = { ...open, owner: track, end: now, kind: barKind(open.kind, reason), reason, tokens }
    track.busyMsByKind[bar.kind] = (track.busyMsByKind[bar.kind] ?? 0) + bar.end - bar.start
    bars.push(bar)
    if (bars.length > limit) trim(bars)
  }

  /** Forgets the older half, and everything else that ended before. */
  function trim(full: readonly { readonly end: number }[]): void {
    const cut = full[Math.floor(full.length / 2)]!.end
    const count = bars.length + spans.length
    bars = bars.filter((bar) => bar.end > cut)
    spans = spans.filter((span) => span.end > cut)
    updates = updates.filter((update) => update.at > cut)
    phases.trim(cut)
    dropped += count - bars.length - spans.length
    completeSince = cut
  }

  function change(track: Track, what: () => void): void {
    advance(track)
    what()
    refresh(track)
  }

  function apply(event: SupervisorEvent): void {
    switch (event.type) {
      case 'sample.placed':
        change(trackOf(event.instance), () =>
          place(trackOf(event.instance), event.lease, event.kind, `${event.taskId}/${event.sample}`),
        )
        break
      case 'sample.released':
        change(trackOf(event.instance), () => release(trackOf(event.instance), event.lease, event.reason, event.tokens))
        break
      case 'instance.state': {
        const track = trackOf(event.instance)
        change(track, () => {
          track.state = event.state
        })
        // Capacity becomes known with a state.
        if (track.capacity === 0) look = true
        break
      }
      case 'instance.left':
        change(trackOf(event.instance), () => leave(trackOf(event.instance)))
        break
      case 'run.phase':
        advanceAll(now)
        phases.enter(event.phase, now)
        phase = event.phase
        look = true
        break
      case 'run.version':
        version = event.version
        updates.push({ at: now, version })
        if (updates.length > limit) updates.shift()
        break
      case 'sample.queued':
      case 'sample.ended':
      case 'instance.fault':
      case 'run.fault':
        break
    }
  }

  function leave(track: Track): void {
    for (const lease of [...track.open.keys()]) release(track, lease, 'interrupted', 0)
    track.capacity = 0
  }

  function dropMissing(present: ReadonlySet<string>): void {
    for (const track of tracks.values()) {
      if (track.capacity > 0 && !present.has(track.id)) change(track, () => leave(track))
    }
  }

  function settle(): void {
    settling = false
    if (!look && withSpan === 0) return
    const { instances, waiting, batches } = view()
    for (const { id, state, capacity } of instances) {
      const track = trackOf(id)
      if (track.capacity === (capacity ?? 0) && track.state === state) continue
      change(track, () => {
        track.capacity = capacity ?? 0
        track.state = state
      })
    }
    if (tracks.size > instances.length) dropMissing(new Set(instances.map((instance) => instance.id)))
    look = false
    const next = fleetIdleReason(phase, waiting, running, batches)
    if (next === fleet) return
    fleet = next
    for (const track of tracks.values()) change(track, () => {})
  }

  function advanceAll(at: number): Track[] {
    now = Math.max(now, at)
    const all = [...tracks.values()]
    for (const track of all) advance(track)
    return all
  }

  return {
    observe(event) {
      now = Math.max(now, event.at)
      apply(event)
      if (settling) return
      settling = true
      queueMicrotask(settle)
    },
    settle,
    slotTime(at) {
      const all = advanceAll(at)
      const sum = (part: 'busyMs' | 'capacityMs') => all.reduce((total, track) => total + track[part], 0)
      return { busyMs: sum('busyMs'), capacityMs: sum('capacityMs') }
    },
    report(at) {
      const all = advanceAll(at)
      const kept = { updates: [...updates], phases: phases.spans(now), phaseTimes: phases.times(now) }
      return summarise(all, bars, spans, { startedAt, endedAt: now, completeSince, dropped, ...kept })
    },
  }
}
