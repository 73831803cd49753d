/**
 * `rollout()`: one batch for one step of training. It ends when all its groups have, or when enough are complete; what is left is then
 * carried over to the next call, or cancelled. Groups come in the order of the tasks, carried ones after them (decision 26).
 */
import { checkCall, checkInteger, checkOneOf, checkSignal } from '../checks.ts'
import { messageOf, RolloutError } from '../errors.ts'
import { show } from '../problems.ts'
import type { Group } from '../rollout/group.ts'
import type { LiveTask } from '../rollout/sample.ts'
import type { Task } from '../rollout/task.ts'
import { bringBack, carry } from './carry.ts'
import { checkTasks } from './check-tasks.ts'
import { cancel, enter } from './intake.ts'
import type { Run } from './run.ts'
import { wake } from './wake.ts'

/** Options of `rollout()`. */
export interface RolloutOptions {
  /** Ends the batch when so many groups are complete, carried ones included: 1 to the number of groups. @default all */
  readonly stopAfter?: number
  /**
   * What becomes of the groups that are not done then: `carry` interrupts them, keeps their tokens, and puts them first in line in the
   * next call; `cancel` ends them. @default 'carry'
   */
  readonly rest?: 'carry' | 'cancel'
  /** Aborting it cancels the groups of the call; the caller is told its reason. */
  readonly signal?: AbortSignal
}

const KEYS = ['stopAfter', 'rest', 'signal'] as const

/** @throws RolloutError, as a rejection: INVALID_OPTIONS, INVALID_TASK, DUPLICATE_TASK, ALL_REJECTED, CLOSED */
export async function rolloutBatch(run: Run, tasks: Iterable<Task>, options: RolloutOptions): Promise<Group[]> {
  const { list, stopAfter, rest, signal } = checkCall('rollout', KEYS, options, (report) => {
    const isList = typeof tasks === 'object' && tasks !== null && Symbol.iterator in tasks
    if (!isList) report('tasks', 'an iterable of tasks', show(tasks))
    const list = isList ? [...tasks] : []
    const max = Math.max(1, list.length + run.carried.size)
    return {
      list,
      stopAfter: checkInteger(report, 'stopAfter', options.stopAfter, { min: 1, max }, null),
      rest: checkOneOf(report, 'rest', options.rest, ['carry', 'cancel'], 'carry'),
      signal: checkSignal(report, options.signal),
    }
  })
  const entrants = checkTasks(run, list, 'rollout')
  const carried = [...run.carried]
  if (signal?.aborted === true) throw signal.reason
  if (entrants.length + carried.length === 0) return []
  for (const task of carried) bringBack(run, task)
  const own = entrants.map(({ id, spec }) => enter(run, id, spec))
  const ended = gather(run, [...own, ...carried], stopAfter, rest, signal)
  wake(run, 'task.submitted')
  return ended
}

/** Resolves with the groups that had ended when the batch was done. */
function gather(
  run: Run,
  tasks: readonly LiveTask[],
  stopAfter: number | null,
  rest: 'carry' | 'cancel',
  signal: AbortSignal | undefined,
): Promise<Group[]> {
  return new Promise((resolve, reject) => {
    let open = tasks.length
    let complete = 0
    let done = false

    function ended(group: Group): void {
      open--
      if (group.complete) complete++
      if (!done && (open === 0 || complete === stopAfter)) finish()
    }
    function leave(): void {
      done = true
      for (const task of tasks) run.kept.delete(task)
      run.onClosing.delete(fail)
      signal?.removeEventListener('abort', abort)
    }
    function finish(): void {
      leave()
      const groups = tasks.flatMap(({ group }) => group ?? [])
      if (complete === 0) reject(noneComplete(groups))
      else resolve(groups)
      for (const task of tasks) {
        if (task.group !== null) continue
        if (rest === 'carry') carry(run, task)
        else cancel(run, task, 'the batch was complete without it')
      }
      wake(run, 'queue.changed')
    }
    function fail(error: RolloutError): void {
      leave()
      reject(error)
    }
    function abort(): void {
      leave()
      reject(signal!.reason as Error)
      for (const task of tasks) cancel(run, task, signal!.reason)
    }

    run.onClosing.add(fail)
    signal?.addEventListener('abort', abort, { once: true })
    for (const task of tasks) {
      run.kept.set(task, 'rollout')
      task.resolve = ended
    }
    // Some ended while they were carried, or were cancelled by whoever was told of them.
    for (const { group } of tasks) if (group !== null && !done) ended(group)
  })
}

function noneComplete(groups: readonly Group[]): RolloutError {
  const outcomes = groups.flatMap(({ missing }) => missing)
  const first = outcomes.find(({ error }) => error !== null)?.error
  const text = `expected groups to train on, but none of ${groups.length} is complete; the first error: ${messageOf(first)}`
  return new RolloutError('ALL_REJECTED', text, { cause: first })
}
