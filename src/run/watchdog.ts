/**
 * Finds servers that answer but generate nothing (F6, decision 18): when all streams of an instance and its own counters have stood
 * still for watchdogMs, its circuit opens and its samples go on elsewhere. It is about servers, not about streams: one stream that
 * moves is enough. One timer an instance, while attempts run there.
 */
import { RolloutError } from '../errors.ts'
import { exhaust, waitAgain } from './again.ts'
import { detach } from './detach.ts'
import { blame } from './health.ts'
import { can, type Instance, isMember, type Run } from './run.ts'
import { wake } from './wake.ts'

/** Sets the watchdog on an instance that has work. */
export function guard(run: Run, instance: Instance): void {
  if (instance.watchdog === null) arm(run, instance, run.options.watchdogMs / 2, null)
}

/** Calls it off when the last attempt there has ended. */
export function unguard(run: Run, instance: Instance): void {
  if (instance.attempts.size > 0) return
  run.clock.clearTimeout(instance.watchdog)
  instance.watchdog = null
}

function arm(run: Run, instance: Instance, delayMs: number, counted: number | null): void {
  instance.watchdog = run.clock.setTimeout(() => void look(run, instance, counted), delayMs)
}

/**
 * `counted` is what the server's own counter said when it was last asked: first at half time, so that a counter that stands still costs
 * no second wait.
 */
async function look(run: Run, instance: Instance, counted: number | null): Promise<void> {
  const { watchdogMs } = run.options
  const halfMs = watchdogMs / 2
  const quietMs = (): number => run.clock.now() - lastSign(instance)
  const untilHalf = (): void => arm(run, instance, Math.min(halfMs, halfMs - quietMs()), null)
  if (quietMs() < halfMs) return untilHalf()
  const { watchdog } = instance
  const counter = await generated(instance)
  // Called off, or set anew, while the server was asked.
  if (instance.watchdog !== watchdog || !isMember(run, instance)) return
  if (quietMs() < halfMs) return untilHalf()
  if (quietMs() < watchdogMs) return arm(run, instance, watchdogMs - quietMs(), counter)
  // A moving counter: it works on something, and has not sent it yet. A server that we hold stands still by order.
  const moves = counter !== null && counter !== counted
  if (moves || instance.held !== null) arm(run, instance, watchdogMs, counter)
  else stalled(run, instance)
}

/** When anything of the attempts there last moved: a token, or a beginning. Requests that we have ended ourselves say nothing. */
function lastSign(instance: Instance): number {
  let last = Number.NEGATIVE_INFINITY
  for (const { sample, lastTokenAt } of instance.attempts) if (sample !== null) last = Math.max(last, lastTokenAt)
  return last === Number.NEGATIVE_INFINITY ? Number.POSITIVE_INFINITY : last
}

async function generated(instance: Instance): Promise<number | null> {
  if (!can(instance).loadReport) return null
  try {
    return (await instance.driver.load()).generatedTokens ?? null
  } catch {
    return null
  }
}

function stalled(run: Run, instance: Instance): void {
  const { watchdogMs, attempts: allowed } = run.options
  const text = `instance ${instance.id} answers, but ${instance.attempts.size} generations there have stood still for ${watchdogMs} ms; restart the server`
  const error = new RolloutError('STALLED', text, { instance: instance.id })
  instance.watchdog = null
  blame(run, instance, error)
  instance.actor.send({ type: 'server.stalled' })
  for (const attempt of [...instance.attempts]) {
    const { sample } = attempt
    if (sample === null) continue
    detach(run, attempt, 'timedOut', 'failed')
    if (sample.fruitless >= allowed) exhaust(run, sample, error)
    else waitAgain(run, attempt, sample, 'retry')
  }
  wake(run, 'queue.changed')
}
