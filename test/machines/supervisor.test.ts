/**
 * The supervisor machine by itself: every reachable state against every event, when it places, and its children.
 */
import { describe, expect, test } from 'vitest'
import { createActor, type SnapshotFrom } from 'xstate'
import { type SupervisorMachineEvent, supervisorMachine } from '../../machines/index.ts'
import { explore, nameOf } from './graph.ts'

/** All but `instances.added`, which spawns. */
const events: readonly SupervisorMachineEvent[] = [
  { type: 'fleet.ready' },
  { type: 'task.submitted' },
  { type: 'slot.freed' },
  { type: 'instance.opened' },
  { type: 'queue.changed' },
  { type: 'pause.requested' },
  { type: 'resume.requested' },
  { type: 'evaluation.started' },
  { type: 'evaluation.ended' },
  { type: 'update.started' },
  { type: 'update.rolls' },
  { type: 'gates.closed' },
  { type: 'fleet.quiet' },
  { type: 'weights.applied' },
  { type: 'weights.verified', version: 1 },
  { type: 'update.failed' },
  { type: 'gates.opened' },
  { type: 'run.stopping' },
  { type: 'run.stopped' },
]
const wakes = ['task.submitted', 'slot.freed', 'instance.opened', 'queue.changed'] as const

type Snapshot = SnapshotFrom<typeof supervisorMachine>

const serializeState = (snapshot: Snapshot): string =>
  [nameOf(snapshot), snapshot.context.paused, snapshot.context.version].join(' ')
const { states, steps, table } = explore(supervisorMachine, { events, serializeState })

describe('every reachable state against every event', () => {
  test('all states of the chart are reachable, and each can be stopped', () => {
    expect(states).toMatchInlineSnapshot(`
      [
        "evaluation",
        "paused",
        "rollout",
        "starting",
        "stopped",
        "stopping",
        "weightUpdate.applying",
        "weightUpdate.closing",
        "weightUpdate.interrupting",
        "weightUpdate.reopening",
        "weightUpdate.rolling",
        "weightUpdate.verifying",
      ]
    `)
    for (const { from, event, to } of steps)
      if (event.type === 'run.stopping') expect([nameOf(from), nameOf(to)]).toEqual([nameOf(from), 'stopping'])
  })

  test('leads where this table says', () => {
    expect(table).toMatchInlineSnapshot(`
      "
      evaluation --evaluation.ended--> paused | rollout
      evaluation --run.stopping--> stopping
      paused --evaluation.started--> evaluation
      paused --resume.requested--> rollout
      paused --run.stopping--> stopping
      paused --update.started--> weightUpdate.closing
      rollout --evaluation.started--> evaluation
      rollout --pause.requested--> paused
      rollout --run.stopping--> stopping
      rollout --update.started--> weightUpdate.closing
      starting --fleet.ready--> paused | rollout
      starting --run.stopping--> stopping
      stopping --run.stopped--> stopped
      weightUpdate.applying --run.stopping--> stopping
      weightUpdate.applying --update.failed--> weightUpdate.reopening
      weightUpdate.applying --weights.applied--> weightUpdate.verifying
      weightUpdate.closing --gates.closed--> weightUpdate.interrupting
      weightUpdate.closing --run.stopping--> stopping
      weightUpdate.closing --update.failed--> weightUpdate.reopening
      weightUpdate.closing --update.rolls--> weightUpdate.rolling
      weightUpdate.interrupting --fleet.quiet--> weightUpdate.applying
      weightUpdate.interrupting --run.stopping--> stopping
      weightUpdate.interrupting --update.failed--> weightUpdate.reopening
      weightUpdate.reopening --gates.opened--> paused | rollout
      weightUpdate.reopening --run.stopping--> stopping
      weightUpdate.rolling --run.stopping--> stopping
      weightUpdate.rolling --update.failed--> weightUpdate.reopening
      weightUpdate.rolling --weights.verified--> weightUpdate.reopening
      weightUpdate.verifying --run.stopping--> stopping
      weightUpdate.verifying --update.failed--> weightUpdate.reopening
      weightUpdate.verifying --weights.verified--> weightUpdate.reopening
      "
    `)
  })

  test('remembers what the user wants, whatever phase it is in', () => {
    for (const { from, event, to } of steps) {
      const stopping = nameOf(from) === 'stopping'
      if (event.type === 'pause.requested' && !stopping) expect(to.context.paused).toBe(true)
      else if (event.type === 'resume.requested' && !stopping) expect(to.context.paused).toBe(false)
      else if (!stopping) expect(to.context.paused).toBe(from.context.paused)
    }
  })

  test('a version is learnt only when it was verified, and no failure changes it', () => {
    for (const { from, event, to } of steps) {
      if (to.context.version === from.context.version) continue
      expect(event.type).toBe('weights.verified')
      expect(['weightUpdate.verifying', 'weightUpdate.rolling']).toContain(nameOf(from))
    }
  })

  test('a user who wants a pause gets one after an update', () => {
    for (const { from, event, to } of steps)
      if (nameOf(from) === 'weightUpdate.reopening' && event.type === 'gates.opened')
        expect(nameOf(to)).toBe(from.context.paused ? 'paused' : 'rollout')
  })
})

describe('alone, with createActor', () => {
  function start() {
    let placed = 0
    const machine = supervisorMachine.provide({ actions: { place: () => void placed++ } })
    const actor = createActor(machine)
    actor.start()
    const steps = (send: () => void): number => {
      const before = placed
      send()
      return placed - before
    }
    return { actor, steps }
  }

  test('D13: it places in phase rollout and as it enters it, and in no other but those of the next test', () => {
    const { actor, steps } = start()
    const wake = (): number[] => wakes.map((type) => steps(() => actor.send({ type })))
    expect(wake()).toEqual([0, 0, 0, 0])
    expect(steps(() => actor.send({ type: 'fleet.ready' }))).toBe(1)
    expect(wake()).toEqual([1, 1, 1, 1])
    expect(steps(() => actor.send({ type: 'pause.requested' }))).toBe(0)
    expect(wake()).toEqual([0, 0, 0, 0])
    expect(steps(() => actor.send({ type: 'resume.requested' }))).toBe(1)
    for (const type of ['update.started', 'gates.closed', 'fleet.quiet', 'weights.applied'] as const) {
      expect(steps(() => actor.send({ type }))).toBe(0)
      expect(wake()).toEqual([0, 0, 0, 0])
    }
    expect(steps(() => actor.send({ type: 'weights.verified', version: 4 }))).toBe(0)
    expect(steps(() => actor.send({ type: 'gates.opened' }))).toBe(1)
    expect(actor.getSnapshot().context.version).toBe(4)
    expect(steps(() => actor.send({ type: 'run.stopping' }))).toBe(0)
    expect(wake()).toEqual([0, 0, 0, 0])
  })

  test('it places while an evaluation lasts and while an update rolls; a pause that is wanted then is told to place, and comes after', () => {
    const wanted: boolean[] = []
    const machine = supervisorMachine.provide({ actions: { place: ({ context }) => void wanted.push(context.paused) } })
    const actor = createActor(machine).start()
    const during = (send: () => void): boolean[] => {
      wanted.length = 0
      send()
      return [...wanted]
    }
    actor.send({ type: 'fleet.ready' })
    expect(during(() => actor.send({ type: 'evaluation.started' }))).toEqual([false])
    expect(during(() => actor.send({ type: 'slot.freed' }))).toEqual([false])
    expect(during(() => actor.send({ type: 'pause.requested' }))).toEqual([])
    expect(during(() => actor.send({ type: 'slot.freed' }))).toEqual([true])
    expect(during(() => actor.send({ type: 'evaluation.ended' }))).toEqual([])
    expect(actor.getSnapshot().value).toBe('paused')
    actor.send({ type: 'resume.requested' })
    actor.send({ type: 'update.started' })
    expect(during(() => actor.send({ type: 'update.rolls' }))).toEqual([false])
    actor.send({ type: 'pause.requested' })
    expect(during(() => actor.send({ type: 'slot.freed' }))).toEqual([true])
    actor.send({ type: 'weights.verified', version: 1 })
    expect(during(() => actor.send({ type: 'gates.opened' }))).toEqual([])
    expect(actor.getSnapshot().value).toBe('paused')
  })

  test('instances join in one event and go when they have stopped; one of the same id stays', () => {
    const { actor } = start()
    const breaker = { failures: 1, resetMs: 1, maxResetMs: 1 }
    const childrenOf = () => actor.getSnapshot().children as Record<string, ReturnType<typeof createActor> | undefined>
    const add = (...ids: string[]): void =>
      actor.send({ type: 'instances.added', instances: ids.map((id) => ({ id, capacity: 1, breaker })) })
    add('a', 'b', 'c')
    expect(Object.keys(childrenOf())).toEqual(['a', 'b', 'c'])
    childrenOf().b!.send({ type: 'instance.stop' } as never)
    expect(Object.keys(childrenOf())).toEqual(['a', 'c'])
    const first = childrenOf().a!
    first.on('left' as never, () => add('a'))
    first.send({ type: 'instance.stop' } as never)
    expect(Object.keys(childrenOf()).sort()).toEqual(['a', 'c'])
    expect(childrenOf().a).not.toBe(first)
    expect(childrenOf().a!.getSnapshot().status).toBe('active')
  })
})
