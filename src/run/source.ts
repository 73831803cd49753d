/**
 * Where a stream of batches takes its tasks from: any iterable, asked for one task at a time and never for the next before that came.
 * A source that is not asynchronous answers at once, so that a freed slot refills in the same step.
 */
import type { Task } from '../rollout/task.ts'

/** Tasks, endless or not: an array, a generator, an async generator, a file (`readTasks`). */
export type TaskSource<M = unknown> = Iterable<Task<M>> | AsyncIterable<Task<M>>

/** What a source said. */
export type SourceStep =
  | { readonly kind: 'task'; readonly task: Task }
  | { readonly kind: 'end' }
  | { readonly kind: 'error'; readonly error: unknown }

export interface OpenSource {
  /** True while an answer is awaited. */
  readonly pending: boolean
  /** The next step, or null where it comes later, by `arrived`. Not to be called while one is pending. */
  take(): SourceStep | null
  /** Tells the source that no more is wanted. Does not wait: a source that never yields would not hear it. */
  close(): void
}

type Step = IteratorResult<Task>

export function isSource(source: unknown): source is TaskSource {
  if (typeof source !== 'object' || source === null) return false
  return Symbol.asyncIterator in source || Symbol.iterator in source
}

export function openSource(source: TaskSource, arrived: (step: SourceStep) => void): OpenSource {
  let iterator: Iterator<Task> | AsyncIterator<Task> | null = null
  let pending = false
  let over = false

  function read(step: Step): SourceStep {
    if (typeof step !== 'object' || step === null)
      return fail(new TypeError('expected { done, value } from next(), found something else'))
    if (step.done !== true) return { kind: 'task', task: step.value }
    over = true
    return { kind: 'end' }
  }
  function fail(error: unknown): SourceStep {
    over = true
    return { kind: 'error', error }
  }
  function later(promise: PromiseLike<Step>): null {
    pending = true
    const answer = (step: SourceStep): void => {
      pending = false
      arrived(step)
    }
    promise.then(
      (step) => answer(read(step)),
      (error: unknown) => answer(fail(error)),
    )
    return null
  }

  return {
    get pending() {
      return pending
    },
    take() {
      if (over) return { kind: 'end' }
      try {
        iterator ??= Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]()
        const step = iterator.next()
        return isPromise(step) ? later(step) : read(step)
      } catch (error) {
        return fail(error)
      }
    },
    close() {
      if (over) return
      over = true
      try {
        const left: unknown = iterator?.return?.()
        if (isPromise(left)) left.then(undefined, () => {})
      } catch {
        // It was told; what it makes of that is its own.
      }
    },
  }
}

function isPromise(value: unknown): value is PromiseLike<Step> {
  return typeof (value as PromiseLike<Step> | null | undefined)?.then === 'function'
}
