/**
 * Brings one quiet instance to a version of the weights, one load at a time: waits for our own attempts and for the server's own
 * count, loads, and reads the version back. An instance that fails a step is named and stays stale (F2).
 */
import { RolloutError, toRolloutError } from '../errors.ts'
import { quiet, serverQuiet } from './quiet.ts'
import { can, type Instance, isMember, type Run } from './run.ts'

export interface CheckedUpdate {
  readonly version: number
  readonly apply: (instance: Instance, signal: AbortSignal) => Promise<void>
  readonly timeoutMs: number
}

/** The steps of a weight update on one instance. */
export type UpdateStep = 'reach' | 'quiet' | 'apply' | 'verify'

/** How a weight update went on one instance. */
export interface InstanceUpdate {
  readonly id: string
  readonly ok: boolean
  /** The step that failed, or null. */
  readonly step: UpdateStep | null
  readonly error: RolloutError | null
  readonly ms: number
}

/** Loading weights takes seconds to minutes; a server that needs longer is taken for hung. */
const BRING_UP_MS = 600_000

/** Loads an update once whatever else is being loaded there has ended. Never rejects. */
export function bring(run: Run, instance: Instance, update: CheckedUpdate, startedAt: number): Promise<InstanceUpdate> {
  const work = load(run, instance, update, startedAt, instance.loading)
  instance.loading = work
  return work
}

async function load(
  run: Run,
  instance: Instance,
  update: CheckedUpdate,
  startedAt: number,
  before: Promise<unknown>,
): Promise<InstanceUpdate> {
  const { id, driver, actor } = instance
  let step: UpdateStep = 'quiet'
  let held = false
  const controller = new AbortController()
  const { signal } = controller
  const late = (): void => {
    const text = `step ${step} of the update to version ${update.version} took longer than timeoutMs, ${update.timeoutMs} ms`
    controller.abort(new RolloutError('UPDATE_FAILED', text, { instance: id }))
  }
  const closing = (error: RolloutError): void => controller.abort(error)
  const timer = run.clock.setTimeout(late, update.timeoutMs)
  run.onClosing.add(closing)
  const stopped = new Promise<never>((_, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true })
  })
  stopped.catch(() => {})
  const inTime = <T>(work: Promise<T>): Promise<T> => Promise.race([work, stopped])
  try {
    await inTime(before)
    await inTime(quiet(run, [instance], null))
    if (can(instance).loadReport) await inTime(serverQuiet(run, instance, signal))
    // Requests of strangers that come meanwhile wait there.
    held = can(instance).pause.includes('abort')
    if (held) await inTime(driver.pause!('abort', signal))
    step = 'apply'
    mustBeMember(run, instance)
    await inTime(update.apply(instance, signal))
    step = 'verify'
    if (can(instance).versions !== 'none') {
      const label = await inTime(driver.weightVersion(signal))
      if (label !== String(update.version)) {
        throw new RolloutError(
          'ENGINE_ERROR',
          `expected instance ${id} to say version "${update.version}" after the update, found ${JSON.stringify(label)}`,
          { instance: id },
        )
      }
    }
    if (held) await inTime(driver.resume(signal))
    held = false
    mustBeMember(run, instance)
    instance.heardAt = run.clock.now()
    instance.loadedVersion = update.version
    instance.bringing.tries = 0
    instance.fault = null
    actor.send({ type: 'weights.loaded', weightVersion: String(update.version) })
    return { id, ok: true, step: null, error: null, ms: run.clock.now() - startedAt }
  } catch (cause) {
    const error = toRolloutError(cause, 'UPDATE_FAILED', `step ${step} failed on instance ${id}`, id)
    run.log.error({ instance: id, step, code: error.code }, error.message)
    instance.fault = error
    if (isMember(run, instance)) actor.send({ type: 'weights.lost' })
    // Also when cancelled: no server is left paused by mistake.
    if (held) await driver.resume().catch(() => {})
    return { id, ok: false, step, error, ms: run.clock.now() - startedAt }
  } finally {
    run.clock.clearTimeout(timer)
    run.onClosing.delete(closing)
  }
}

function mustBeMember(run: Run, instance: Instance): void {
  if (isMember(run, instance)) return
  throw new RolloutError('UNKNOWN_INSTANCE', `instance ${instance.id} left the fleet during the update`, {
    instance: instance.id,
  })
}

/** Loads the last update on an instance that joined, returned or restarted with other weights (decision 2). Never rejects. */
export async function bringUpToDate(run: Run, instance: Instance): Promise<void> {
  const { lastUpdate } = run
  if (lastUpdate === null || run.closing || run.actor.getSnapshot().matches('weightUpdate')) return
  run.log.info(
    { instance: instance.id, version: lastUpdate.version },
    'the instance has other weights than the fleet; the last update is applied to it',
  )
  const { ok } = await bring(run, instance, { ...lastUpdate, timeoutMs: BRING_UP_MS }, run.clock.now())
  if (!ok) bringLater(run, instance)
  else if (isMember(run, instance) && isBehind(run, instance)) instance.actor.send({ type: 'weights.lost' })
}

/** Loads the last update once more after a pause that doubles each time, like the probes of an open circuit. */
export function bringLater(run: Run, instance: Instance): void {
  if (!isMember(run, instance)) return
  const { bringing } = instance
  const { resetMs, maxResetMs } = run.options.breaker
  const pauseMs = Math.min(resetMs * 2 ** Math.min(30, bringing.tries++), maxResetMs)
  run.clock.clearTimeout(bringing.timer)
  bringing.timer = run.clock.setTimeout(() => {
    if (instance.actor.getSnapshot().matches('stale')) void bringUpToDate(run, instance)
  }, pauseMs)
}

/** True when the server is known to have other weights than the fleet. */
export function isBehind(run: Run, instance: Instance): boolean {
  if (run.version === null) return false
  if (can(instance).versions === 'none') return instance.probe !== null && instance.loadedVersion !== run.version
  return instance.actor.getSnapshot().context.weightVersion !== String(run.version)
}
