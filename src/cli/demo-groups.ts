/**
 * The demo's groups in flight: more are begun than a step waits for, and those that are not done when it trains go on through the update into
 * a later step. Every group is taken once, or cancelled at the end.
 */
import type { Group, Supervisor, Task } from '../index.ts'

/** What a group is of. */
export interface Prompt {
  readonly digit: number
}

export interface OpenGroups {
  begin(tasks: readonly Task<Prompt>[]): void
  /** Resolves when so many have ended that were not taken, or none is open. */
  ended(count: number): Promise<void>
  /** Waits for so many, then hands them out in the order in which they were begun. */
  take(count: number): Promise<Group<Prompt>[]>
  /** Groups that have ended and were not taken. */
  readonly done: number
  /** Ends all that is open at once, and whatever is begun later. */
  cancel(reason: unknown): void
}

interface Done {
  /** Order of beginning. */
  readonly number: number
  readonly group: Group<Prompt>
}

export function createOpenGroups(supervisor: Supervisor): OpenGroups {
  const open = new Map<number, (reason: unknown) => void>()
  const done: Done[] = []
  const waiting = new Set<() => void>()
  let cancelled: { readonly reason: unknown } | null = null
  let begun = 0

  async function ended(count: number): Promise<void> {
    while (done.length < count && open.size > 0) await new Promise<void>((resolve) => waiting.add(resolve))
  }

  return {
    begin(tasks) {
      for (const task of tasks) {
        const number = begun++
        const rollout = supervisor.submit(task)
        open.set(number, (reason) => rollout.cancel(reason))
        void rollout.result.then((group) => {
          open.delete(number)
          done.push({ number, group })
          for (const go of waiting) go()
          waiting.clear()
        })
        if (cancelled !== null) rollout.cancel(cancelled.reason)
      }
    },
    ended,
    async take(count) {
      await ended(count)
      const taken = done.splice(0, count).sort((a, b) => a.number - b.number)
      return taken.map(({ group }) => group)
    },
    get done() {
      return done.length
    },
    cancel(reason) {
      cancelled ??= { reason }
      for (const end of [...open.values()]) end(reason)
    },
  }
}
