/**
 * Draws a timeline as one self-contained SVG: no scripts, no fonts, light and dark. From the top: where the slot time went, the phases of the run,
 * busy slots over time, the caller's own curves (a reward, say), then a band for every instance with a lane for every slot, and the time axis.
 * Bars too narrow to see are merged, and the number of marks is bounded, so that the file stays small however long the run.
 */
import { type IdleReason, idleLabels } from './idle.ts'
import { duration, escapeXml, percent, px, shorten, text } from './svg-text.ts'
import { axis } from './timeline-axis.ts'
import { busyCurve, type Frame, type Mark, marksOf, type Patch, patchesOf, type Scale } from './timeline-bars.ts'
import {
  LEGEND_HEIGHT,
  markLines,
  PHASES_HEIGHT,
  type Place,
  phaseStrip,
  type TimelineMark,
  updateLines,
} from './timeline-marks.ts'
import type { BarKind, InstanceTimeline, TimelineReport } from './timeline-report.ts'
import { barClass, barLabels, idleClass, themeCss } from './timeline-theme.ts'

/** A line of the caller's own over the time axis: a reward, say. */
export interface TimelineCurve {
  readonly name: string
  /** The value at the top of its strip; the bottom is 0. */
  readonly top: number
  readonly points: readonly { readonly at: number; readonly value: number }[]
}

/** Options of timelineSvg. */
export interface TimelineSvgOptions {
  /** @default 'Rollout timeline' */
  readonly title?: string
  /** Said after the size of the fleet. @default nothing */
  readonly subtitle?: string
  readonly curves?: readonly TimelineCurve[]
  /** Moments to point at. @default none */
  readonly marks?: readonly TimelineMark[]
  /** Pixels, 640 or more. @default 1280 */
  readonly width?: number
  /** Bands drawn; the rest is counted in the sums and named in a note. @default 64 */
  readonly maxInstances?: number
  /** Bars drawn. About 20 bytes each. @default 20_000 */
  readonly maxMarks?: number
}

const MARGIN = 28
/** Room for an instance's name and numbers. */
const LABELS = 116
const STRIP = 44
const MOST_DOTS = 60
const GAP = 12
/** Tallest lane, and the height that all lanes together should have: small fleets get thick lanes. */
const LANE = 8
const LANES_HEIGHT = 900
const LEAST_BAND = 30
/** Bars at least this wide carry a tooltip; at most so many, 130 bytes each. */
const TOOLTIP_PIXELS = 3
const MAX_TOOLTIPS = 4_000

/** The picture of a timeline as the text of an SVG file. O(bars log bars). */
export function timelineSvg(report: TimelineReport, options: TimelineSvgOptions = {}): string {
  const { title = 'Rollout timeline', subtitle = '', curves = [], marks: moments = [] } = options
  const { maxInstances = 64, maxMarks = 20_000 } = options
  const width = Math.max(640, options.width ?? 1280)
  const from = report.completeSince
  const span = Math.max(1, report.endedAt - from)
  const left = MARGIN + LABELS
  const right = width - MARGIN
  const scale: Scale = (at) => left + ((Math.min(Math.max(at, from), from + span) - from) / span) * (right - left)
  const frame: Frame = { left, right, scale }

  const shown = report.instances.filter((instance) => instance.lanes > 0).slice(0, maxInstances)
  const body: string[] = []
  const head = header(report, title, [fleetWords(report), subtitle].filter(Boolean).join('  ·  '), width)
  body.push(head.svg)
  let y = head.height + 26
  const labelsAt = y - 12
  body.push(text(MARGIN, y + 10, 'phases', 'ink', 12, 'font-weight="600"'), phaseStrip(report, frame, y))
  y += PHASES_HEIGHT + LEGEND_HEIGHT + GAP
  const plotTop = y - 8
  body.push(busyStrip(report, frame, y))
  y += STRIP + GAP
  for (const curve of curves) {
    body.push(curveStrip(curve, frame, y, from))
    y += STRIP + GAP
  }
  const lanes = shown.reduce((sum, instance) => sum + instance.lanes, 0)
  const lane = Math.min(LANE, LANES_HEIGHT / Math.max(1, lanes))
  const tooltips = { left: MAX_TOOLTIPS }
  const marks = marksOf(
    shown.map((instance) => instance.bars),
    scale,
    maxMarks,
  )
  const patches = patchesOf(
    shown.map((instance) => instance.idle),
    scale,
    maxMarks / 4,
  )
  const places = new Map<string | undefined, Place>()
  shown.forEach((instance, index) => {
    const height = Math.max(LEAST_BAND, instance.lanes * lane)
    body.push(band(instance, marks[index]!, patches[index]!, y, height, from, tooltips))
    places.set(instance.id, { top: y, bottom: y + height })
    y += height + GAP
  })
  places.set(undefined, { top: plotTop, bottom: y - GAP + 6 })
  const grid = axis(from - report.startedAt, span, frame, plotTop, y - GAP + 6)
  const updates = updateLines(report, frame, labelsAt, { top: plotTop, bottom: y - GAP + 6 })
  y += 22
  const notes = notesOf(report, shown.length)
  body.push(...notes.map((note, index) => text(left, y + 14 + index * 16, note, 'soft', 11)))
  const height = Math.ceil(y + notes.length * 16 + 12)
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img">`,
    `<title>${escapeXml(title)}</title><style>${themeCss()}</style><rect class="paper" width="${width}" height="${height}"/>`,
    grid,
    ...body,
    updates,
    markLines(moments, (mark) => places.get(mark.instance), frame, from),
    '</svg>\n',
  ].join('\n')
}

function fleetWords(report: TimelineReport): string {
  const slots = report.instances.reduce((sum, instance) => sum + instance.lanes, 0)
  const { length } = report.instances
  return `${length} ${length === 1 ? 'instance' : 'instances'}  ·  ${slots} slots  ·  ${duration(report.endedAt - report.startedAt)}`
}

interface Share {
  readonly label: string
  readonly css: string
  readonly share: number
}

/** Busy kinds, then idle reasons, the largest first: shares of all slot time. */
function shares(report: TimelineReport): Share[] {
  const total = Math.max(report.capacityMs, Number.MIN_VALUE)
  const bySize = (a: Share, b: Share) => b.share - a.share
  const busy = Object.entries(report.busyMsByKind).map(([kind, ms]) => ({
    label: barLabels[kind as BarKind],
    css: barClass(kind as BarKind),
    share: ms / total,
  }))
  const idle = Object.entries(report.idleMs).map(([reason, ms]) => ({
    label: idleLabels[reason as IdleReason],
    css: idleClass(reason as IdleReason),
    share: ms / total,
  }))
  return [...busy.sort(bySize), ...idle.sort(bySize)].filter((item) => item.share > 0)
}

function header(
  report: TimelineReport,
  title: string,
  subtitle: string,
  width: number,
): { svg: string; height: number } {
  const parts: string[] = []
  const right = width - MARGIN
  parts.push(text(MARGIN, 46, title, 'ink', 21, 'font-weight="650"'), text(MARGIN, 68, subtitle, 'soft', 13))
  parts.push(text(right, 50, percent(report.utilisation), 'ink', 27, 'font-weight="650" text-anchor="end"'))
  parts.push(text(right, 68, 'of slot time busy', 'soft', 12, 'text-anchor="end"'))
  const items = shares(report)
  let x = MARGIN
  for (const { css, share, label } of items) {
    const size = share * (right - MARGIN)
    parts.push(
      `<rect class="${css}" x="${px(x)}" y="84" width="${px(size)}" height="12"><title>${escapeXml(`${label} ${percent(share)}`)}</title></rect>`,
    )
    x += size
  }
  let [cursor, y] = [MARGIN, 118]
  for (const { css, share, label } of items) {
    const words = `${label} ${percent(share)}`
    const size = 18 + words.length * 6.6 + 20
    if (cursor > MARGIN && cursor + size - 20 > right) [cursor, y] = [MARGIN, y + 20]
    parts.push(`<rect class="${css}" x="${cursor}" y="${y - 10}" width="12" height="12" rx="2.5"/>`)
    parts.push(text(cursor + 18, y, words, 'ink', 12))
    cursor += size
  }
  return { svg: parts.join(''), height: y + 14 }
}

function busyStrip(report: TimelineReport, frame: Frame, y: number): string {
  const slots = report.instances.reduce((sum, instance) => sum + instance.lanes, 0)
  const count = Math.ceil((frame.right - frame.left) / 2)
  const step = (frame.right - frame.left) / count
  const all = report.instances.flatMap((instance) => instance.bars)
  const heights = busyCurve(all, frame.scale, frame.left, frame.right, count)
  const path = heights.map((busy) => `V${px(y + STRIP - (busy / Math.max(1, slots)) * STRIP)}h${px(step)}`).join('')
  return [
    stripFrame('busy slots', `0–${slots}`, frame, y),
    `<path class="b-rollout" fill-opacity=".85" d="M${frame.left} ${y + STRIP}${path}V${y + STRIP}z"/>`,
  ].join('')
}

function curveStrip(curve: TimelineCurve, frame: Frame, y: number, from: number): string {
  const at = ({ at, value }: TimelineCurve['points'][number]) =>
    `${px(frame.scale(at))} ${px(y + STRIP - Math.min(1, Math.max(0, value / curve.top)) * STRIP)}`
  const points = curve.points.filter((point) => point.at >= from)
  const last = points.at(-1)
  const words = last ? `last ${last.value.toFixed(2)}` : 'no points'
  // Few points are moments, not a course.
  const dots = points.length <= MOST_DOTS ? points.map((point) => `M${at(point)}h0`).join('') : ''
  const line = last
    ? `<path class="curve" d="M${points.map(at).join('L')}"/><path class="curve dots" d="${dots}"/>`
    : ''
  return stripFrame(curve.name, `0–${curve.top}, ${words}`, frame, y) + line
}

function stripFrame(name: string, range: string, { left, right }: Frame, y: number): string {
  return [
    `<path class="grid" d="M${left} ${y + 0.5}H${right}M${left} ${y + STRIP + 0.5}H${right}"/>`,
    text(MARGIN, y + 18, name, 'ink', 12, 'font-weight="600"'),
    text(MARGIN, y + 34, range, 'soft', 11),
  ].join('')
}

function band(
  instance: InstanceTimeline,
  marks: readonly Mark[],
  patches: readonly Patch[],
  y: number,
  height: number,
  from: number,
  tooltips: { left: number },
): string {
  const lane = height / instance.lanes
  // A hair between lanes where there is room for it.
  const thick = lane >= 4 ? lane - 1 : lane >= 2 ? lane - 0.5 : lane
  const middle = y + height / 2
  const parts = [
    text(MARGIN, middle - 9, shorten(instance.id, 15), 'ink', 13, 'font-weight="600"'),
    text(MARGIN, middle + 7, `${percent(instance.utilisation)} busy`, 'soft', 11.5),
    text(MARGIN, middle + 22, `${instance.lanes} slots`, 'soft', 11.5),
  ]
  if (height < 56)
    parts.splice(1, 2, text(MARGIN, middle + 8, `${percent(instance.utilisation)} of ${instance.lanes}`, 'soft', 11.5))
  parts.push(...idlePaths(patches, y, height))
  const plain = new Map<BarKind, string[]>()
  for (const mark of marks) {
    const top = y + mark.lane * lane + (lane - thick) / 2
    const size = mark.to - mark.from
    // A sliver of background after each bar tells neighbours apart.
    const drawn = Math.max(0.3, size > 2 ? size - 0.6 : size * 0.85)
    if (mark.bar && size >= TOOLTIP_PIXELS && tooltips.left > 0) {
      tooltips.left -= 1
      const corner = size > 5 && thick > 4 ? ' rx="1.2"' : ''
      const shape = `x="${px(mark.from)}" y="${px(top)}" width="${px(drawn)}" height="${px(thick)}"${corner}`
      parts.push(`<rect class="${barClass(mark.kind)}" ${shape}><title>${tooltip(mark.bar, from)}</title></rect>`)
    } else {
      const list = plain.get(mark.kind) ?? []
      if (list.length === 0) plain.set(mark.kind, list)
      list.push(`M${px(mark.from)} ${px(top)}h${px(drawn)}v${px(thick)}h-${px(drawn)}`)
    }
  }
  for (const [kind, list] of plain) parts.push(`<path class="${barClass(kind)}" d="${list.join('')}"/>`)
  return parts.join('\n')
}

/** One path for each reason, under the bars of the whole band. */
function idlePaths(patches: readonly Patch[], y: number, height: number): string[] {
  const paths = new Map<IdleReason, string[]>()
  for (const { reason, from, to } of patches) {
    const list = paths.get(reason) ?? []
    if (list.length === 0) paths.set(reason, list)
    list.push(`M${px(from)} ${px(y)}h${px(to - from)}v${px(height)}h-${px(to - from)}`)
  }
  return [...paths].map(
    ([reason, list]) =>
      `<path class="${idleClass(reason)}" d="${list.join('')}"><title>idle: ${idleLabels[reason]}</title></path>`,
  )
}

function tooltip(bar: Mark['bar'] & object, from: number): string {
  const ended = bar.reason === null ? 'still running' : bar.reason
  const version = bar.version === null ? '' : `, version ${bar.version}`
  const at = duration(bar.start - from)
  return escapeXml(
    `${bar.sample}: ${bar.kind}, ${ended}, ${bar.tokens} tokens in ${duration(bar.end - bar.start)} from ${at}${version}`,
  )
}

function notesOf(report: TimelineReport, shown: number): string[] {
  const notes: string[] = []
  const since = duration(report.completeSince - report.startedAt)
  if (report.dropped > 0)
    notes.push(
      `The first ${since} (${report.dropped} bars and spans) are not drawn: they were dropped to bound memory. All shares cover the whole run.`,
    )
  const withLanes = report.instances.filter((instance) => instance.lanes > 0).length
  if (shown < withLanes) notes.push(`${shown} of ${withLanes} instances are drawn. All shares cover the whole fleet.`)
  return notes
}
