/**
 * What interrupts placement: pause, and weight updates. Updates wait in one line (decision 9); each closes every gate, waits until
 * the fleet is quiet by our books and by the servers' own counts, loads, reads the version back, and reopens. An instance that
 * fails a step is named, stays stale, and is not left paused (F2, I10).
 */
import { messageOf, RolloutError } from '../errors.ts'
import { can, type Instance, type Run } from './run.ts'
import { unparkVersions } from './waitlist.ts'
import { wake } from './wake.ts'

export interface CheckedUpdate {
  readonly version: number
  readonly apply: (instance: Instance, signal: AbortSignal) => Promise<void>
  readonly timeoutMs: number
}

export type UpdateStep = 'quiet' | 'apply' | 'verify'

export interface UpdateReport {
  readonly version: number
  readonly instances: readonly {
    readonly id: string
    readonly ok: boolean
    /** The step that failed, or null. */
    readonly step: UpdateStep | null
    readonly error: RolloutError | null
    readonly ms: number
  }[]
  readonly interrupted: number
  readonly resumedTokens: number
  readonly wastedTokens: number
}

/** Between two looks at a server's own count. */
const QUIET_POLL_MS = 20
/** How long a server may still count requests after the last of ours has ended; reports were seen to lag 1.3 s. */
const QUIET_LAG_MS = 10_000

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

/** Resolves when none of the instances holds a lease. */
function quiet(run: Run, instances: readonly Instance[], timeoutMs: number | null): Promise<void> {
  const busy = (): Instance[] => instances.filter((instance) => instance.attempts.size > 0)
  if (busy().length === 0) return Promise.resolve()
  return new Promise((resolve, reject) => {
    const timer = timeoutMs === null ? null : run.clock.setTimeout(() => end(), timeoutMs)
    const end = (): void => {
      run.onReleased.delete(check)
      run.clock.clearTimeout(timer)
      const left = busy()
      if (left.length === 0) resolve()
      else
        reject(
          new RolloutError(
            'WRONG_PHASE',
            `expected the fleet to be quiet within ${timeoutMs} ms, found requests running on ${left.map(({ id }) => id).join(', ')}`,
          ),
        )
    }
    const check = (): void => {
      if (busy().length === 0) end()
    }
    run.onReleased.add(check)
  })
}

export function tellPhase(run: Run): void {
  run.hub.changed()
  if (run.hub.listens(null)) run.hub.tell({ type: 'run.phase', at: run.clock.now(), phase: phaseOf(run) }, null)
}

export function phaseOf(run: Run): 'starting' | 'rollout' | 'paused' | 'weightUpdate' | 'stopping' | 'stopped' {
  const { value } = run.actor.getSnapshot()
  return typeof value === 'string' ? value : 'weightUpdate'
}

/** Brings the whole fleet to a version. Throws UPDATE_FAILED when fewer than minInstances made it. */
export async function updateWeights(run: Run, update: CheckedUpdate): Promise<UpdateReport> {
  if (run.closing) throw new RolloutError('CLOSED', 'updateWeights was overtaken by close()')
  if (run.version !== null && update.version <= run.version) {
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
  const targets = [...run.instances.values()].filter((instance) => {
    const state = instance.actor.getSnapshot()
    return state.matches('serving') || state.matches('paused') || state.matches('stale')
  })
  try {
    for (const instance of targets) instance.actor.send({ type: 'gate.closed' })
    actor.send({ type: 'gates.closed' })
    await quiet(run, targets, update.timeoutMs)
    actor.send({ type: 'fleet.quiet' })
    const results = await Promise.all(targets.map((instance) => bring(run, instance, update, startedAt)))
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
  if (run.hub.listens(null)) run.hub.tell({ type: 'run.version', at: run.clock.now(), version }, null)
}

function reopen(run: Run, targets: readonly Instance[]): void {
  run.actor.send({ type: 'gates.opened' })
  if (run.actor.getSnapshot().matches('rollout')) openGates(run)
  tellPhase(run)
  const others = [...run.instances.values()].filter((instance) => !targets.includes(instance))
  for (const instance of others) if (instance.actor.getSnapshot().matches('stale')) void bringUpToDate(run, instance)
  wake(run, 'queue.changed')
}

/** Brings one quiet instance to a version. Never rejects. */
async function bring(
  run: Run,
  instance: Instance,
  update: CheckedUpdate,
  startedAt: number,
): Promise<UpdateReport['instances'][number]> {
  const { id, driver, actor } = instance
  let step: UpdateStep = 'quiet'
  const controller = new AbortController()
  const timer = run.clock.setTimeout(
    () =>
      controller.abort(
        new RolloutError(
          'UPDATE_FAILED',
          `step ${step} of the update to version ${update.version} took longer than timeoutMs, ${update.timeoutMs} ms`,
          { instance: id },
        ),
      ),
    update.timeoutMs,
  )
  const stopped = new Promise<never>((_, reject) => {
    controller.signal.addEventListener('abort', () => reject(controller.signal.reason as Error), { once: true })
  })
  stopped.catch(() => {})
  const inTime = <T>(work: Promise<T>): Promise<T> => Promise.race([work, stopped])
  try {
    if (can(instance).loadReport) await inTime(serverQuiet(run, instance))
    step = 'apply'
    await inTime(update.apply(instance, controller.signal))
    step = 'verify'
    if (can(instance).versions !== 'none') {
      const label = await inTime(driver.weightVersion(controller.signal))
      if (label !== String(update.version)) {
        throw new RolloutError(
          'ENGINE_ERROR',
          `expected instance ${id} to say version "${update.version}" after the update, found ${JSON.stringify(label)}`,
          { instance: id },
        )
      }
    }
    actor.send({ type: 'weights.loaded', weightVersion: String(update.version) })
    return { id, ok: true, step: null, error: null, ms: run.clock.now() - startedAt }
  } catch (cause) {
    const error = RolloutError.isInstance(cause)
      ? cause
      : new RolloutError('UPDATE_FAILED', `step ${step} failed on instance ${id}: ${messageOf(cause)}`, {
          instance: id,
          cause,
        })
    run.log.error({ instance: id, step, code: error.code }, error.message)
    instance.fault = error
    actor.send({ type: 'weights.lost' })
    return { id, ok: false, step, error, ms: run.clock.now() - startedAt }
  } finally {
    run.clock.clearTimeout(timer)
  }
}

/** Waits until the server itself counts nothing: work of strangers fails the step (decision 6). */
async function serverQuiet(run: Run, { id, driver }: Instance): Promise<void> {
  const giveUpAt = run.clock.now() + QUIET_LAG_MS
  for (;;) {
    const { running, waiting } = await driver.load()
    if (running + waiting === 0) return
    if (run.clock.now() >= giveUpAt) {
      throw new RolloutError(
        'WRONG_PHASE',
        `instance ${id} is busy with ${running + waiting} requests that are not ours; give the supervisor servers of its own`,
        { instance: id },
      )
    }
    await new Promise<void>((resolve) => void run.clock.setTimeout(resolve, QUIET_POLL_MS))
  }
}

/** Loads the last update on an instance that joined, returned or restarted with other weights (decision 2). Never rejects. */
export async function bringUpToDate(run: Run, instance: Instance): Promise<void> {
  const { lastUpdate } = run
  if (lastUpdate === null || run.closing || phaseOf(run) === 'weightUpdate') return
  run.log.info(
    { instance: instance.id, version: lastUpdate.version },
    'the instance has other weights than the fleet; the last update is applied to it',
  )
  await bring(run, instance, { ...lastUpdate, timeoutMs: BRING_UP_MS }, run.clock.now())
  if (!run.closing && run.version !== lastUpdate.version && instance.actor.getSnapshot().matches('serving'))
    instance.actor.send({ type: 'weights.lost' })
}

/** Loading weights takes seconds to minutes; a server that needs longer is taken for hung. */
const BRING_UP_MS = 600_000
