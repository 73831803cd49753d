/**
 * Who runs next: gives free slots to waiting samples in the queue's order, each to the instance that the policy picks, within
 * what the ledger and the instance's own machine allow (I3, I6, I7). Runs only as the action `place` of the supervisor
 * machine. A step costs O(log n) a placed sample, and O(1) when nothing can be placed. A sample that the picked instance cannot run is
 * diverted, once, to those that can (tracks.ts).
 */
import { restart, type Sample, tokenCount } from '../rollout/sample.ts'
import type { Session } from '../rollout/session.ts'
import { hasRoom } from '../scheduling/policy.ts'
import type { WaitReason } from '../telemetry/events.ts'
import { drive, openAttempt } from './attempt.ts'
import { type Evaluation, makeRoom, nextInEvaluation } from './evaluation.ts'
import { probe } from './fleet.ts'
import { passes, tellReleased } from './handover.ts'
import { askAgain, setAside } from './health.ts'
import { hasFreeSlot } from './intake.ts'
import { formFor } from './misfit.ts'
import { beginAgainUnder } from './one-version.ts'
import { isPauseWanted, placesWork } from './phase.ts'
import { can, type Instance, isMember, type Run } from './run.ts'
import { divert, pick } from './tracks.ts'
import { count, metSlot } from './waitlist.ts'

/** `isPausing`: nothing but an evaluation that was asked for before the pause is placed. */
export function place(run: Run, isPausing: boolean): void {
  run.steps++
  const { evaluation } = run
  fill(run, evaluation, isPausing)
  if (evaluation !== null) makeRoom(run, evaluation)
}

function fill(run: Run, evaluation: Evaluation | null, isPausing: boolean): void {
  if (isPausing && evaluation === null) return
  /** Tracks whose instances are full, or that wait for their turn. */
  let full: Set<number> | undefined
  while (run.ledger.free > 0) {
    const sample =
      evaluation === null ? run.queue.peek(run.sinks.full, full) : nextInEvaluation(run, evaluation, isPausing, full)
    if (sample === null) {
      if (!isForEvaluationsOnly(run) && refill(run)) continue
      return
    }
    const id = choose(run, sample)
    // A policy, guard or inspector is the user's code, and may end samples and take instances out from inside.
    if (sample.lane === null) continue
    if (id === null) {
      if (run.tracks.length === 0) return
      full ??= new Set()
      full.add(sample.track)
      continue
    }
    const instance = run.instances.get(id)!
    const form = formFor(sample.task, instance)
    if (form === null) {
      divert(run, sample)
    } else if (needsAsking(run, instance)) {
      instance.actor.send({ type: 'server.suspected' })
      // A machine of the user's own may not know the event: then the server is asked for it, and holds up no others meanwhile.
      if (instance.account.limit > 0) {
        setAside(run, instance)
        void probe(run, instance).then(() => askAgain(run, instance))
      }
    } else if (passes(run, instance) || takes(instance)) {
      if (sample.lane === null || !hasRoom(instance.account)) {
        tellReleased(run, instance, 'neutral')
        continue
      }
      // In a form without token ids there is nothing to go on from.
      if (form !== 'ids') restart(sample)
      grant(run, sample, instance)
    } else if (isMember(run, instance)) {
      setAside(run, instance)
    }
  }
}

/**
 * Draws one task from the streams of batches, in turn. What is drawn may run at once: nothing waits for any instance, and a slot is free that
 * no prompt which is being made into token ids will need.
 */
function refill(run: Run): boolean {
  if (run.sinks.full || run.queue.sizeOfTrack(0, false) > 0 || !hasFreeSlot(run)) return false
  for (const feed of run.feeds) {
    if (!feed.wants || !feed.refill()) continue
    // To the end of the line, unless it has just ended.
    if (run.feeds.delete(feed)) run.feeds.add(feed)
    return true
  }
  return false
}

/** The instance that has the prefix of its session, while it has room; else the policy's choice, so that nobody waits for a prefix (I7). */
function choose(run: Run, sample: Sample): string | null {
  const { task } = sample
  const preferred = task.session === null ? null : prefixOf(run, task.session)
  if (preferred !== null && run.policy.sticky !== false) {
    const instance = run.instances.get(preferred)
    if (instance !== undefined && hasRoom(instance.account) && formFor(task, instance) !== null) return preferred
  }
  return pick(run, sample, {
    taskId: task.id,
    sample: sample.index,
    kind: task.spec.kind,
    priority: sample.priority,
    resumedTokens: tokenCount(sample),
    preferred,
  })
}

/** New weights have emptied every cache. */
function prefixOf(run: Run, { instance, version }: Session): string | null {
  return version === run.version ? instance : null
}

/** Why a waiting sample does not run, from the closed union of I7. */
export function reasonOf(run: Run, sample: Sample): WaitReason {
  if (sample.parked !== null) return sample.parked
  if (!mayRunNow(run, sample)) return 'phase'
  return sample.lane === 'fresh' && run.sinks.full ? 'backPressure' : blockedBy(run, sample.track)
}

/** False where it waits for the end of an evaluation that it is not of. */
function mayRunNow(run: Run, sample: Sample): boolean {
  if (!isForEvaluationsOnly(run)) return true
  return isPauseWanted(run) ? run.evaluation!.tasks.has(sample.task) : sample.lane === 'evaluation'
}

/** True while rollouts wait for the end of an evaluation. */
export function isForEvaluationsOnly(run: Run): boolean {
  return run.evaluation !== null && (run.evaluation.style === 'drain' || isPauseWanted(run))
}

/** Why a sample at the head of a track of the queue would not run. */
export function blockedBy(run: Run, track: number): WaitReason {
  if (!placesWork(run) || (isPauseWanted(run) && run.evaluation === null)) return 'phase'
  const instances = track === 0 ? run.instances : run.tracks[track - 1]!.members
  let reason: WaitReason = 'gate'
  for (const { account } of instances.values()) {
    if (hasRoom(account)) return 'turn'
    if (account.limit > 0) reason = 'capacity'
  }
  return reason
}

/**
 * In a versioned fleet a server that has been silent for a while, or hung up, may have restarted with other weights: it is asked
 * before it gets work (F1). One that is generating for us has not.
 */
function needsAsking(run: Run, instance: Instance): boolean {
  if (instance.version === null || instance.attempts.size > 0 || can(instance).versions === 'none') return false
  return run.clock.now() - instance.heardAt > SILENCE_MS
}

/** No server was seen to restart faster. */
const SILENCE_MS = 5_000

/** Asks the instance's machine, which alone decides whether its server takes work. */
function takes(instance: Instance): boolean {
  const before = instance.actor.getSnapshot().context.leases
  instance.actor.send({ type: 'lease.granted' })
  return instance.actor.getSnapshot().context.leases > before
}

function grant(run: Run, sample: Sample, instance: Instance): void {
  const now = run.clock.now()
  const lease = run.ledger.grant(instance.id)
  const { task } = sample
  run.queue.remove(sample)
  sample.track = 0
  metSlot(run, sample)
  count(run, sample, 'running')
  const waitedMs = now - sample.queuedAt
  sample.waitedMs += waitedMs
  instance.totals.placed++
  instance.totals.waitedMs += waitedMs
  if (!task.started) begin(run, task.samples)
  if (run.oneVersion !== null) beginAgainUnder(sample, instance.version, run.oneVersion)
  if (run.evaluation !== null && task.spec.kind === 'rollout') run.evaluation.isExhausted = false
  const attempt = openAttempt(run, sample, instance, lease.id, now)
  if (run.hub.listens(task)) {
    run.hub.tell(
      {
        type: 'sample.placed',
        at: now,
        taskId: task.id,
        sample: sample.index,
        kind: task.spec.kind,
        instance: instance.id,
        lease: lease.id,
        resumedTokens: tokenCount(sample),
      },
      task,
    )
  }
  run.hub.changed()
  void drive(run, attempt)
}

/** With its first lease a task has started: its other samples go on even under back-pressure. */
function begin(run: Run, samples: readonly Sample[]): void {
  samples[0]!.task.started = true
  for (const sample of samples) {
    if (sample.lane !== 'fresh') continue
    run.queue.remove(sample)
    run.queue.add(sample, 'started')
  }
}
