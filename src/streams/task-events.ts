/**
 * `rollout.events`: what happens to one task, as an AsyncIterable. It begins with where the task's samples are now and records
 * from its first iteration. Token events of one sample that nobody has read yet are joined, so a slow reader holds at most
 * the task's own output.
 */
import type { LiveTask } from '../rollout/sample.ts'
import type { SampleEvent } from '../telemetry/events.ts'

/** New tokens of a sample. */
export type TokensEvent = {
  readonly type: 'sample.tokens'
  readonly at: number
  readonly taskId: string
  readonly sample: number
  readonly tokenIds: readonly number[]
  readonly logprobs: readonly number[]
  readonly text: string | null
}

/** Anything that `rollout.events` carries. */
export type RolloutEvent = SampleEvent | TokensEvent

/** `present` says where each sample is now. */
export function taskEvents(task: LiveTask, present: () => RolloutEvent[]): AsyncIterable<RolloutEvent> {
  return {
    async *[Symbol.asyncIterator]() {
      let buffer = present()
      let wake: (() => void) | null = null
      const record = (event: unknown): void => {
        join(buffer, event as RolloutEvent)
        wake?.()
      }
      task.listeners ??= new Set()
      task.listeners.add(record)
      try {
        for (;;) {
          const read = buffer
          buffer = []
          yield* read
          if (buffer.length > 0) continue
          if (task.group !== null) return
          await new Promise<void>((resolve) => {
            wake = resolve
          })
          wake = null
        }
      } finally {
        task.listeners.delete(record)
        if (task.listeners.size === 0) task.listeners = null
      }
    },
  }
}

/** Token events are copied when they are recorded, so that joining the next one may grow them in place. */
function join(buffer: RolloutEvent[], event: RolloutEvent): void {
  if (event.type !== 'sample.tokens') {
    buffer.push(event)
    return
  }
  const last = buffer.at(-1)
  if (last?.type !== 'sample.tokens' || last.sample !== event.sample) {
    buffer.push({ ...event, tokenIds: [...event.tokenIds], logprobs: [...event.logprobs] })
    return
  }
  for (const id of event.tokenIds) (last.tokenIds as number[]).push(id)
  for (const logprob of event.logprobs) (last.logprobs as number[]).push(logprob)
  if (event.text !== null) buffer[buffer.length - 1] = { ...last, text: (last.text ?? '') + event.text }
}
