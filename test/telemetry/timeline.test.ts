/**
 * The timeline accounts for every millisecond of every slot: busy, or idle for a reason it can name.
 */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { createTimeline } from '../../src/telemetry/timeline.ts'
import { fleetView, placed, released } from './events.ts'

const idleSum = (part: { idleMs: Readonly<Partial<Record<string, number>>> }) =>
  Object.values(part.idleMs).reduce<number>((sum, ms) => sum + (ms ?? 0), 0)

describe('timeline', () => {
  it('counts busy slot time over capacity, per instance and in all', () => {
    const view = fleetView({ a: 2, b: 2 })
    const timeline = createTimeline({ view: () => view, startedAt: 0 })
    timeline.observe(placed(0, 'a', 1))
    timeline.observe(placed(0, 'a', 2))
    timeline.observe(released(50, 'a', 1))
    timeline.observe(released(100, 'a', 2))
    const report = timeline.report(100)
    expect(report.instances.map(({ id, utilisation }) => [id, utilisation])).toEqual([
      ['a', 0.75],
      ['b', 0],
    ])
    expect(report).toMatchObject({ busyMs: 150, capacityMs: 400, utilisation: 0.375, busyMsByKind: { rollout: 150 } })
  })

  it('A7: names the turn that strict round-robin keeps, and tells it from the tail and from having no work', () => {
    const view = fleetView({ slow: 1, quick: 1 })
    const timeline = createTimeline({ view: () => view, startedAt: 0 })
    timeline.settle()
    timeline.observe(placed(10, 'slow', 1))
    timeline.observe(placed(10, 'quick', 2))
    view.waiting = { turn: 1 }
    timeline.observe(released(20, 'quick', 2))
    timeline.settle()
    timeline.observe(released(60, 'slow', 1))
    timeline.observe(placed(60, 'slow', 3))
    view.waiting = {}
    timeline.settle()
    timeline.observe(released(100, 'slow', 3))
    const { instances } = timeline.report(100)
    expect(instances[1]).toMatchObject({ id: 'quick', idleMs: { noWork: 10, turn: 40, tail: 40 }, busyMs: 10 })
    expect(instances[1]?.idle.map(({ start, end, reason }) => [start, end, reason])).toEqual([
      [0, 10, 'noWork'],
      [20, 60, 'turn'],
      [60, 100, 'tail'],
    ])
  })

  it('says how long each phase was, and how much slot time was idle in it', () => {
    const view = fleetView({ a: 2 })
    const timeline = createTimeline({ view: () => view, startedAt: 0 })
    timeline.settle()
    timeline.observe(placed(0, 'a', 1))
    timeline.observe({ type: 'run.phase', at: 10, phase: 'weightUpdate' })
    timeline.observe(released(14, 'a', 1, 'interrupted'))
    timeline.observe({ type: 'run.phase', at: 20, phase: 'rollout' })
    timeline.observe(placed(20, 'a', 2))
    timeline.observe({ type: 'run.phase', at: 50, phase: 'weightUpdate' })
    const { phases, phaseTimes, capacityMs, idleMs } = timeline.report(60)
    expect(phases).toEqual([
      { phase: 'rollout', start: 0, end: 10 },
      { phase: 'weightUpdate', start: 10, end: 20 },
      { phase: 'rollout', start: 20, end: 50 },
      { phase: 'weightUpdate', start: 50, end: 60 },
    ])
    expect(phaseTimes).toEqual({
      rollout: { times: 2, wallMs: 40, capacityMs: 80, idleMs: 40 },
      weightUpdate: { times: 2, wallMs: 20, capacityMs: 40, idleMs: 26 },
    })
    expect([capacityMs, idleSum({ idleMs })]).toEqual([120, 66])
  })

  it('says update, paused and stopping while the run is in those phases, and unhealthy where an instance is', () => {
    const view = fleetView({ a: 1, b: 1 })
    const timeline = createTimeline({ view: () => view, startedAt: 0 })
    timeline.settle()
    timeline.observe({ type: 'instance.state', at: 0, instance: 'b', state: 'unhealthy.open' })
    view.instances[1]!.state = 'unhealthy.open'
    for (const [at, phase] of [
      [10, 'weightUpdate'],
      [30, 'paused'],
      [60, 'stopping'],
    ] as const) {
      timeline.observe({ type: 'run.phase', at, phase })
      timeline.settle()
    }
    const { instances } = timeline.report(100)
    expect(instances[0]?.idleMs).toEqual({ noWork: 10, update: 20, paused: 30, stopping: 40 })
    expect(instances[1]?.idleMs).toEqual({ unhealthy: 100 })
  })

  it('does not count capacity before an instance is known and after it has left', () => {
    const view = fleetView({ a: null })
    const timeline = createTimeline({ view: () => view, startedAt: 0 })
    view.instances[0]!.capacity = 4
    timeline.observe({ type: 'instance.state', at: 100, instance: 'a', state: 'serving.idle' })
    timeline.settle()
    timeline.observe(placed(100, 'a', 1))
    view.instances = []
    timeline.observe({ type: 'instance.left', at: 150, instance: 'a' })
    timeline.settle()
    expect(timeline.report(1_000)).toMatchObject({ capacityMs: 200, busyMs: 50, busyMsByKind: { interrupted: 50 } })
  })

  it('settles by itself after a burst of events', async () => {
    const view = fleetView({ a: 1 })
    let looks = 0
    const timeline = createTimeline({
      view: () => {
        looks += 1
        return view
      },
      startedAt: 0,
    })
    const before = looks
    view.waiting = { backoff: 1 }
    timeline.observe({ type: 'run.phase', at: 0, phase: 'rollout' })
    timeline.observe({ type: 'run.version', at: 0, version: 1 })
    await Promise.resolve()
    expect(looks - before).toBe(1)
    expect(timeline.report(10)).toMatchObject({ idleMs: { backoff: 10 }, updates: [{ at: 0, version: 1 }] })
  })

  it('draws running bars up to now, with the kind, the version and the lane they have', () => {
    const view = fleetView({ a: 3 })
    const timeline = createTimeline({ view: () => ({ ...view, version: 7 }), startedAt: 0 })
    timeline.observe(placed(1, 'a', 1))
    timeline.observe(placed(2, 'a', 2, 'evaluation'))
    timeline.observe(released(3, 'a', 1, 'timedOut'))
    timeline.observe(placed(4, 'a', 3))
    const bars = timeline.report(10).instances[0]!.bars
    expect(
      bars.map(({ lane, start, end, kind, reason, version }) => ({ lane, start, end, kind, reason, version })),
    ).toEqual([
      { lane: 0, start: 1, end: 3, kind: 'failed', reason: 'timedOut', version: 7 },
      { lane: 1, start: 2, end: 10, kind: 'evaluation', reason: null, version: 7 },
      { lane: 0, start: 4, end: 10, kind: 'rollout', reason: null, version: 7 },
    ])
  })

  it('bounds its memory, says what it dropped, and keeps its sums', () => {
    const view = fleetView({ a: 1 })
    const timeline = createTimeline({ view: () => view, startedAt: 0, maxIntervals: 100 })
    for (let lease = 1; lease <= 10_000; lease++) {
      timeline.observe(placed(lease * 10, 'a', lease))
      timeline.observe(released(lease * 10 + 4, 'a', lease))
    }
    const report = timeline.report(100_010)
    expect(report.instances[0]!.bars.length).toBeLessThanOrEqual(100)
    expect(report.instances[0]!.idle.length).toBeLessThanOrEqual(101)
    expect(report.dropped).toBeGreaterThan(19_000)
    expect(report.completeSince).toBeGreaterThan(98_000)
    expect(report.instances[0]!.bars.every((bar) => bar.end > report.completeSince)).toBe(true)
    expect(report.busyMs).toBe(40_000)
    expect(report.busyMs + idleSum(report)).toBe(report.capacityMs)
  })

  it('busy and idle add up to capacity, whatever happens in whatever order', () => {
    const step = fc.record({
      wait: fc.integer({ min: 0, max: 50 }),
      instance: fc.constantFrom('a', 'b', 'c'),
      lease: fc.integer({ min: 1, max: 12 }),
      what: fc.constantFrom('place', 'release', 'phase', 'waiting', 'state', 'leave', 'capacity', 'version', 'settle'),
      pick: fc.integer({ min: 0, max: 5 }),
    })
    fc.assert(
      fc.property(fc.array(step, { maxLength: 80, size: 'max' }), (steps) => {
        const view = fleetView({ a: 1, b: 3, c: null })
        const timeline = createTimeline({ view: () => view, startedAt: 0, maxIntervals: 100 })
        const held = new Map<number, string>()
        let at = 0
        for (const { wait, instance, lease, what, pick } of steps) {
          at += wait
          const seen = view.instances.find(({ id }) => id === instance)
          if (what === 'place' && !held.has(lease)) {
            held.set(lease, instance)
            timeline.observe(placed(at, instance, lease))
          } else if (what === 'release') timeline.observe(released(at, held.get(lease) ?? instance, lease))
          else if (what === 'phase') {
            view.phase = (['starting', 'rollout', 'paused', 'weightUpdate', 'stopping', 'stopped'] as const)[pick]!
            timeline.observe({ type: 'run.phase', at, phase: view.phase })
          } else if (what === 'state') {
            const state = ['serving.busy', 'stale', 'paused', 'unhealthy.open', 'draining', 'connecting'][pick]!
            if (seen) seen.state = state
            timeline.observe({ type: 'instance.state', at, instance, state })
          } else if (what === 'leave') {
            view.instances = view.instances.filter(({ id }) => id !== instance)
            timeline.observe({ type: 'instance.left', at, instance })
          } else if (what === 'waiting')
            view.waiting = [{}, { turn: 1 }, { capacity: 2 }, { gate: 1 }, { version: 1 }, {}][pick]!
          else if (what === 'version') timeline.observe({ type: 'run.version', at, version: pick })
          else if (what === 'settle') timeline.settle()
          else if (seen) seen.capacity = pick
          if (what === 'release') held.delete(lease)
        }
        const report = timeline.report(at + 10)
        for (const part of [report, ...report.instances]) {
          expect(part.busyMs + idleSum(part)).toBeCloseTo(part.capacityMs, 6)
          const byKind = Object.values(part.busyMsByKind).reduce((sum, ms) => sum + ms, 0)
          expect(byKind).toBeCloseTo(part.busyMs, 6)
        }
        for (const { bars } of report.instances) {
          const sorted = bars.toSorted((x, y) => x.lane - y.lane || x.start - y.start || x.end - y.end)
          for (let i = 1; i < sorted.length; i++) {
            if (sorted[i]!.lane === sorted[i - 1]!.lane)
              expect(sorted[i]!.start).toBeGreaterThanOrEqual(sorted[i - 1]!.end)
          }
        }
      }),
      { numRuns: 300 },
    )
  })
})
