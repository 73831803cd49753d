/**
 * Asks the supervisor's actor for a placement step.
 */
import type { Run } from './run.ts'

type WakeEvent = 'task.submitted' | 'slot.freed' | 'instance.opened' | 'queue.changed'

/** Asks for a placement step, where one could place anything: this is what keeps a freed slot from waking more than one waiter. */
export function wake(run: Run, type: WakeEvent): void {
  if (run.closing) return
  const mayPlace = run.ledger.free > 0 && (run.queue.size > 0 || isHungry(run))
  // An evaluation that got no slot makes room for itself.
  if (mayPlace || (run.evaluation !== null && run.queue.sizeOf('evaluation') > 0)) run.actor.send({ type })
}

function isHungry(run: Run): boolean {
  for (const feed of run.feeds) if (feed.wants) return true
  return false
}
