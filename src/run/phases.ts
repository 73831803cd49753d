/**
 * What interrupts placement: pause, and weight updates. Updates wait in one line (decision 9); each closes every gate, waits until
 * the fleet is quiet by our books and by the servers' own counts, loads, reads the version back, and reopens. An instance that
 * fails a step is named, stays stale, and is not left paused (F2, I10).
 */
import { RolloutError } from '../errors.ts'
import { bring, bringLater, bringUpToDate, type CheckedUpdate, type InstanceUpdate, isBehind } from './bring.ts'
import { setPaces } from './pace.ts'
import { quiet } from './quiet.ts'
import type { Instance, Run } from './run.ts'
import { unparkVersions } from './waitlist.ts'
import { wake } from './wake.ts'

/** How a weight update went, instance by instance. */
export interface UpdateReport {
  readonly version: number
  readonly instances: readonly InstanceUpdate[]
  readonly interrupted: number
  readonly resumedTokens: number
  readonly wastedTokens: number
}

export function pause(run: Run, timeoutMs: number | null): Promise<void> {
  run.actor.send({ type: 'pause.requested' })
  tellPhase(run)
  for (const instance of run.instances.values()) instance.actor.send({ type: 'gate.closed' })
  return quiet(run, [...run.instances.values()], timeoutMs)
}

export function resume(run: Run): void {
  run.actor.send({ type: 'resume.requested' })
  if (run.actor.getSnapshot().matches('rollout')) openGates(run)
  tellPhase(run)
}

function openGates(run: Run): void {
  for (const instance of run.instances.values()) instance.actor.send({ type: 'gate.opened' })
}

export function tellPhase(run: Run): void {
  setPaces(run)
  run.hub.changed()
  if (run.hub.listens(null)) run.hub.tell({ type: 'run.phase', at: run.clock.now(), phase: phaseOf(run) }, null)
}

export function phaseOf(run: Run): 'starting' | 'rollout' | 'paused' | 'weightUpdate' | 'stopping' | 'stopped' {
  const { value } = run.actor.getSnapshot()
  return typeof value === 'string' ? value : 'weightUpdate'
}

/** Brings the whole fleet to a version. Throws UPDATE_FAILED when fewer than minInstances made it. */
export async function updateWeights(run: Run, update: CheckedUpdate): Promise<UpdateReport> {
  mustGoOn(run)
  // The same version again repairs instances that it failed on, and is what a restored run begins with.
  const isRepair =
    update.version === run.version &&
    (run.lastUpdate === null || [...run.instances.values()].some((each) => isBehind(run, each)))
  if (run.version !== null && update.version <= run.version && !isRepair) {
    throw new RolloutError(
      'INVALID_OPTIONS',
      `version: expected an integer above ${run.version}, the fleet's version, found ${update.version}`,
    )
  }
  const startedAt = run.clock.now()
  const { actor } = run
  actor.send({ type: 'update.started' })
  if (phaseOf(run) !== 'weightUpdate')
    throw new RolloutError(
      'WRONG_PHASE',
      `expected phase rollout or paused, found ${phaseOf(run)}: await start() first`,
    )
  tellPhase(run)
  let targets: readonly Instance[] = []
  try {
    await answered(run, update.timeoutMs)
    mustGoOn(run)
    const all = [...run.instances.values()]
    targets = all.filter(isReachable)
    for (const instance of targets) instance.actor.send({ type: 'gate.closed' })
    actor.send({ type: 'gates.closed' })
    await quiet(run, targets, update.timeoutMs)
    actor.send({ type: 'fleet.quiet' })
    const away = all.filter((instance) => !targets.includes(instance))
    const results = [
      ...(await Promise.all(targets.map((instance) => bring(run, instance, update, startedAt)))),
      ...away.map((instance) => unreached(run, instance, startedAt)),
    ]
    mustGoOn(run)
    actor.send({ type: 'weights.applied' })
    const done = results.filter((result) => result.ok).length
    if (done > 0) learn(run, update)
    else actor.send({ type: 'update.failed' })
    if (done < run.options.minInstances) throw failure(update.version, results, run.options.minInstances)
    return { version: update.version, instances: results, interrupted: 0, resumedTokens: 0, wastedTokens: 0 }
  } catch (error) {
    actor.send({ type: 'update.failed' })
    throw error
  } finally {
    reopen(run, targets)
  }
}

/** Waits for the servers that are being asked right now: they can take part as soon as they have answered. */
async function answered(run: Run, timeoutMs: number): Promise<void> {
  const giveUpAt = run.clock.now() + timeoutMs
  const isAsked = (instance: Instance): boolean => instance.actor.getSnapshot().matches('suspected')
  while ([...run.instances.values()].some(isAsked) && !run.closing && run.clock.now() < giveUpAt) {
    await new Promise<void>((resolve) => void run.clock.setTimeout(resolve, ASKED_POLL_MS))
  }
}

const ASKED_POLL_MS = 10

function isReachable(instance: Instance): boolean {
  const state = instance.actor.getSnapshot()
  return state.matches('serving') || state.matches('paused') || state.matches('stale')
}

/** An instance that was away: it is brought up to date when it comes back. */
function unreached(run: Run, { id, fault }: Instance, startedAt: number): InstanceUpdate {
  const error = RolloutError.isInstance(fault)
    ? fault
    : new RolloutError('UNREACHABLE', `instance ${id} did not answer when the update began`, { instance: id })
  return { id, ok: false, step: 'reach', error, ms: run.clock.now() - startedAt }
}

function mustGoOn(run: Run): void {
  if (run.closing) throw new RolloutError('CLOSED', 'updateWeights was overtaken by close()')
}

function failure(version: number, results: UpdateReport['instances'], minInstances: number): RolloutError {
  const errors = results.flatMap(({ error }) => (error === null ? [] : [error]))
  const lines = results.flatMap(({ id, step, error }) =>
    error === null ? [] : [`  ${id} (${step}): ${error.message}`],
  )
  return new RolloutError(
    'UPDATE_FAILED',
    `expected at least ${minInstances} instances at version ${version}, found ${results.length - errors.length}:\n${lines.join('\n')}`,
    { errors },
  )
}

function learn(run: Run, { version, apply }: CheckedUpdate): void {
  run.version = version
  run.lastUpdate = { version, apply }
  run.actor.send({ type: 'weights.verified', version })
  unparkVersions(run)
  for (const changed of run.onVersion) changed()
  if (run.hub.listens(null)) run.hub.tell({ type: 'run.version', at: run.clock.now(), version }, null)
}

function reopen(run: Run, targets: readonly Instance[]): void {
  // Those that joined, or came back, while the others were updated: placed on before they are stale, they would break I9.
  for (const instance of run.instances.values())
    if (isBehind(run, instance)) instance.actor.send({ type: 'weights.lost' })
  run.actor.send({ type: 'gates.opened' })
  if (run.actor.getSnapshot().matches('rollout')) openGates(run)
  tellPhase(run)
  for (const instance of run.instances.values()) {
    if (!instance.actor.getSnapshot().matches('stale')) continue
    // One that has just failed is given time.
    if (targets.includes(instance)) bringLater(run, instance)
    else void bringUpToDate(run, instance)
  }
  wake(run, 'queue.changed')
}
