/**
 * How an instance's machine learns that a lease has ended. Under load the slot is at once another sample's, on the same instance: then
 * the machine is told one event, `lease.passed`, in place of `lease.released` and `lease.granted`.
 *
 *     giveBack --may it pass?--> the machine is told later --slot.freed--> placement picks the same instance: `lease.passed`
 *                  | no                                        | picks none, or another
 *                  `lease.released`                            `lease.released`
 *
 * In between, the machine still counts the lease that the books do not: it may be told of anything else meanwhile, and is told of the
 * release before the step ends.
 */
import type { LeaseOutcome } from '../../machines/index.ts'
import { type Attempt, type Instance, isMember, type Run } from './run.ts'

/** Tells the machine that a lease ended. One whose instance has left has ended before its last leases. */
export function tellReleased(run: Run, instance: Instance, outcome: LeaseOutcome): void {
  if (!isMember(run, instance)) return
  instance.actor.send({ type: 'lease.released', outcome })
  run.ledger.setFailures(instance.id, instance.actor.getSnapshot().context.failures)
}

/** True where the next placement may take the slot over, and the machine has not to be told before. */
export function mayPass(run: Run, { instance, outcome }: Attempt): boolean {
  const { failures, limit, running } = instance.account
  return (
    outcome === 'succeeded' &&
    failures === 0 &&
    running < limit &&
    run.queue.size > 0 &&
    run.passing === null &&
    isMember(run, instance) &&
    run.actor.getSnapshot().value === 'rollout'
  )
}

/** True where the instance takes the next sample in place of the last. Where its machine does not agree, it has been told of the release. */
export function passes(run: Run, instance: Instance): boolean {
  if (run.passing !== instance) return false
  run.passing = null
  if (instance.actor.getSnapshot().can(PASSED)) {
    instance.actor.send(PASSED)
    return true
  }
  tellReleased(run, instance, 'succeeded')
  return false
}

const PASSED = { type: 'lease.passed' } as const

/** Nobody took it over. */
export function endPassing(run: Run): void {
  const { passing } = run
  if (passing === null) return
  run.passing = null
  tellReleased(run, passing, 'succeeded')
}
