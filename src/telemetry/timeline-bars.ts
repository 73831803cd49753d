/**
 * Geometry of a timeline's bars: merges what is too narrow to see, so that the size of the picture follows its pixels and not the length of the run.
 * Pure; positions are pixels. O(bars) a try; the threshold doubles until few enough are left.
 */
import type { IdleReason } from './idle.ts'
import type { Bar, BarKind, IdleSpan } from './timeline-report.ts'

/** A drawn bar: one lease, or several neighbours of one kind that would be too narrow alone. */
export interface Mark {
  readonly lane: number
  readonly kind: BarKind
  readonly from: number
  readonly to: number
  /** The lease, when it is one. */
  readonly bar: Bar | null
}

export type Scale = (at: number) => number

/** The part of the picture that has a time axis, in pixels. */
export interface Frame {
  readonly left: number
  readonly right: number
  readonly scale: Scale
}

/** A stretch of a band's background: idle for one reason, narrow stretches joined to the one before. */
export interface Patch {
  readonly reason: IdleReason
  readonly from: number
  readonly to: number
}

/** Half a pixel: less cannot be told apart even on a screen of double density. Tints need a little more care: an update is short. */
const LEAST_BAR = 0.5
const LEAST_PATCH = 0.2

/** The bars of every instance, no more than `most` in all. */
export function marksOf(instances: readonly (readonly Bar[])[], scale: Scale, most: number): Mark[][] {
  const sorted = instances.map((bars) => [...bars].sort((a, b) => a.lane - b.lane || a.start - b.start))
  return fewEnough(LEAST_BAR, most, (least) => sorted.map((bars) => mergeBars(bars, scale, least)))
}

/** The idle stretches of every instance, no more than `most` in all. */
export function patchesOf(instances: readonly (readonly IdleSpan[])[], scale: Scale, most: number): Patch[][] {
  return fewEnough(LEAST_PATCH, most, (least) => instances.map((spans) => mergeSpans(spans, scale, least)))
}

/** Beyond a hundred pixels merging no longer helps: there are more lanes than marks allowed. */
const MOST_PIXELS = 100

function fewEnough<T>(first: number, most: number, draw: (least: number) => T[][]): T[][] {
  for (let least = first; ; least *= 2) {
    const drawn = draw(least)
    const count = drawn.reduce((sum, list) => sum + list.length, 0)
    if (count <= most || least > MOST_PIXELS) return drawn
  }
}

function mergeBars(sorted: readonly Bar[], scale: Scale, least: number): Mark[] {
  const marks: Mark[] = []
  let last: { lane: number; kind: BarKind; from: number; to: number; bar: Bar | null } | null = null
  for (const bar of sorted) {
    const from = scale(bar.start)
    const to = scale(bar.end)
    const narrow = to - from < least || (last !== null && last.to - last.from < least)
    if (last && narrow && last.lane === bar.lane && last.kind === bar.kind && from - last.to < least) {
      last.to = Math.max(last.to, to)
      last.bar = null
    } else {
      last = { lane: bar.lane, kind: bar.kind, from, to, bar }
      marks.push(last)
    }
  }
  return marks
}

function mergeSpans(spans: readonly IdleSpan[], scale: Scale, least: number): Patch[] {
  const patches: Patch[] = []
  let last: { reason: IdleReason; from: number; to: number } | null = null
  for (const span of spans) {
    const from = scale(span.start)
    const to = scale(span.end)
    const near = last !== null && from - last.to < least
    if (last && near && (to - from < least || last.reason === span.reason)) {
      last.to = Math.max(last.to, to)
    } else {
      last = { reason: span.reason, from, to }
      patches.push(last)
    }
  }
  return patches
}

/** Mean of the slots busy in each of `count` equal steps between two pixels: the curve above the lanes. */
export function busyCurve(bars: Iterable<Bar>, scale: Scale, left: number, right: number, count: number): number[] {
  const width = (right - left) / count
  // A difference array of the slope's ends: each bar adds its covered share to its first and last step, and 1 to those between.
  const whole = new Float64Array(count + 1)
  const share = new Float64Array(count)
  for (const bar of bars) {
    const from = Math.max(0, (scale(bar.start) - left) / width)
    const to = Math.min(count, (scale(bar.end) - left) / width)
    if (to <= from) continue
    const first = Math.floor(from)
    const last = Math.min(count - 1, Math.floor(to))
    if (first === last) {
      share[first]! += to - from
      continue
    }
    share[first]! += first + 1 - from
    share[last]! += to - last
    whole[first + 1]! += 1
    whole[last]! -= 1
  }
  let level = 0
  return Array.from(share, (part, index) => {
    level += whole[index]!
    return level + part
  })
}
