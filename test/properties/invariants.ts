/**
 * What must hold at every moment of a run, whatever happens to it. Looks at the books, the machines and the simulated servers
 * at once, and collects what does not fit instead of throwing, because it is called from inside callbacks.
 */
import type { Completion, SupervisorEvent } from '../../src/index.ts'
import type { Sample } from '../../src/rollout/sample.ts'
import { formFor } from '../../src/run/misfit.ts'
import { reasonOf } from '../../src/run/placement.ts'
import type { Instance, Run } from '../../src/run/run.ts'
import { versionOf } from '../../src/run/segment.ts'
import { hasRoom, type PlacementPolicy } from '../../src/scheduling/policy.ts'
import type { Supervisor } from '../../src/supervisor.ts'
import { logprobOf, type SimulatedServer, tokenOf } from '../../src/testing/simulated-fleet.ts'

/** What the workload knows of a task that it submitted. */
export interface Expected {
  readonly id: string
  /** Order of submission. */
  readonly order: number
  readonly key: number
  readonly length: number
  readonly samples: number
  readonly priority: number
  readonly kind: 'rollout' | 'evaluation'
  readonly minVersion: number | null
  /** Given as text, which may begin again where no server could make it into token ids. */
  readonly text: boolean
  /** Text, or not for every instance: it may start after later ones. */
  readonly picky: boolean
}

export interface Invariants {
  /** Everything that did not hold, in words. */
  readonly broken: string[]
  readonly log: SupervisorEvent[]
  expect(task: Expected): void
  /** Several that are admitted one after the other, by `admit`. */
  expectAll(tasks: readonly Expected[], admit: () => void): void
  /** A task that `trySubmit` did not take. */
  forget(task: Expected): void
  /** Holds always, also in the middle of a step. */
  now(): void
  /** Holds when the supervisor has nothing left to do at this instant. */
  atRest(): void
  /** Holds when nothing is waiting or running (I5). */
  whenIdle(): void
  completed(id: string): number
}

/** Why no request may be sent to an instance now, or null. */
export function gateOf(run: Run, id: string): string | null {
  const instance = run.instances.get(id)
  if (instance === undefined) return null
  const phase = run.actor.getSnapshot()
  // As it enters the next phase, which places, the machine still says the last one: starting, paused, reopening, and closing before rolling.
  const isShut =
    phase.matches('stopping') ||
    (['interrupting', 'applying', 'verifying'] as const).some((step) => phase.matches({ weightUpdate: step }))
  if (isShut) return `in phase ${JSON.stringify(phase.value)}`
  if (instance.gate.size > 0) return `whose gate is held by ${[...instance.gate].join()}`
  return instance.held === null ? null : `which is held ${instance.held}`
}

export function watchInvariants(
  supervisor: Supervisor,
  run: Run,
  servers: ReadonlyMap<string, SimulatedServer>,
): Invariants {
  const broken: string[] = []
  const log: SupervisorEvent[] = []
  const tasks = new Map<string, Expected>()
  const completions = new Map<string, number>()
  const leases = new Map<number, string>()
  const placed = new Set<string>()
  /** Samples of all tasks. */
  let asked = 0
  let isAdmitting = false
  /** Place in line of the last fresh sample that was placed, by priority. */
  const lastFresh = new Map<number, number>()

  const isStrict = run.policy.name.includes('strict')
  const turns = watchTurns(run)

  function must(holds: boolean, text: () => string): void {
    if (!holds && broken.length < 20) broken.push(`at ${run.clock.now()} ms: ${text()}`)
  }

  function now(): void {
    const { submitted, waiting, running, ended } = run.counts
    const done = Object.values(ended).reduce((sum, each) => sum + each, 0)
    must(submitted === waiting + running + done, () => `I1: ${submitted} = ${waiting} + ${running} + ${done}`)
    must(Math.min(waiting, running, done) >= 0, () => `I1: a negative count: ${waiting}, ${running}, ${done}`)
    must(submitted === asked || isAdmitting, () => `I1: ${submitted} submitted, but ${asked} were`)
  }

  function atRest(): void {
    now()
    // The machines of a run that ends are told nothing any more.
    if (run.closing) return
    const view = supervisor.getSnapshot()
    const reasons = Object.values(view.waiting).reduce((sum, each) => sum + each, 0)
    must(reasons === view.conservation.waiting, () => `I7: reasons sum to ${reasons} of ${view.conservation.waiting}`)
    must(leases.size === run.ledger.held, () => `I4: ${run.ledger.held} held, ${leases.size} placed and not released`)
    must(run.attempts.size === view.conservation.running, () => `I1: ${run.attempts.size} attempts of running samples`)
    const aside = [...run.parked].filter(({ parked }) => parked === 'phase').length
    let free = 0
    for (const instance of run.instances.values()) {
      const { account, actor, attempts, id, spec } = instance
      const snapshot = actor.getSnapshot()
      const { leases: held, capacity } = snapshot.context
      const server = servers.get(id)!
      must(
        account.running === held,
        () => `I3: ${id} has ${account.running} leases by the books, ${held} by its machine`,
      )
      must(
        account.running === attempts.size,
        () => `I4: ${id} has ${account.running} leases, ${attempts.size} attempts`,
      )
      must(held <= capacity, () => `I3: ${id} holds ${held} leases of ${capacity}`)
      must(server.running <= held, () => `I3: ${id} runs ${server.running} sequences under ${held} leases`)
      must(server.maxRunning <= (spec.capacity ?? capacity), () => `I3: ${id} ran ${server.maxRunning} of ${capacity}`)
      const open = snapshot.matches('serving') || snapshot.matches({ unhealthy: 'trial' })
      must(
        open || account.limit === 0,
        () => `I10: ${id} is ${JSON.stringify(snapshot.value)} with limit ${account.limit}`,
      )
      must(server.waiting === 0 || instance.held !== null, () => `I10: ${server.waiting} requests wait inside ${id}`)
      if (snapshot.matches('serving') && view.phase === 'rollout' && instance.refusal === null) {
        must(account.limit === capacity, () => `I7: ${id} serves ${capacity}, but its limit is ${account.limit}`)
      }
      if (instance.refusal !== null) continue
      const room = snapshot.matches('serving') ? capacity - held : open && held === 0 ? 1 : 0
      free += room
    }
    const { capacity, gate, turn, phase, backPressure, version, backoff, carried, tokenizing } = view.waiting
    if (run.tracks.length === 0) {
      must(capacity === 0 || free === 0, () => `I7: ${capacity} samples wait for capacity, ${free} slots are free`)
      must(gate === 0 || free === 0, () => `I7: ${gate} samples wait for a gate, ${free} slots are free`)
    } else {
      for (const sample of run.queue) eligible(sample)
    }
    must(turn === 0 || run.policy.name.includes('strict'), () => `I7: ${turn} samples wait for their turn`)
    must(
      phase === aside || view.phase !== 'rollout',
      () => `I7: ${phase} samples wait for the phase, it is ${view.phase}`,
    )
    must(backPressure === 0 || run.sinks.full, () => `I7: ${backPressure} samples are held by readers with room`)
    must(
      version + backoff + carried + tokenizing + aside === run.parked.size,
      () => 'I7: parked samples and their reasons differ',
    )
  }

  /** Where instances differ: none that can run the sample has a free slot. */
  function eligible(sample: Sample): void {
    const reason = reasonOf(run, sample)
    if (reason !== 'capacity' && reason !== 'gate') return
    for (const instance of run.instances.values())
      must(
        !hasRoom(instance.account) || formFor(sample.task, instance) === null,
        () => `I7: ${sample.task.id}/${sample.index} waits for ${reason}, ${instance.id} has room for it`,
      )
  }

  function whenIdle(): void {
    const left = {
      tasks: run.tasks.size,
      queue: run.queue.size,
      attempts: run.attempts.size,
      parked: run.parked.size,
      tokenizing: run.tokenizing.size,
      deadlines: run.paces.rollout.waiting.size + run.paces.evaluation.waiting.size,
      deadlineTimers: [run.paces.rollout, run.paces.evaluation].filter(({ timer }) => timer !== null).length,
      held: run.ledger.held,
      leases: leases.size,
      onIdle: run.onIdle.size,
      onReleased: run.onReleased.size,
    }
    for (const [what, size] of Object.entries(left)) must(size === 0, () => `I5: ${size} left in ${what}`)
    for (const { id, attempts, account } of run.instances.values())
      must(attempts.size + account.running === 0, () => `I5: ${id} still holds ${attempts.size}, ${account.running}`)
    for (const server of servers.values())
      must(server.running + server.waiting === 0, () => `I5: server ${server.id} still runs work`)
    for (const task of tasks.values())
      for (let sample = 0; sample < task.samples; sample++)
        must(completions.has(`${task.id}/${sample}`), () => `I2: ${task.id}/${sample} has no completion`)
  }

  function check(completion: Completion): void {
    const { id, taskId, tokenIds, logprobs, versions, outcome, segments } = completion
    const task = tasks.get(taskId)
    completions.set(id, (completions.get(id) ?? 0) + 1)
    must(completions.get(id) === 1, () => `I2: ${id} completed twice`)
    if (task === undefined) {
      must(false, () => `I2: a completion of ${taskId}, which was never submitted`)
      return
    }
    must(tokenIds.length <= task.length, () => `I8: ${id} has ${tokenIds.length} of ${task.length} tokens`)
    must(
      outcome !== 'completed' || tokenIds.length === task.length,
      () => `I8: ${id} completed with ${tokenIds.length} of ${task.length}`,
    )
    must(
      (outcome === 'completed') === (completion.error === null),
      () => `I2: ${id} ${outcome} with error ${completion.error}`,
    )
    must(logprobs.length === tokenIds.length, () => `I8: ${id} has ${logprobs.length} log-probabilities`)
    for (let index = 0; index < tokenIds.length; index++) {
      must(tokenIds[index] === tokenOf(task.key, index), () => `I8: token ${index} of ${id} is wrong`)
    }
    let end = 0
    for (const span of versions) {
      must(span.start === end && span.end > span.start, () => `I8: spans of ${id}: ${JSON.stringify(versions)}`)
      must(
        task.minVersion === null || (span.version ?? -1) >= task.minVersion,
        () => `I9: ${id} wants version ${task.minVersion}: ${JSON.stringify(versions)}`,
      )
      for (let index = span.start; index < span.end && span.mixed !== true; index++) {
        must(
          logprobs[index] === logprobOf(span.version, index),
          () => `I8, F8: token ${index} of ${id} was not sampled from version ${span.version} alone`,
        )
      }
      end = span.end
    }
    must(end === tokenIds.length, () => `I8: spans of ${id} end at ${end} of ${tokenIds.length}`)
    end = 0
    for (const segment of segments) {
      if (task.text && segment.start === 0) end = 0
      must(segment.start === end, () => `I8: segments of ${id} begin at ${segment.start} after ${end}`)
      end = segment.end
    }
    must(end === tokenIds.length, () => `I8: segments of ${id} end at ${end} of ${tokenIds.length}`)
  }

  function told(event: SupervisorEvent): void {
    log.push(event)
    if (event.type === 'sample.placed') {
      const { lease, instance, taskId, sample } = event
      must(!leases.has(lease), () => `I4: lease ${lease} was granted twice`)
      leases.set(lease, instance)
      const { actor, version } = run.instances.get(instance)!
      must(gateOf(run, instance) === null, () => `I10: ${taskId}/${sample} on ${instance}, ${gateOf(run, instance)}`)
      const state = actor.getSnapshot()
      must(
        state.matches('serving') || state.matches({ unhealthy: 'trial' }),
        () => `I10: ${taskId}/${sample} was placed on ${instance}, which is ${JSON.stringify(state.value)}`,
      )
      must(
        event.kind === 'evaluation' || !evaluationFor(run.instances.get(instance)!),
        () => `D15: ${taskId}/${sample} was placed before a waiting evaluation`,
      )
      const server = servers.get(instance)!
      must(
        version === null || versionOf(server.weightVersion) === version,
        () => `I9: ${taskId}/${sample} was placed on ${instance} of version ${server.weightVersion}, not ${version}`,
      )
      inOrder(taskId, sample)
    } else if (event.type === 'sample.released') {
      must(leases.delete(event.lease), () => `I4: lease ${event.lease} was released without being held`)
    }
    now()
  }

  /** One that may run there and waits all the same. Where turns are strict, those that have just been told to wait for theirs do not count. */
  function evaluationFor(instance: Instance): boolean {
    if (run.queue.sizeOf('evaluation') === 0) return false
    return [...run.queue].some(
      ({ lane, task, track }) =>
        lane === 'evaluation' && formFor(task, instance) !== null && !(isStrict && turns.isAnothers(track)),
    )
  }

  /** Fresh rollouts of one priority start in the order in which they came (D15, I6). */
  function inOrder(taskId: string, sample: number): void {
    const id = `${taskId}/${sample}`
    const task = tasks.get(taskId)
    if (placed.has(id) || task === undefined || task.kind === 'evaluation' || task.minVersion !== null || task.picky)
      return
    placed.add(id)
    const rank = task.order * 1_024 + sample
    must(
      rank > (lastFresh.get(task.priority) ?? -1),
      () => `D15: ${id} was placed after a later sample of its priority`,
    )
    lastFresh.set(task.priority, rank)
  }

  supervisor.completions$.subscribe(check)
  supervisor.events$.subscribe(told)
  function expectOne(task: Expected): void {
    tasks.set(task.id, task)
    asked += task.samples
  }
  return {
    broken,
    log,
    expect: expectOne,
    expectAll(several, admit) {
      isAdmitting = true
      for (const task of several) expectOne(task)
      admit()
      isAdmitting = false
      now()
    },
    forget(task) {
      tasks.delete(task.id)
      asked -= task.samples
    },
    now,
    atRest,
    whenIdle,
    completed: (id) => completions.get(id) ?? 0,
  }
}

/** Each track keeps a turn of its own; asked twice, a policy would move on. */
function watchTurns(run: Run): { isAnothers(track: number): boolean } {
  const refused = new Map<PlacementPolicy, number>()
  function watched(policy: PlacementPolicy): PlacementPolicy {
    const watching: PlacementPolicy = {
      ...policy,
      pick(sample) {
        const id = policy.pick(sample)
        if (id === null) refused.set(watching, run.steps)
        else refused.delete(watching)
        return id
      },
    }
    return watching
  }
  Object.assign(run, { policy: watched(run.policy) })
  const { tracks } = run
  tracks.push = (...added) =>
    Array.prototype.push.apply(
      tracks,
      added.map((track) => ({ ...track, policy: watched(track.policy) })),
    )
  return {
    isAnothers: (track) => refused.get(track === 0 ? run.policy : tracks[track - 1]!.policy) === run.steps,
  }
}
