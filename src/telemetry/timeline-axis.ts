/**
 * The time axis of a timeline: ticks at the steps people read time in, and their labels.
 */
import { px, text } from './svg-text.ts'
import type { Frame } from './timeline-bars.ts'

/** Milliseconds between two ticks: the round steps people read time in. */
const STEPS = [
  1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 10e3, 15e3, 30e3, 60e3, 120e3, 300e3, 600e3, 900e3, 1800e3, 3600e3,
]
const TICK_PIXELS = 80

/** The step for an axis of so many pixels. Beyond hours: whole multiples of an hour. */
export function tickStepMs(spanMs: number, pixels: number): number {
  const wanted = (spanMs * TICK_PIXELS) / pixels
  return STEPS.find((step) => step >= wanted) ?? Math.ceil(wanted / 3600e3) * 3600e3
}

export function axis(offset: number, span: number, { left, right }: Frame, top: number, bottom: number): string {
  const step = tickStepMs(span, right - left)
  const parts: string[] = []
  let lines = ''
  for (let tick = Math.ceil(offset / step) * step; tick <= offset + span; tick += step) {
    const x = px(left + ((tick - offset) / span) * (right - left))
    lines += `M${x} ${px(top)}V${px(bottom)}`
    parts.push(text(x, bottom + 16, tickLabel(tick, step), 'soft', 11.5, 'text-anchor="middle"'))
  }
  return `<path class="grid" d="${lines}"/>${parts.join('')}`
}

function tickLabel(ms: number, step: number): string {
  if (step < 1e3) return `${ms / 1e3} s`
  if (step < 60e3 && ms < 120e3) return `${ms / 1e3} s`
  const [hours, minutes, seconds] = [Math.floor(ms / 3600e3), Math.floor(ms / 60e3) % 60, Math.round(ms / 1e3) % 60]
  const two = (value: number) => String(value).padStart(2, '0')
  return hours > 0 ? `${hours}:${two(minutes)}:${two(seconds)}` : `${minutes}:${two(seconds)}`
}
