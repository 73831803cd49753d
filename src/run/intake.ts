/**
 * Where tasks come in: admitted whole or not at all, cancelled at once, queued or running (I11).
 */
import { setMaxListeners } from 'node:events'
import { messageOf, RolloutError } from '../errors.ts'
import { checkTask } from '../rollout/check-task.ts'
import type { Completion } from '../rollout/completion.ts'
import type { Group } from '../rollout/group.ts'
import { needsOf } from '../rollout/needs.ts'
import { createSample, type LiveTask, type Sample } from '../rollout/sample.ts'
import type { Session } from '../rollout/session.ts'
import type { CheckedTask, Task } from '../rollout/task.ts'
import { expectSlot } from './deadline.ts'
import { detach } from './detach.ts'
import { mustBeOpen, type Run } from './run.ts'
import { settle } from './settle.ts'
import { needsTokens, tokenize } from './tokenize.ts'
import { enqueue, laneOf, metSlot, park, stopTokenizing, tellQueued, unpark } from './waitlist.ts'
import { wake } from './wake.ts'

/** What makes a task the turn of an episode. */
export interface TurnOf {
  readonly episode: string
  readonly session: Session
  /** True for all but the first: they are not new work, and no back-pressure holds them. */
  readonly goesOn: boolean
}

/** Admits a task whole: all its samples wait from now on; held, until their task is released. */
export function admit(run: Run, task: Task, turn: TurnOf | null = null, isHeld: boolean = false): LiveTask {
  mustBeOpen(run, 'submit')
  const spec = checkTask(task, run.vocabularySize)
  const live = enter(run, task.id, spec, turn, isHeld)
  wake(run, 'task.submitted')
  return live
}

/** The same for a task that has been checked, without asking for a placement step. */
export function enter(
  run: Run,
  ownId: string | undefined,
  spec: CheckedTask,
  turn: TurnOf | null = null,
  isHeld: boolean = false,
): LiveTask {
  if (ownId !== undefined) mustBeFree(run, ownId)
  const id = ownId ?? freshId(run)
  const live = createTask(run, id, spec, turn)
  live.isHeld = isHeld
  const now = run.clock.now()
  const waitsForTokens = needsTokens(run, live)
  run.tasks.set(id, live)
  run.counts.submitted += spec.samples
  run.counts.waiting += spec.samples
  for (let index = 0; index < spec.samples; index++) {
    const sample = createSample(live, index, ++run.lastOrder, now)
    live.samples[index] = sample
    if (run.options.timeouts.waitMs !== null) expectSlot(run, sample)
    if (waitsForTokens) park(run, sample, 'tokenizing')
    else enqueue(run, sample, laneOf(sample, 'fresh'))
  }
  // Only now that the task is whole may others act on it: whoever is told of it may cancel it, or close the run.
  const { signal } = spec
  if (signal !== undefined) obey(run, live, signal)
  for (const sample of live.samples) tellQueued(run, sample, 'submitted')
  if (signal?.aborted === true) cancel(run, live, signal.reason)
  if (waitsForTokens && run.tasks.get(id) === live) tokenize(run, live)
  run.hub.changed()
  return live
}

/** A task without samples, in no book. */
export function createTask(run: Run, id: string, spec: CheckedTask, turn: TurnOf | null = null): LiveTask {
  return {
    id,
    spec,
    // Of their final size: an array that grows by `push` keeps room for 16 more.
    samples: new Array<Sample>(spec.samples),
    completions: new Array<Completion>(spec.samples),
    ended: 0,
    started: turn?.goesOn === true,
    carried: false,
    isHeld: false,
    promptTokenIds: null,
    maxTokenId: spec.maxTokenId,
    needs: needsOf(spec.sampling, spec.kind),
    session: turn?.session ?? (spec.sessionId === null ? null : run.sessions.open(spec.sessionId)),
    episode: turn?.episode ?? null,
    resolve: null,
    group: null,
    listeners: null,
    offSignal: null,
  }
}

/** True where more slots are free than samples wait for token ids: another of them would get one. */
export function hasFreeSlot(run: Run): boolean {
  let promised = 0
  for (const task of run.tokenizing.keys()) {
    promised += task.samples.length - task.ended
    if (promised >= run.ledger.free) return false
  }
  return run.ledger.free > 0
}

export function mustBeFree(run: Run, id: string): void {
  if (!run.tasks.has(id)) return
  throw new RolloutError(
    'DUPLICATE_TASK',
    `expected an id that no live task has, found ${JSON.stringify(id)}; ids are free again when the group has ended`,
  )
}

/** Passes over ids that a user has given to tasks which still live. */
function freshId(run: Run): string {
  for (;;) {
    const id = `task-${String(++run.lastTask).padStart(9, '0')}`
    if (!run.tasks.has(id)) return id
  }
}

function obey(run: Run, task: LiveTask, signal: AbortSignal): void {
  const abort = (): void => cancel(run, task, signal.reason)
  // One signal may cancel thousands of tasks; Node takes more than ten listeners for a leak.
  setMaxListeners(0, signal)
  signal.addEventListener('abort', abort, { once: true })
  task.offSignal = () => signal.removeEventListener('abort', abort)
}

/** Takes back a task of which nothing has started: as if it had never been submitted. */
export function withdraw(run: Run, task: LiveTask): void {
  for (const sample of task.samples) {
    run.queue.remove(sample)
    unpark(run, sample)
    metSlot(run, sample)
  }
  run.counts.submitted -= task.samples.length
  run.counts.waiting -= task.samples.length
  run.tasks.delete(task.id)
  stopTokenizing(run, task)
  task.offSignal?.()
  run.hub.changed()
}

/** Cancels what has not ended of a task: at once for the caller, queued or running (I11). */
export function cancel(run: Run, task: LiveTask, reason: unknown): void {
  const error = RolloutError.isInstance(reason)
    ? reason
    : new RolloutError(
        'CANCELLED',
        `task ${task.id} was cancelled${reason === undefined ? '' : `: ${messageOf(reason)}`}`,
        { cause: reason },
      )
  endTask(run, task, 'cancelled', error)
}

/** Ends what has not ended of a task, queued or running. */
export function endTask(
  run: Run,
  task: LiveTask,
  outcome: 'cancelled' | 'expired' | 'failed',
  error: RolloutError,
): void {
  if (task.ended === task.samples.length) return
  for (const sample of task.samples) {
    const attempt = run.attempts.get(sample)
    if (attempt !== undefined) detach(run, attempt, outcome === 'expired' ? 'timedOut' : 'cancelled', 'neutral')
    settle(run, sample, outcome, error)
  }
  wake(run, 'queue.changed')
}

export function groupOf(task: LiveTask): Promise<Group> {
  return task.group !== null
    ? Promise.resolve(task.group)
    : new Promise((resolve) => {
        task.resolve = resolve
      })
}
