/**
 * A weight update of the fleet (decisions 1-6): all instances together, with no work anywhere meanwhile, or `rolling`, some at a time while
 * the others serve on.
 *
 * While an update rolls, the fleet's version is the old one: an instance that waits for its turn serves with the weights that it has, one that
 * has had it serves with the new ones, and tokens are stamped with the version of the instance that sampled them. Samples that want the
 * new version (`minVersion`) wait for the end of the update (I9). An instance that joins or comes back meanwhile is brought up at its end.
 */
import { RolloutError } from '../errors.ts'
import {
  type Bringing,
  bring,
  bringLater,
  bringUpToDate,
  type CheckedUpdate,
  type InstanceUpdate,
  isBehind,
} from './bring.ts'
import { closeGate, openGate } from './gate.ts'
import { createInterruption } from './interrupt.ts'
import { oneVersion } from './one-version.ts'
import { phaseOf } from './phase.ts'
import { answered } from './quiet.ts'
import type { Instance, Run } from './run.ts'
import { tellPhase } from './tell-phase.ts'
import { unparkVersions } from './waitlist.ts'
import { wake } from './wake.ts'

export interface FleetUpdate extends CheckedUpdate {
  /** Instances that are updated at a time; null is all together. */
  readonly rolling: number | null
}

/** How a weight update went, instance by instance. */
export interface UpdateReport {
  readonly version: number
  readonly instances: readonly InstanceUpdate[]
  /** Samples that had to give their slots back. */
  readonly interrupted: number
  /** Tokens of theirs that they go on from. */
  readonly resumedTokens: number
  /** Tokens that were thrown away. */
  readonly wastedTokens: number
}

/** Brings the whole fleet to a version. Throws UPDATE_FAILED when fewer than minInstances made it. */
export async function updateFleet(run: Run, update: FleetUpdate): Promise<UpdateReport> {
  const { actor } = run
  mustGoOn(run)
  mustGrow(run, update.version)
  actor.send({ type: 'update.started' })
  if (phaseOf(run) !== 'weightUpdate') {
    const found = `expected phase rollout or paused, found ${phaseOf(run)}: await start() first`
    throw new RolloutError('WRONG_PHASE', found)
  }
  tellPhase(run)
  const interruption = createInterruption(update.mode === 'restart' ? 'restart' : 'resume')
  const startedAt = run.clock.now()
  const { oneVersion: before } = run
  run.oneVersion = update.mode === 'restart' ? interruption : null
  let targets: readonly Instance[] = []
  try {
    const giveUpAt = startedAt + update.timeoutMs
    await answered(run, run.instances, () => run.clock.now() >= giveUpAt)
    mustGoOn(run)
    const all = [...run.instances.values()]
    targets = all.filter(isReachable)
    const bringing = { startedAt, interruption }
    const results = await (update.rolling === null ? together : rolled)(run, targets, update, bringing)
    mustGoOn(run)
    const away = all.filter((instance) => !targets.includes(instance))
    results.push(...away.map((instance) => unreached(run, instance, update, startedAt)))
    const done = results.filter(({ ok }) => ok).length
    // Where there is nobody yet, those that join have it before they have work.
    if (done > 0 || all.length === 0) learn(run, update)
    else run.oneVersion = before
    if (done > 0 && update.mode === 'restart') oneVersion(run, update.version, interruption)
    if (done < run.options.minInstances) throw failure(update.version, results, run.options.minInstances)
    const { samples, resumedTokens, wastedTokens } = interruption
    return { version: update.version, instances: results, interrupted: samples, resumedTokens, wastedTokens }
  } finally {
    // After it was verified this changes nothing.
    actor.send({ type: 'update.failed' })
    reopen(run, targets)
  }
}

type Beginning = Pick<Bringing, 'startedAt' | 'interruption'>

async function together(
  run: Run,
  targets: readonly Instance[],
  update: FleetUpdate,
  beginning: Beginning,
): Promise<InstanceUpdate[]> {
  for (const instance of targets) closeGate(run, instance, 'update')
  run.actor.send({ type: 'gates.closed' })
  const isQuiet = countdown(targets.length, () => run.actor.send({ type: 'fleet.quiet' }))
  const isApplied = countdown(targets.length, () => run.actor.send({ type: 'weights.applied' }))
  return Promise.all(
    targets.map((instance) =>
      bring(run, instance, update, { ...beginning, isQuiet: once(isQuiet), isApplied: once(isApplied) }),
    ),
  )
}

async function rolled(
  run: Run,
  targets: readonly Instance[],
  update: FleetUpdate,
  beginning: Beginning,
): Promise<InstanceUpdate[]> {
  run.actor.send({ type: 'update.rolls' })
  tellPhase(run)
  const results = new Map<Instance, InstanceUpdate>()
  const waiting = [...targets]
  const lane = async (): Promise<void> => {
    for (let next = waiting.shift(); next !== undefined && !run.closing; next = waiting.shift()) {
      closeGate(run, next, 'update')
      const result = await bring(run, next, update, { ...beginning, isQuiet: () => {}, isApplied: () => {} })
      results.set(next, result)
      // One that failed stays out until the end.
      if (result.ok) openGate(run, next, 'update')
    }
  }
  await Promise.all(Array.from({ length: Math.min(update.rolling!, targets.length) }, lane))
  return targets.flatMap((instance) => results.get(instance) ?? [])
}

function countdown(from: number, reached: () => void): () => void {
  let left = from
  if (left === 0) reached()
  return () => {
    if (--left === 0) reached()
  }
}

function once(action: () => void): () => void {
  let isDone = false
  return () => {
    if (!isDone) action()
    isDone = true
  }
}

function mustGrow(run: Run, version: number): void {
  // The same version again repairs instances that it failed on, and is what a restored run begins with.
  const isRepair = version === run.version && (run.lastUpdate === null || [...run.instances.values()].some(isBehind))
  if (run.version === null || version > run.version || isRepair) return
  const text = `version: expected an integer above ${run.version}, the fleet's version, found ${version}`
  throw new RolloutError('INVALID_OPTIONS', text)
}

function isReachable(instance: Instance): boolean {
  const state = instance.actor.getSnapshot()
  return state.matches('serving') || state.matches('paused') || state.matches('stale')
}

/** An instance that was away: it is brought up to date when it comes back. One that drains ends what it has. */
function unreached(run: Run, instance: Instance, { mode }: FleetUpdate, startedAt: number): InstanceUpdate {
  const { id, fault } = instance
  let error = RolloutError.isInstance(fault)
    ? fault
    : new RolloutError('UNREACHABLE', `instance ${id} did not answer when the update began`, { instance: id })
  if (instance.actor.getSnapshot().matches('draining'))
    error = new RolloutError('UNKNOWN_INSTANCE', `instance ${id} was leaving the fleet`, { instance: id })
  return { id, ok: false, step: 'reach', error, mode, ms: run.clock.now() - startedAt }
}

function mustGoOn(run: Run): void {
  if (run.closing) throw new RolloutError('CLOSED', 'updateWeights was overtaken by close()')
}

function failure(version: number, results: readonly InstanceUpdate[], minInstances: number): RolloutError {
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

function learn(run: Run, { version, apply, isOurs }: FleetUpdate): void {
  run.version = version
  run.lastUpdate = { version, apply, isOurs }
  for (const instance of run.instances.values()) instance.version = version
  run.actor.send({ type: 'weights.verified', version })
  unparkVersions(run)
  for (const changed of run.onVersion) changed()
  if (run.hub.listens(null)) run.hub.tell({ type: 'run.version', at: run.clock.now(), version }, null)
}

function reopen(run: Run, targets: readonly Instance[]): void {
  const members = [...run.instances.values()]
  for (const instance of members) instance.version = run.version
  // Those that joined, or came back, while the others were updated: placed on before they are stale, they would break I9.
  for (const instance of members) if (isBehind(instance)) instance.actor.send({ type: 'weights.lost' })
  run.actor.send({ type: 'gates.opened' })
  for (const instance of members) openGate(run, instance, 'update')
  tellPhase(run)
  for (const instance of members) {
    if (!instance.actor.getSnapshot().matches('stale')) continue
    // One that has just failed is given time.
    if (targets.includes(instance)) bringLater(run, instance)
    else void bringUpToDate(run, instance)
  }
  wake(run, 'queue.changed')
}
