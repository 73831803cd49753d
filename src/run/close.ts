/**
 * The end of a run: everything live is cancelled, the engines are told, and then every actor, timer and socket ends (I12).
 */
import { askDriver } from '../engines/driver.ts'
import { messageOf, RolloutError } from '../errors.ts'
import { giveBack } from './attempt.ts'
import { hangUp } from './detach.ts'
import { forgetRefusal } from './health.ts'
import { leaveOpen } from './hold.ts'
import { cancel } from './intake.ts'
import type { Run } from './run.ts'
import { tellPhase } from './tell-phase.ts'

/** How long close waits for engines to end aborted work before it closes their sockets. */
const GRACE_MS = 2_000

export async function closeRun(run: Run, onClose: Set<() => void>): Promise<void> {
  run.closing = true
  run.actor.send({ type: 'run.stopping' })
  tellPhase(run)
  const reason = new RolloutError('CLOSED', 'the supervisor was closed')
  for (const end of [...run.onClosing]) end(reason)
  for (const task of [...run.tasks.values()]) cancel(run, task, reason)
  run.carried.clear()
  await run.line.close(reason)
  await Promise.all([...run.instances.values()].map((instance) => leaveOpen(run, instance)))
  await engineEnds(run)
  const drivers = [...run.instances.values()].map(({ id, driver }) =>
    askDriver(() => driver.close()).catch((cause: unknown) =>
      run.log.warn({ instance: id }, `the driver did not close: ${messageOf(cause)}`),
    ),
  )
  await Promise.all(drivers)
  for (const instance of run.instances.values()) {
    forgetRefusal(run, instance)
    run.clock.clearTimeout(instance.bringing.timer)
    run.policy.remove(instance.id)
    run.ledger.remove(instance.id)
    for (const resolve of instance.onLeft) resolve()
  }
  stopActors(run)
  run.sinks.close()
  for (const complete of onClose) complete()
  run.hub.complete()
}

/**
 * Resolves when no slot is held any more. After the grace period the sockets of the rest are closed; what a driver has not ended after another
 * is given back all the same.
 */
function engineEnds(run: Run): Promise<void> {
  if (run.ledger.held === 0) return Promise.resolve()
  const instances = [...run.instances.values(), ...run.leaving]
  return new Promise((resolve) => {
    const closeSockets = (): void => {
      for (const { attempts } of instances) for (const attempt of attempts) hangUp(attempt)
      timer = run.clock.setTimeout(giveUp, GRACE_MS)
    }
    const giveUp = (): void => {
      for (const { id, attempts } of instances) {
        if (attempts.size > 0) run.log.warn({ instance: id }, `its driver did not end ${attempts.size} generations`)
        for (const attempt of attempts) giveBack(run, attempt)
      }
    }
    const finish = (): void => {
      run.clock.clearTimeout(timer)
      run.onReleased.delete(check)
      resolve()
    }
    const check = (): void => {
      if (run.ledger.held === 0) finish()
    }
    let timer = run.clock.setTimeout(closeSockets, GRACE_MS)
    run.onReleased.add(check)
  })
}

/**
 * XState stops children by copying the list of them once for each: 2 s at 1,000. Each child is brought to its final state
 * instead, where it has ended by itself, and the list is emptied before the parent stops.
 */
function stopActors(run: Run): void {
  const instances = [...run.instances.values()]
  run.instances.clear()
  for (const { actor } of instances) if (actor.getSnapshot().status === 'active') actor.send({ type: 'instance.stop' })
  const { children } = run.actor.getSnapshot() as { readonly children: Record<string, unknown> }
  for (const id of Object.keys(children)) delete children[id]
  run.actor.send({ type: 'run.stopped' })
  run.actor.stop()
}
