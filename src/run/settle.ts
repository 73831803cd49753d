/**
 * The end of a sample, and of its task with the last one: exactly one completion each (I2), told to every stream.
 */
import type { RolloutError } from '../errors.ts'
import type { Completion, FinishReason, Outcome } from '../rollout/completion.ts'
import { createGroup } from '../rollout/group.ts'
import { type LiveTask, type Sample, tokenCount } from '../rollout/sample.ts'
import type { Run } from './run.ts'
import { metSlot, stopTokenizing, tellIdle, unpark } from './waitlist.ts'

/** Ends a sample. A second call for the same sample does nothing. */
export function settle(
  run: Run,
  sample: Sample,
  outcome: Outcome,
  error: RolloutError | null,
  finishReason: FinishReason | null = null,
): void {
  if (sample.status === 'ended') return
  const now = run.clock.now()
  const { task } = sample
  if (sample.status === 'waiting') sample.waitedMs += now - sample.queuedAt
  run.counts[sample.status]--
  run.counts.ended[outcome]++
  sample.status = 'ended'
  run.queue.remove(sample)
  unpark(run, sample)
  metSlot(run, sample)
  const completion = completionOf(sample, outcome, error, finishReason, now)
  task.completions[sample.index] = completion
  task.ended++
  // What an episode yields is its trajectory. Readers have it before anybody is told, who may save the run.
  if (task.spec.kind === 'rollout' && task.episode === null) run.sinks.push(completion)
  if (run.hub.listens(task)) {
    run.hub.tell(
      {
        type: 'sample.ended',
        at: now,
        taskId: task.id,
        sample: sample.index,
        kind: task.spec.kind,
        outcome,
        tokens: tokenCount(sample),
      },
      task,
    )
  }
  run.hub.completions.next(completion)
  // Whoever was just told may have cancelled the rest of the task, and with it closed it.
  if (task.ended === task.samples.length && task.group === null) close(run, task)
  run.hub.changed()
  tellIdle(run)
}

function close(run: Run, task: LiveTask): void {
  run.tasks.delete(task.id)
  stopTokenizing(run, task)
  task.offSignal?.()
  const group = createGroup(task.id, task.spec.kind, task.completions, task.spec.meta)
  task.group = group
  task.resolve?.(group)
  run.hub.groups.next(group)
}

function completionOf(
  sample: Sample,
  outcome: Outcome,
  error: RolloutError | null,
  finishReason: FinishReason | null,
  now: number,
): Completion {
  const { task, output } = sample
  const length = output?.length ?? 0
  return {
    id: `${task.id}/${sample.index}`,
    taskId: task.id,
    sample: sample.index,
    kind: task.spec.kind,
    outcome,
    finishReason,
    text: output?.text ?? null,
    tokenIds: output === null ? new Int32Array(0) : fitted(output.tokenIds, length),
    logprobs: output?.hasLogprobs ? fitted(output.logprobs, length) : new Float32Array(0),
    versions: output?.spans ?? [],
    logprobBasis: output?.basis ?? 'sampled',
    segments: sample.segments,
    timings: {
      waitedMs: sample.waitedMs,
      firstTokenMs: sample.firstTokenAt === null ? null : sample.firstTokenAt - sample.submittedAt,
      totalMs: now - sample.submittedAt,
    },
    error,
    meta: task.spec.meta,
  }
}

/** The buffer itself where it is full: the sample has ended and writes no more. */
function fitted<T extends Int32Array | Float32Array>(buffer: T, length: number): T {
  return buffer.length === length ? buffer : (buffer.slice(0, length) as T)
}
