/**
 * The picture is one well-formed, self-contained, bounded SVG, whatever the run was like.
 */
import { describe, expect, it } from 'vitest'
import { createTimeline } from '../../src/telemetry/timeline.ts'
import { tickStepMs } from '../../src/telemetry/timeline-axis.ts'
import { busyCurve, marksOf } from '../../src/telemetry/timeline-bars.ts'
import type { Bar, TimelineReport } from '../../src/telemetry/timeline-report.ts'
import { timelineSvg } from '../../src/telemetry/timeline-svg.ts'
import { fleetView, placed, released } from './events.ts'

/** A full fleet in waves: every lane has a bar of its own length, then a pause for the update. */
function run(
  instances: number,
  slots: number,
  waves: number,
  lengthMs: number,
  maxIntervals = 100_000,
): TimelineReport {
  const ids = Array.from({ length: instances }, (_, index) => `engine-${index}`)
  const view = fleetView(Object.fromEntries(ids.map((id) => [id, slots])))
  const timeline = createTimeline({ view: () => view, startedAt: 1_000, maxIntervals })
  let lease = 0
  for (let wave = 0; wave < waves; wave++) {
    const start = 1_000 + wave * (lengthMs + 10)
    const leases = ids.flatMap((id) => Array.from({ length: slots }, () => ({ id, lease: ++lease })))
    for (const { id, lease } of leases) timeline.observe(placed(start, id, lease))
    leases.forEach(({ id, lease }, index) => {
      if (index === 1) timeline.settle()
      timeline.observe(
        released(start + (lengthMs * (index + 1)) / leases.length, id, lease, index % 50 === 0 ? 'failed' : 'finished'),
      )
    })
    timeline.settle()
    timeline.observe({ type: 'run.version', at: start + lengthMs + 5, version: wave + 1 })
  }
  return timeline.report(1_000 + waves * (lengthMs + 10))
}

/** Throws where tags do not nest, attributes are not quoted, or a character is not escaped. */
function checkXml(text: string): void {
  const open: string[] = []
  const rest = text.replace(
    /<(\/?)([a-z]+)((?:\s+[a-zA-Z-]+="[^"<]*")*)\s*(\/?)>/g,
    (_, close: string, name: string, __, empty: string) => {
      if (close) expect(open.pop()).toBe(name)
      else if (!empty) open.push(name)
      return ''
    },
  )
  expect(open).toEqual([])
  expect(rest.match(/[<>]|&(?!amp;|lt;|gt;|quot;)/)).toBeNull()
}

describe('timeline picture', () => {
  it('is well-formed and self-contained, with a lane for every slot and a mark for every update', () => {
    const svg = timelineSvg(run(4, 16, 5, 900), { title: 'a < b & "c"', subtitle: 'least-request' })
    checkXml(svg)
    expect(svg.includes('a &lt; b &amp; &quot;c&quot;'), 'a &lt; b &amp; &quot;c&quot;').toBe(true)
    expect(svg.includes('prefers-color-scheme:dark'), 'prefers-color-scheme:dark').toBe(true)
    expect(svg.match(/<script|href|url\(|NaN|undefined|Infinity/)).toBeNull()
    for (const words of ['engine-0', 'engine-3', '16 slots', 'v1', 'tail of a batch', 'of slot time busy'])
      expect(svg.includes(words), words).toBe(true)
  })

  it('draws the curves it is given, inside their strip', () => {
    const points = [
      { at: 1_000, value: -1 },
      { at: 1_500, value: 0.5 },
      { at: 2_000, value: 9 },
    ]
    const svg = timelineSvg(run(1, 2, 2, 500), {
      curves: [
        { name: 'mean reward', top: 1, points },
        { name: 'empty', top: 1, points: [] },
      ],
    })
    checkXml(svg)
    expect(svg.includes('0–1, last 9.00'), '0–1, last 9.00').toBe(true)
    expect(svg.includes('no points'), 'no points').toBe(true)
  })

  it('shows the phases and the marks it is given, in their bands, none of them over another', () => {
    const report = run(2, 4, 3, 500)
    const phases = [
      { phase: 'rollout', start: 1_000, end: 1_500 },
      { phase: 'weightUpdate', start: 1_500, end: 1_510 },
      { phase: 'evaluation', start: 1_510, end: 2_000 },
    ] as const
    const phaseTimes = { evaluation: { times: 3, wallMs: 490, capacityMs: 1, idleMs: 1 } }
    const marks = [
      { at: 1_200, label: 'killed', instance: 'engine-1' },
      { at: 1_210, label: 'restarted', instance: 'engine-1' },
      { at: 1_220, label: 'a < b' },
      { at: 1_230, label: 'elsewhere', instance: 'engine-9' },
    ]
    const svg = timelineSvg({ ...report, phases, phaseTimes }, { marks })
    checkXml(svg)
    expect(svg).toContain('<title>weight update, 10 ms</title>')
    expect(svg).toContain('evaluation 3 times, 490 ms')
    expect(svg).toContain('>a &lt; b</text>')
    expect(svg).not.toContain('elsewhere')
    const boxes = [...svg.matchAll(/class="event-box" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)"/g)]
    const [killed, restarted] = boxes.map(([, ...numbers]) => numbers.map(Number)) as [number[], number[]]
    expect(boxes).toHaveLength(3)
    expect(restarted[0]).toBeLessThan(killed[0]! + killed[2]!)
    expect(restarted[1]).toBeGreaterThan(killed[1]! + 17)
  })

  it('stays under 2 MB for a long run of a large fleet, and says what it left out', () => {
    const report = run(80, 32, 20, 2_000, 30_000)
    const svg = timelineSvg(report)
    checkXml(svg)
    expect(svg.length).toBeLessThan(2_000_000)
    expect(svg.includes('64 of 80 instances are drawn'), '64 of 80 instances are drawn').toBe(true)
    expect(svg.includes('were dropped to bound memory'), 'were dropped to bound memory').toBe(true)
  })

  it('can draw a run in which nothing happened, and a fleet of nobody', () => {
    const nobody = createTimeline({ view: () => fleetView({}), startedAt: 5 })
    checkXml(timelineSvg(nobody.report(5)))
    const idle = createTimeline({ view: () => fleetView({ 'an-instance-with-a-very-long-name': 1 }), startedAt: 5 })
    const svg = timelineSvg(idle.report(5))
    checkXml(svg)
    expect(svg.includes('an-instance-wi…'), 'an-instance-wi…').toBe(true)
    expect(svg.match(/NaN|Infinity/)).toBeNull()
  })
})

describe('geometry of the picture', () => {
  const bar = (start: number, end: number, lane = 0): Bar => ({
    lane,
    start,
    end,
    kind: 'rollout',
    reason: 'finished',
    sample: 's',
    tokens: 1,
    version: null,
  })

  it('merges neighbours that are too narrow to see, and nothing else', () => {
    const marks = marksOf([[bar(0, 0.1), bar(0.2, 0.3), bar(0.3, 5), bar(6, 6.1), bar(0, 0.1, 1)]], (at) => at, 100)[0]!
    expect(marks.map(({ lane, from, to }) => [lane, from, to])).toEqual([
      [0, 0, 5],
      [0, 6, 6.1],
      [1, 0, 0.1],
    ])
  })

  it('draws no more marks than allowed', () => {
    const bars = Array.from({ length: 1_000 }, (_, index) => bar(index, index + 0.9))
    expect(marksOf([bars], (at) => at, 100)[0]!.length).toBeLessThanOrEqual(100)
  })

  it('draws the mean number of busy slots, so that the area is the busy time', () => {
    const curve = busyCurve([bar(0, 10), bar(2.5, 5), bar(9, 99)], (at) => at, 0, 10, 4)
    expect(curve.map((value) => Math.round(value * 100) / 100)).toEqual([1, 2, 1, 1.4])
  })

  it('takes steps that people read time in', () => {
    expect([60, 1_000, 34_000, 60_000, 600_000, 86_400_000].map((span) => tickStepMs(span, 1_100))).toEqual([
      5, 100, 5_000, 5_000, 60_000, 7_200_000,
    ])
  })
})
