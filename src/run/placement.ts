/**
 * Who runs next: gives free slots to waiting samples in the queue's order, each to the instance that the policy picks, within
 * what the ledger and the instance's own machine allow (I3, I6, I7). Runs only as the action `place` of the supervisor
 * machine. A step costs O(log n) a placed sample, and O(1) when nothing can be placed.
 */
import { type Sample, tokenCount } from '../rollout/sample.ts'
import type { WaitReason } from '../telemetry/events.ts'
import { drive, openAttempt } from './attempt.ts'
import { probe } from './fleet.ts'
import { passes } from './handover.ts'
import { askAgain, setAside } from './health.ts'
import { misfitOf } from './misfit.ts'
import { can, type Instance, type Run } from './run.ts'
import { settle } from './settle.ts'
import { count, metSlot } from './waitlist.ts'

export function place(run: Run): void {
  run.steps++
  while (run.ledger.free > 0) {
    const sample = run.queue.peek(run.sinks.full)
    if (sample === null) {
      if (refill(run)) continue
      return
    }
    const id = run.policy.pick({
      taskId: sample.task.id,
      sample: sample.index,
      kind: sample.task.spec.kind,
      priority: sample.priority,
      resumedTokens: tokenCount(sample),
    })
    if (id === null) return
    const instance = run.instances.get(id)!
    const misfit = misfitOf(sample, instance)
    if (misfit !== null) {
      settle(run, sample, 'failed', misfit)
    } else if (needsAsking(run, instance)) {
      instance.actor.send({ type: 'server.suspected' })
      // A machine of the user's own may not know the event: then the server is asked for it, and holds up no others meanwhile.
      if (instance.account.limit > 0) {
        setAside(run, instance)
        void probe(run, instance).then(() => askAgain(run, instance))
      }
    } else if (passes(run, instance) || takes(instance)) {
      grant(run, sample, instance)
    } else {
      setAside(run, instance)
    }
  }
}

/** Draws one task from the streams of batches, in turn. What is drawn may run at once: nothing waits, and a slot is free. */
function refill(run: Run): boolean {
  if (run.sinks.full || run.queue.size > 0) return false
  for (const feed of run.feeds) {
    if (!feed.wants || !feed.refill()) continue
    // To the end of the line, unless it has just ended.
    if (run.feeds.delete(feed)) run.feeds.add(feed)
    return true
  }
  return false
}

/** Why a waiting sample does not run, from the closed union of I7. */
export function reasonOf(run: Run, sample: Sample): WaitReason {
  if (sample.parked !== null) return sample.parked
  return sample.lane === 'fresh' && run.sinks.full ? 'backPressure' : blockedBy(run)
}

/** Why a sample at the head of the queue would not run. */
export function blockedBy(run: Run): WaitReason {
  const phase = run.actor.getSnapshot()
  if (!phase.matches('rollout')) return 'phase'
  if (run.ledger.free > 0) return 'turn'
  for (const instance of run.instances.values()) if (instance.account.limit > 0) return 'capacity'
  return 'gate'
}

/**
 * In a versioned fleet a server that has been silent for a while, or hung up, may have restarted with other weights: it is asked
 * before it gets work (F1). One that is generating for us has not.
 */
function needsAsking(run: Run, instance: Instance): boolean {
  if (run.version === null || instance.attempts.size > 0 || can(instance).versions === 'none') return false
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
  metSlot(run, sample)
  count(run, sample, 'running')
  const waitedMs = now - sample.queuedAt
  sample.waitedMs += waitedMs
  instance.totals.placed++
  instance.totals.waitedMs += waitedMs
  if (!task.started) begin(run, task.samples)
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
