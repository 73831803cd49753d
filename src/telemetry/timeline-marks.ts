/**
 * What happened at a moment or lasted a while, over the time axis of a timeline: the strip of phases, a line at every weight update, and
 * the caller's own marks (a server that was killed, say).
 */
import type { Phase } from './events.ts'
import { duration, escapeXml, px, shorten, text } from './svg-text.ts'
import type { Frame } from './timeline-bars.ts'
import type { TimelineReport } from './timeline-report.ts'

/** A moment of the caller's own. */
export interface TimelineMark {
  readonly at: number
  /** A word or two. */
  readonly label: string
  /** Whose band it is drawn in. @default all of the picture */
  readonly instance?: string
}

/** A band's place in the picture. */
export interface Place {
  readonly top: number
  readonly bottom: number
}

export const PHASES_HEIGHT = 12
/** An update of 20 ms in a run of a minute is a third of a pixel: drawn as wide as can be seen. */
const LEAST_PHASE = 1.4
/** Closer lines would only grey the picture. */
const LINE_PIXELS = 6
const LABEL_PIXELS = 34

const PHASE_LABELS: Readonly<Record<Phase, string>> = {
  starting: 'starting',
  rollout: 'rollout',
  evaluation: 'evaluation',
  paused: 'paused',
  weightUpdate: 'weight update',
  stopping: 'stopping',
  stopped: 'stopped',
}

const phaseClass = (phase: Phase): string => `p-${phase}`

/** One row: which phase was when. Short ones are drawn over long ones. */
export function phaseStrip({ phases, phaseTimes, completeSince }: TimelineReport, frame: Frame, y: number): string {
  const { left, right, scale } = frame
  const parts = [`<rect class="p-rollout" x="${left}" y="${y}" width="${px(right - left)}" height="${PHASES_HEIGHT}"/>`]
  let last = Number.NEGATIVE_INFINITY
  const others = phases.filter(({ phase, end }) => phase !== 'rollout' && end > completeSince)
  for (const { phase, start, end } of others) {
    const from = scale(start)
    const size = Math.max(LEAST_PHASE, scale(end) - from)
    // Those that would hide under the one before add nothing to see.
    if (from + size - last < LEAST_PHASE / 2) continue
    last = from + size
    const words = `${PHASE_LABELS[phase]}, ${duration(end - start)}`
    parts.push(
      `<rect class="${phaseClass(phase)}" x="${px(from)}" y="${y}" width="${px(size)}" height="${PHASES_HEIGHT}"><title>${escapeXml(words)}</title></rect>`,
    )
  }
  return [...parts, legend(phaseTimes, frame, y + PHASES_HEIGHT + 14)].join('')
}

/** How often and how long, for each phase that was. */
function legend(times: TimelineReport['phaseTimes'], { left }: Frame, y: number): string {
  let x = left
  const parts: string[] = []
  for (const [phase, { times: count, wallMs }] of Object.entries(times) as [
    Phase,
    { times: number; wallMs: number },
  ][]) {
    if (wallMs === 0) continue
    const words = `${PHASE_LABELS[phase]}${count > 1 ? ` ${count} times,` : ''} ${duration(wallMs)}`
    parts.push(`<rect class="${phaseClass(phase)}" x="${px(x)}" y="${y - 8}" width="9" height="9" rx="2"/>`)
    parts.push(text(px(x + 14), y, words, 'soft', 11))
    x += 14 + words.length * 5.9 + 16
  }
  return parts.join('')
}

export const LEGEND_HEIGHT = 20

/** A line at every weight update; a label where the last one left room. */
export function updateLines(
  report: TimelineReport,
  { left, scale }: Frame,
  labelsAt: number,
  { top, bottom }: Place,
): string {
  let lines = ''
  let free = left - LABEL_PIXELS
  let drawn = Number.NEGATIVE_INFINITY
  const labels: string[] = []
  for (const { at, version } of report.updates) {
    const x = scale(at)
    if (x - drawn < LINE_PIXELS) continue
    drawn = x
    lines += `M${px(x)} ${px(top)}V${px(bottom)}`
    if (x - free < LABEL_PIXELS) continue
    free = x
    labels.push(text(px(x), labelsAt, `v${version}`, 'soft', 10, 'text-anchor="middle"'))
  }
  return lines === '' ? '' : `<path class="mark" d="${lines}"><title>weight update</title></path>${labels.join('')}`
}

const BOX_HEIGHT = 17

/**
 * Lines with a label in a box, over everything else. A label that would leave the picture on the right stands left of its line; one that would
 * cover another stands below it.
 */
export function markLines(
  marks: readonly TimelineMark[],
  placeOf: (mark: TimelineMark) => Place | undefined,
  { left, right, scale }: Frame,
  from: number,
): string {
  const parts: string[] = []
  const ends: { readonly place: Place; readonly right: number; readonly bottom: number }[] = []
  for (const mark of marks) {
    const place = placeOf(mark)
    if (place === undefined || mark.at < from) continue
    const x = scale(mark.at)
    const label = shorten(mark.label, 24)
    const size = label.length * 6.1 + 12
    const box = x + 4 + size > right && x - 4 - size > left ? x - 4 - size : x + 4
    const above = ends.filter((end) => end.place === place && end.right > box)
    const y = Math.max(place.top + 3, ...above.map(({ bottom }) => bottom + 2))
    ends.push({ place, right: box + size + 2, bottom: y + BOX_HEIGHT })
    parts.push(
      `<path class="event" d="M${px(x)} ${px(place.top - 2)}V${px(place.bottom + 2)}"/>`,
      `<rect class="event-box" x="${px(box)}" y="${px(y)}" width="${px(size)}" height="${BOX_HEIGHT}" rx="3.5"/>`,
      text(px(box + size / 2), y + 12.2, label, 'event-ink', 11, 'text-anchor="middle" font-weight="600"'),
    )
  }
  return parts.join('')
}
