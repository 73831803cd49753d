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
  return { [Symbol.asyncIterator]: () => createReader(task, present) }
}

/** Not a generator: that would hear of a reader who leaves only with the next event, which may never come. */
function createReader(task: LiveTask, present: () => RolloutEvent[]): AsyncIterableIterator<RolloutEvent> {
  let buffer: RolloutEvent[] = []
  let begun = false
  let left = false
  /** Readers who wait, in order. Each looks again for itself. */
  let waiting: (() => void)[] = []

  const wake = (): void => {
    const all = waiting
    waiting = []
    for (const look of all) look()
  }
  const record = (event: unknown): void => {
    join(buffer, event as RolloutEvent)
    wake()
  }
  const leave = (): void => {
    begun = true
    left = true
    buffer = []
    if (task.listeners?.delete(record) && task.listeners.size === 0) task.listeners = null
    wake()
  }
  const iterator: AsyncIterableIterator<RolloutEvent> = {
    async next() {
      if (!begun) {
        begun = true
        buffer = present()
        task.listeners ??= new Set()
        task.listeners.add(record)
      }
      while (buffer.length === 0 && task.group === null && !left) await new Promise<void>((look) => waiting.push(look))
      const value = buffer.shift()
      if (value !== undefined) return { done: false, value }
      leave()
      return { done: true, value: undefined }
    },
    async return() {
      leave()
      return { done: true, value: undefined }
    },
    [Symbol.asyncIterator]: () => iterator,
  }
  return iterator
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
