/**
 * The instance machine by itself: every reachable state against every event, and random lives of one server on XState's own
 * simulated clock (I3, I10).
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type ActorRefFrom, createActor, SimulatedClock, type SnapshotFrom } from 'xstate'
import { type InstanceMachineEvent, instanceMachine } from '../../machines/index.ts'
import { explore, nameOf } from './graph.ts'

const input = { id: 'a', capacity: 2, breaker: { failures: 2, resetMs: 100, maxResetMs: 1_000 } }

const events: readonly InstanceMachineEvent[] = [
  { type: 'probe.succeeded', capacity: 2, weightVersion: '1', expected: null },
  { type: 'probe.succeeded', capacity: 2, weightVersion: '1', expected: '2' },
  { type: 'probe.failed' },
  { type: 'lease.granted' },
  { type: 'lease.released', outcome: 'succeeded' },
  { type: 'lease.released', outcome: 'failed' },
  { type: 'lease.released', outcome: 'neutral' },
  { type: 'lease.passed' },
  { type: 'capacity.changed', capacity: 1 },
  { type: 'capacity.changed', capacity: 2 },
  { type: 'server.suspected' },
  { type: 'server.stalled' },
  { type: 'server.suspected' },
  { type: 'server.stalled' },
  { type: 'gate.closed' },
  { type: 'gate.opened' },
  { type: 'weights.loaded', weightVersion: '2' },
  { type: 'weights.lost' },
  { type: 'instance.drain', deadlineMs: null },
  { type: 'instance.stop' },
]
/** What XState sends itself when a delay has passed. */
const delays = [
  { type: 'xstate.after.backoff.instance.unhealthy.open' },
  { type: 'xstate.after.drainDeadline.instance.draining' },
] as unknown as readonly InstanceMachineEvent[]

type Snapshot = SnapshotFrom<typeof instanceMachine>

function label(event: InstanceMachineEvent): string {
  if (event.type === 'lease.released') return `lease.released (${event.outcome})`
  if (event.type === 'probe.succeeded')
    return `probe.succeeded (${event.expected === null ? 'current' : 'old'} weights)`
  if (event.type === 'capacity.changed') return `capacity.changed (${event.capacity})`
  return event.type.replace(/^xstate\.after\.(\w+)\..*/, 'after $1')
}

/** Two snapshots are one state when nothing but counters beyond what guards ask for differs. */
function serializeState(snapshot: Snapshot): string {
  const { leases, capacity, failures, openings, breaker, suspected } = snapshot.context
  return [
    nameOf(snapshot),
    leases,
    capacity,
    Math.min(failures, breaker.failures),
    Math.min(openings, 1),
    suspected,
  ].join(' ')
}

/** More leases than this come of no grant. */
const stopWhen = (snapshot: Snapshot): boolean => snapshot.context.leases > input.capacity

const { states, steps, table } = explore(instanceMachine, {
  input,
  events: [...events, ...delays],
  serializeState,
  stopWhen,
  label,
})

describe('every reachable state against every event', () => {
  test('all states of the chart are reachable', () => {
    expect(states).toMatchInlineSnapshot(`
      [
        "connecting",
        "draining",
        "paused",
        "serving.busy",
        "serving.idle",
        "serving.saturated",
        "stale",
        "stopped",
        "suspected",
        "unhealthy.open",
        "unhealthy.probing",
        "unhealthy.trial",
      ]
    `)
  })

  test('leads where this table says', () => {
    expect(table).toMatchInlineSnapshot(`
      "
      connecting --instance.drain--> stopped
      connecting --instance.stop--> stopped
      connecting --probe.failed--> unhealthy.open
      connecting --probe.succeeded (current weights)--> serving.idle
      connecting --probe.succeeded (old weights)--> stale
      draining --after drainDeadline--> stopped
      draining --instance.stop--> stopped
      draining --lease.released (failed)--> draining | stopped
      draining --lease.released (neutral)--> draining | stopped
      draining --lease.released (succeeded)--> draining | stopped
      paused --gate.opened--> serving.busy | serving.idle | serving.saturated | suspected | unhealthy.trial
      paused --instance.drain--> draining | stopped
      paused --instance.stop--> stopped
      paused --lease.released (failed)--> paused | unhealthy.open
      paused --probe.failed--> unhealthy.open
      paused --server.stalled--> unhealthy.open
      paused --weights.lost--> stale
      serving.busy --capacity.changed (1)--> serving.saturated
      serving.busy --gate.closed--> paused
      serving.busy --instance.drain--> draining
      serving.busy --instance.stop--> stopped
      serving.busy --lease.granted--> serving.saturated
      serving.busy --lease.released (failed)--> serving.idle | unhealthy.open
      serving.busy --lease.released (neutral)--> serving.idle
      serving.busy --lease.released (succeeded)--> serving.idle
      serving.busy --server.stalled--> unhealthy.open
      serving.busy --server.suspected--> suspected
      serving.busy --weights.lost--> stale
      serving.idle --gate.closed--> paused
      serving.idle --instance.drain--> stopped
      serving.idle --instance.stop--> stopped
      serving.idle --lease.granted--> serving.busy | serving.saturated
      serving.idle --server.stalled--> unhealthy.open
      serving.idle --server.suspected--> suspected
      serving.idle --weights.lost--> stale
      serving.saturated --capacity.changed (2)--> serving.busy | serving.saturated
      serving.saturated --gate.closed--> paused
      serving.saturated --instance.drain--> draining
      serving.saturated --instance.stop--> stopped
      serving.saturated --lease.released (failed)--> serving.busy | serving.idle | serving.saturated | unhealthy.open
      serving.saturated --lease.released (neutral)--> serving.busy | serving.idle | serving.saturated
      serving.saturated --lease.released (succeeded)--> serving.busy | serving.idle | serving.saturated
      serving.saturated --server.stalled--> unhealthy.open
      serving.saturated --server.suspected--> suspected
      serving.saturated --weights.lost--> stale
      stale --instance.drain--> draining | stopped
      stale --instance.stop--> stopped
      stale --probe.failed--> unhealthy.open
      stale --weights.loaded--> serving.busy | serving.idle | serving.saturated | unhealthy.trial
      suspected --instance.drain--> draining | stopped
      suspected --instance.stop--> stopped
      suspected --lease.released (failed)--> suspected | unhealthy.open
      suspected --probe.failed--> unhealthy.open
      suspected --probe.succeeded (current weights)--> serving.busy | serving.idle | serving.saturated
      suspected --probe.succeeded (old weights)--> stale
      suspected --server.stalled--> unhealthy.open
      suspected --weights.lost--> stale
      unhealthy.open --after backoff--> unhealthy.probing
      unhealthy.open --instance.drain--> draining | stopped
      unhealthy.open --instance.stop--> stopped
      unhealthy.open --lease.released (succeeded)--> serving.busy | serving.idle | serving.saturated
      unhealthy.probing --instance.drain--> draining | stopped
      unhealthy.probing --instance.stop--> stopped
      unhealthy.probing --lease.released (succeeded)--> serving.busy | serving.idle | serving.saturated
      unhealthy.probing --probe.failed--> unhealthy.open
      unhealthy.probing --probe.succeeded (current weights)--> unhealthy.trial
      unhealthy.probing --probe.succeeded (old weights)--> stale
      unhealthy.trial --gate.closed--> paused
      unhealthy.trial --instance.drain--> draining | stopped
      unhealthy.trial --instance.stop--> stopped
      unhealthy.trial --lease.released (failed)--> unhealthy.open
      unhealthy.trial --lease.released (succeeded)--> serving.busy | serving.idle | serving.saturated
      unhealthy.trial --server.stalled--> unhealthy.open
      unhealthy.trial --server.suspected--> unhealthy.probing
      unhealthy.trial --weights.lost--> stale
      "
    `)
  })

  test('I3: a lease is taken only below capacity, and only while serving or on trial', () => {
    const taken = steps.filter(({ from, to }) => to.context.leases > from.context.leases)
    expect(new Set(taken.map(({ event }) => event.type))).toEqual(new Set(['lease.granted']))
    expect([...new Set(taken.map(({ from }) => nameOf(from)))].sort()).toEqual([
      'serving.busy',
      'serving.idle',
      'unhealthy.trial',
    ])
    for (const { from, to } of taken) {
      expect(to.context.leases).toBe(from.context.leases + 1)
      expect(to.context.leases).toBeLessThanOrEqual(from.context.capacity)
      if (nameOf(from) === 'unhealthy.trial') expect(to.context.leases).toBe(1)
    }
  })

  test('a release gives back exactly one lease, and never a missing one', () => {
    for (const { from, event, to } of steps) {
      const given = from.context.leases - to.context.leases
      if (event.type === 'lease.released' && from.status === 'active')
        expect(given).toBe(Math.min(1, from.context.leases))
      else expect(given).toBeLessThanOrEqual(0)
    }
  })

  test('a lease passes on where that changes nothing, and nowhere else', () => {
    const passed = steps.filter(({ event }) => event.type === 'lease.passed')
    const taken = passed.filter(({ from, event }) => from.can(event))
    expect([...new Set(taken.map(({ from }) => nameOf(from)))].sort()).toEqual(['serving.busy', 'serving.saturated'])
    for (const { from, event, to } of passed) {
      expect([nameOf(to), to.context]).toEqual([nameOf(from), from.context])
      const { leases, capacity, failures } = from.context
      const fits = nameOf(from).startsWith('serving') && leases > 0 && leases <= capacity && failures === 0
      expect(from.can(event)).toBe(fits)
    }
  })

  test('a closed gate opens only by gate.opened, or by way of the weights', () => {
    const opened = steps.filter(({ from, to }) => nameOf(from) === 'paused' && /^serving|trial/.test(nameOf(to)))
    expect(new Set(opened.map(({ event }) => event.type))).toEqual(new Set(['gate.opened']))
  })

  test('draining takes nothing, ends with its last lease, and ends in stopped', () => {
    const drained = steps.filter(({ from }) => nameOf(from) === 'draining')
    expect(drained.length).toBeGreaterThan(0)
    for (const { to } of drained) {
      expect(['draining', 'stopped']).toContain(nameOf(to))
      if (to.context.leases === 0) expect(nameOf(to)).toBe('stopped')
    }
  })

  test('the names of serving follow its leases', () => {
    for (const { to } of steps) {
      if (!nameOf(to).startsWith('serving')) continue
      const { leases, capacity } = to.context
      const name = leases >= capacity ? 'saturated' : leases === 0 ? 'idle' : 'busy'
      expect(nameOf(to)).toBe(`serving.${name}`)
    }
  })
})

type Actor = ActorRefFrom<typeof instanceMachine>

function start(capacity = 2, breaker = input.breaker) {
  const clock = new SimulatedClock()
  const actor: Actor = createActor(instanceMachine, { input: { id: 'a', capacity, breaker }, clock })
  const emitted: string[] = []
  let limit = 0
  actor.on('*', (event) => {
    emitted.push(event.type)
    if (event.type === 'opened') limit = event.limit
    if (event.type === 'closed') limit = 0
  })
  actor.start()
  return { clock, actor, emitted, limit: () => limit }
}

describe('alone, with createActor and SimulatedClock', () => {
  test('the backoff doubles up to its maximum, and a real generation resets it', () => {
    const { clock, actor, emitted } = start()
    const probed = () => emitted.filter((type) => type === 'probing').length
    actor.send({ type: 'probe.failed' })
    for (const [index, wait] of [100, 200, 400, 800, 1_000, 1_000].entries()) {
      clock.increment(wait - 1)
      expect(probed()).toBe(index)
      clock.increment(1)
      expect(probed()).toBe(index + 1)
      actor.send({ type: 'probe.failed' })
    }
    clock.increment(1_000)
    actor.send(events[0]!)
    expect(nameOf(actor.getSnapshot())).toBe('unhealthy.trial')
    actor.send({ type: 'lease.granted' })
    actor.send({ type: 'lease.released', outcome: 'succeeded' })
    expect(nameOf(actor.getSnapshot())).toBe('serving.idle')
    for (let failure = 0; failure < 2; failure++) {
      actor.send({ type: 'lease.granted' })
      actor.send({ type: 'lease.released', outcome: 'failed' })
    }
    expect(nameOf(actor.getSnapshot())).toBe('unhealthy.open')
    const before = probed()
    clock.increment(100)
    expect(probed()).toBe(before + 1)
  })

  test('a drain ends at its deadline with leases still held, and a later one may shorten it', () => {
    const { clock, actor, emitted } = start()
    actor.send(events[0]!)
    actor.send({ type: 'lease.granted' })
    actor.send({ type: 'instance.drain', deadlineMs: null })
    clock.increment(1_000_000)
    expect(nameOf(actor.getSnapshot())).toBe('draining')
    actor.send({ type: 'instance.drain', deadlineMs: 50 })
    clock.increment(49)
    expect(nameOf(actor.getSnapshot())).toBe('draining')
    clock.increment(1)
    expect(nameOf(actor.getSnapshot())).toBe('stopped')
    expect(emitted.at(-1)).toBe('left')
  })

  test("a guard of the user's own that refuses takes no work", () => {
    const actor = createActor(instanceMachine.provide({ guards: { takesWork: () => false } }), { input })
    actor.start()
    actor.send(events[0]!)
    actor.send({ type: 'lease.granted' })
    expect(actor.getSnapshot().context.leases).toBe(0)
    expect(actor.getSnapshot().can({ type: 'lease.passed' })).toBe(false)
  })

  test("a guard of the user's own is asked also for a lease that passes on", () => {
    let open = true
    const guards = { takesWork: () => open }
    const actor = createActor(instanceMachine.provide({ guards }), { input }).start()
    actor.send(events[0]!)
    actor.send({ type: 'lease.granted' })
    expect(actor.getSnapshot().can({ type: 'lease.passed' })).toBe(true)
    open = false
    expect(actor.getSnapshot().can({ type: 'lease.passed' })).toBe(false)
  })

  test('random lives: leases, limit and capacity always agree', () => {
    const event = fc.constantFrom(...events)
    const step = fc.oneof({ weight: 6, arbitrary: event }, { weight: 1, arbitrary: fc.integer({ min: 1, max: 500 }) })
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 3 }), fc.array(step, { maxLength: 80, size: 'max' }), (capacity, life) => {
        const { clock, actor, limit } = start(capacity)
        for (const each of life) {
          const before = actor.getSnapshot()
          if (before.status !== 'active') break
          if (typeof each === 'number') clock.increment(each)
          else actor.send(each)
          const after = actor.getSnapshot()
          const { leases, capacity: room } = after.context
          expect(leases).toBeGreaterThanOrEqual(0)
          if (leases > before.context.leases) {
            expect(leases).toBeLessThanOrEqual(room)
            expect(before.context.leases).toBeLessThan(limitOf(before))
          }
          expect(limit()).toBe(limitOf(after))
        }
        actor.stop()
      }),
      { numRuns: 300 },
    )
  })
})

/** What the machine has said that it takes at once. */
function limitOf(snapshot: Snapshot): number {
  if (nameOf(snapshot).startsWith('serving')) return snapshot.context.capacity
  return nameOf(snapshot) === 'unhealthy.trial' ? 1 : 0
}
