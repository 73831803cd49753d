/**
 * Draws tasks for a stream of batches out of its source, one at a time, and admits those that fit. A task whose id is still live
 * waits in hand until that group has ended: a source may go over its tasks again and again.
 */
import { messageOf, RolloutError } from '../errors.ts'
import { checkTask } from '../rollout/check-task.ts'
import type { LiveTask } from '../rollout/sample.ts'
import type { CheckedTask, Task } from '../rollout/task.ts'
import { enter } from './intake.ts'
import type { Run } from './run.ts'
import { openSource, type SourceStep, type TaskSource } from './source.ts'

export interface BatchIntake {
  /** `open`: it can be drawn from. `asked`: the source has not answered. `duplicate`: the task in hand has a live id. */
  readonly state: 'open' | 'asked' | 'duplicate' | 'ended'
  /** Admits a task. False where none came, or the one that came cannot run. */
  draw(): boolean
  close(): void
}

export interface BatchIntakeEvents {
  readonly onAdmitted: (task: LiveTask) => void
  /** The source yielded what cannot run. */
  readonly onInvalid: (error: RolloutError) => void
  /** A task came later than it was asked for. */
  readonly onArrived: () => void
  readonly onEnd: () => void
  readonly onError: (error: RolloutError) => void
}

export function createBatchIntake(run: Run, tasks: TaskSource, events: BatchIntakeEvents): BatchIntake {
  let inHand: { readonly id: string | undefined; readonly spec: CheckedTask } | null = null
  let ended = false
  let closed = false
  const source = openSource(tasks, (step) => {
    if (closed) return
    take(step)
    events.onArrived()
  })

  /** True when it is a task that can run. */
  function take(step: SourceStep): boolean {
    switch (step.kind) {
      case 'end':
        ended = true
        events.onEnd()
        return false
      case 'error': {
        ended = true
        const text = `the source of tasks failed: ${messageOf(step.error)}`
        events.onError(new RolloutError('SOURCE_FAILED', text, { cause: step.error }))
        return false
      }
      case 'task':
        try {
          inHand = { id: step.task?.id, spec: fitting(run, step.task) }
          return true
        } catch (cause) {
          const text = `the source yielded what cannot run: ${messageOf(cause)}`
          events.onInvalid(new RolloutError('SOURCE_FAILED', text, { cause }))
          return false
        }
    }
  }
  function isDuplicate(): boolean {
    return inHand?.id !== undefined && run.tasks.has(inHand.id)
  }

  return {
    get state() {
      if (isDuplicate()) return 'duplicate'
      if (inHand !== null) return 'open'
      return source.pending ? 'asked' : ended ? 'ended' : 'open'
    },
    draw() {
      if (inHand === null) {
        const step = source.take()
        if (step === null || !take(step)) return false
      }
      if (inHand === null || isDuplicate()) return false
      const { id, spec } = inHand
      inHand = null
      events.onAdmitted(enter(run, id, spec))
      return true
    },
    close() {
      closed = true
      inHand = null
      source.close()
    },
  }
}

/** A batch waits for all of its groups: one that cannot run before the trainer has gone on would hold it up for ever. */
function fitting(run: Run, task: Task): CheckedTask {
  const spec = checkTask(task, run.vocabularySize)
  const { kind, minVersion } = spec
  if (kind === 'evaluation')
    throw new RolloutError('INVALID_TASK', "kind: expected 'rollout' in batches, found 'evaluation'; use submit()")
  if (minVersion !== null && (run.version === null || minVersion > run.version)) {
    const text = `minVersion: expected at most the fleet's version, ${run.version}, found ${minVersion}: the batch would wait for weights that wait for the batch`
    throw new RolloutError('INVALID_TASK', text)
  }
  return spec
}
