/**
 * Colours and type of the timeline picture, for light and dark. Plain classes instead of CSS variables, so that every SVG viewer shows them.
 * Busy time is strong, idle time is a tint of its reason.
 */
import type { Phase } from './events.ts'
import type { IdleReason } from './idle.ts'
import type { BarKind } from './timeline-report.ts'

type LightAndDark = readonly [light: string, dark: string]

export const barLabels: Readonly<Record<BarKind, string>> = {
  rollout: 'rollout',
  evaluation: 'evaluation',
  interrupted: 'interrupted',
  cancelled: 'cancelled',
  failed: 'failed',
}

const BARS: Readonly<Record<BarKind, LightAndDark>> = {
  rollout: ['#2b7fc1', '#4f9fe0'],
  evaluation: ['#7a55c7', '#a285ea'],
  interrupted: ['#c77d0a', '#e5a43a'],
  cancelled: ['#8a94a3', '#7d8896'],
  failed: ['#c93a3a', '#ee6a66'],
}

const IDLE: Readonly<Record<IdleReason, LightAndDark>> = {
  tail: ['#fae3b4', '#3f3520'],
  noWork: ['#e9edf2', '#252c36'],
  update: ['#cfeadd', '#173f32'],
  paused: ['#e3dccb', '#3a352a'],
  turn: ['#f8ccd2', '#4f2530'],
  gate: ['#d8dcf3', '#2b2f55'],
  version: ['#d5e6f0', '#1f3d4d'],
  backPressure: ['#ead8f0', '#432a4d'],
  staleness: ['#e2e6c4', '#3b4019'],
  backoff: ['#f1dcc9', '#4c3524'],
  tokenizing: ['#cdeaea', '#164043'],
  unhealthy: ['#f1b5ae', '#6b2622'],
  stale: ['#dcd3c4', '#3f3629'],
  draining: ['#d3e0e3', '#263b40'],
  starting: ['#e4e4e4', '#303030'],
  stopping: ['#dadada', '#383838'],
  unplaced: ['#ffb3f0', '#7a1a68'],
}

const PHASES: Readonly<Record<Phase, LightAndDark>> = {
  starting: ['#d3d7dc', '#3a414b'],
  rollout: ['#dbe9f5', '#1b2f42'],
  evaluation: BARS.evaluation,
  paused: ['#b9a878', '#85764c'],
  weightUpdate: ['#3d8f6c', '#58c498'],
  stopping: ['#b5bcc5', '#545c67'],
  stopped: ['#b5bcc5', '#545c67'],
}

const INK: Readonly<Record<string, LightAndDark>> = {
  paper: ['#ffffff', '#0e131a'],
  ink: ['#18212c', '#e8edf3'],
  soft: ['#5b6675', '#97a3b2'],
  'event-box': ['#8f2323', '#f3a39d'],
  'event-ink': ['#ffffff', '#2a0d0b'],
}

const LINES: Readonly<Record<string, LightAndDark>> = {
  grid: ['#dfe4ea', '#222a35'],
  mark: ['#3d8f6c', '#58c498'],
  curve: ['#b0457a', '#ea86b4'],
  event: ['#8f2323', '#f3a39d'],
}

export const idleClass = (reason: IdleReason): string => `i-${reason}`
export const barClass = (kind: BarKind): string => `b-${kind}`

/** The style sheet of the picture. */
export function themeCss(): string {
  const fills = { ...INK, ...prefixed(BARS, 'b-'), ...prefixed(IDLE, 'i-'), ...prefixed(PHASES, 'p-') }
  const sheet = (index: 0 | 1) =>
    [
      ...Object.entries(fills).map(([name, colours]) => `.${name}{fill:${colours[index]}}`),
      ...Object.entries(LINES).map(([name, colours]) => `.${name}{stroke:${colours[index]}}`),
    ].join('')
  return [
    'text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;font-variant-numeric:tabular-nums}',
    '.grid,.mark,.curve{fill:none}.mark{stroke-dasharray:2 3;stroke-opacity:.75}.curve{stroke-width:1.75;stroke-linejoin:round}.dots{stroke-width:5;stroke-linecap:round}.event{stroke-width:1.5}',
    sheet(0),
    `@media(prefers-color-scheme:dark){${sheet(1)}}`,
  ].join('')
}

function prefixed(colours: Readonly<Record<string, LightAndDark>>, prefix: string): Record<string, LightAndDark> {
  return Object.fromEntries(Object.entries(colours).map(([name, pair]) => [`${prefix}${name}`, pair]))
}
