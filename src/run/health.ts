/**
 * Small notes on an instance: faults of its server, and refusals of its machine.
 */
import type { RolloutError } from '../errors.ts'
import type { Instance, Run } from './run.ts'
import { wake } from './wake.ts'

/** A machine that refused is asked again after this long, or as soon as one of its slots is given back. */
const REFUSAL_MS = 100

/** Passes over an instance whose machine refused, for a moment. */
export function setAside(run: Run, instance: Instance): void {
  const { limit } = instance.account
  run.ledger.setLimit(instance.id, 0)
  const timer = run.clock.setTimeout(() => askAgain(run, instance), REFUSAL_MS)
  instance.refusal = { timer, limit }
}

/** Believes again in an instance whose machine refused. */
export function askAgain(run: Run, instance: Instance): void {
  const { refusal } = instance
  if (refusal === null) return
  forgetRefusal(run, instance)
  run.ledger.setLimit(instance.id, refusal.limit)
  wake(run, 'instance.opened')
}

export function forgetRefusal(run: Run, instance: Instance): void {
  run.clock.clearTimeout(instance.refusal?.timer)
  instance.refusal = null
}

/** Notes a failure of the server itself. */
export function blame(run: Run, instance: Instance, error: RolloutError): void {
  instance.totals.failed++
  instance.fault = error
  run.log.warn({ instance: instance.id, code: error.code }, error.message)
  if (run.hub.listens(null))
    run.hub.tell({ type: 'instance.fault', at: run.clock.now(), instance: instance.id, error }, null)
}
