/**
 * The phases of a run in its timeline: when each was, and what it cost in slots that stood idle meanwhile.
 * Sums are exact for the whole run; spans are bounded like bars. O(1) for a change.
 */
import type { Phase } from './events.ts'

/** A stretch of one phase. Times are clock milliseconds. */
export interface PhaseSpan {
  readonly phase: Phase
  readonly start: number
  readonly end: number
}

/** All stretches of one phase together. */
export interface PhaseTime {
  readonly times: number
  readonly wallMs: number
  /** Slot time: one slot for one millisecond counts 1. */
  readonly capacityMs: number
  readonly idleMs: number
}

/** What each phase took; those that never were are absent. */
export type PhaseTimes = Readonly<Partial<Record<Phase, PhaseTime>>>

export interface PhaseRecord {
  /** Slot time of the phase that lasts. */
  add(capacityMs: number, idleMs: number): void
  /** Slot time up to then must have been added. */
  enter(phase: Phase, at: number): void
  /** Forgets spans that ended until then. */
  trim(cut: number): void
  readonly times: (at: number) => PhaseTimes
  readonly spans: (at: number) => PhaseSpan[]
}

export function createPhaseRecord(first: Phase, startedAt: number): PhaseRecord {
  const sums = new Map<Phase, { times: number; wallMs: number; capacityMs: number; idleMs: number }>()
  let spans: PhaseSpan[] = []
  let phase = first
  let since = startedAt
  begin()

  function begin(): void {
    const sum = sums.get(phase) ?? { times: 0, wallMs: 0, capacityMs: 0, idleMs: 0 }
    sums.set(phase, sum)
    sum.times += 1
  }

  return {
    add(capacityMs, idleMs) {
      const sum = sums.get(phase)!
      sum.capacityMs += capacityMs
      sum.idleMs += idleMs
    },
    enter(next, at) {
      if (next === phase) return
      sums.get(phase)!.wallMs += at - since
      if (at > since) spans.push({ phase, start: since, end: at })
      phase = next
      since = at
      begin()
    },
    trim(cut) {
      spans = spans.filter(({ end }) => end > cut)
    },
    times(at) {
      const times = [...sums].map(([name, sum]) => {
        const wallMs = sum.wallMs + (name === phase ? at - since : 0)
        return [name, { ...sum, wallMs }] as const
      })
      return Object.fromEntries(times)
    },
    spans: (at) => (at > since ? [...spans, { phase, start: since, end: at }] : [...spans]),
  }
}
