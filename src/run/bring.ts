/**
 * Brings one server to a version of the weights, in the order of decision 6. Its gate is closed before, by the caller, and opened after.
 *
 *     reach -> quiet -> pause -> apply -> flush -> verify -> resume
 *
 * Each step has a deadline. A server that fails one is named, opened again, and taken out: stale where its weights may have been touched
 * (R10), unhealthy where it no longer answers (F2). One load at a time.
 */
import { RolloutError, toRolloutError } from '../errors.ts'
import { freeze, holdEmpty, openServer, takeMemoryBack } from './hold.ts'
import { createInterruption, type Interruption, interrupt, letGo } from './interrupt.ts'
import { quiet, serverQuiet } from './quiet.ts'
import { type Attempt, can, type Instance, isMember, type Run, type Update } from './run.ts'
import { createSteps, type Steps } from './steps.ts'
import { moveOn } from './watch.ts'

/** How running generations are treated. */
export type UpdateMode = 'abort' | 'restart' | 'keep' | 'drain'

export interface CheckedUpdate extends Update {
  readonly mode: UpdateMode
  readonly timeoutMs: number
}

/** The steps of a weight update on one instance. */
export type UpdateStep = 'reach' | 'quiet' | 'pause' | 'apply' | 'flush' | 'verify' | 'resume'

/** How a weight update went on one instance. */
export interface InstanceUpdate {
  readonly id: string
  readonly ok: boolean
  /** The step that failed, or null. */
  readonly step: UpdateStep | null
  readonly error: RolloutError | null
  /** How its running generations were treated: `abort` where `keep` was asked for and this server cannot do it exactly. */
  readonly mode: UpdateMode
  /** From the beginning of the update. */
  readonly ms: number
}

/** What the update as a whole wants to know of one server, and keeps count of. */
export interface Bringing {
  readonly startedAt: number
  readonly interruption: Interruption
  /** Nothing runs there any more, or it has failed. */
  readonly isQuiet: () => void
  /** It has its weights, or it has failed. */
  readonly isApplied: () => void
}

/** Aborts are repeated for 3 s, closed sockets confirmed for 10 s, and strangers' requests waited for 10 s. */
const QUIET_MS = 30_000
/** Control calls of a server that works. A driver's own deadlines are shorter where it knows better. */
const CONTROL_MS = 60_000
/** Longer than all tries of it. */
const RESUME_MS = 90_000
/** Weights of hundreds of gigabytes move from the host's memory. */
const MEMORY_MS = 600_000
/** Loading weights takes seconds to minutes; a server that needs longer is taken for hung. */
const BRING_UP_MS = 600_000

/** Loads an update once whatever else is being loaded there has ended. Never rejects. */
export function bring(
  run: Run,
  instance: Instance,
  update: CheckedUpdate,
  bringing: Bringing,
): Promise<InstanceUpdate> {
  const work = load(run, instance, update, bringing, instance.loading)
  instance.loading = work
  return work
}

async function load(
  run: Run,
  instance: Instance,
  update: CheckedUpdate,
  bringing: Bringing,
  before: Promise<unknown>,
): Promise<InstanceUpdate> {
  const { id, driver } = instance
  const { version, timeoutMs } = update
  const mode = modeOf(instance, update.mode)
  const what = `the update to version ${version}`
  const steps = createSteps<UpdateStep>(run, instance, { what, first: 'reach', late: 'UPDATE_FAILED' })
  const { signal } = steps
  const control = Math.min(timeoutMs, CONTROL_MS)
  let touched = false
  let frozen: readonly Attempt[] = []
  const result = (error: RolloutError | null): InstanceUpdate => {
    const step = error === null ? null : steps.step
    return { id, ok: error === null, step, error, mode, ms: run.clock.now() - bringing.startedAt }
  }
  try {
    await steps.take('reach', timeoutMs, () => before)
    await steps.take('reach', MEMORY_MS, () => takeMemoryBack(instance, signal))
    if (mode === 'keep' && instance.attempts.size > 0) {
      if (instance.held !== 'frozen') await steps.take('pause', control, () => freeze(run, instance, signal))
      frozen = markSeams(instance, version)
      bringing.isQuiet()
    } else {
      await empty(run, instance, mode, timeoutMs, bringing.interruption, steps)
      bringing.isQuiet()
      const canHold = can(instance).pause.includes('abort') && instance.held === null
      if (canHold) await steps.take('pause', control, () => holdEmpty(instance, signal))
    }
    await steps.take('apply', timeoutMs, () => {
      touched = true
      instance.isTrusted = false
      return update.apply(instance, frozen.length > 0, signal)
    })
    const flush = update.isOurs || !can(instance).updateWeights ? undefined : driver.flush
    if (flush !== undefined) await steps.take('flush', control, () => flush(frozen.length > 0, signal))
    await steps.take('verify', control, () => verify(instance, version, signal))
    bringing.isApplied()
    loaded(run, instance, version)
    if (mustOpen(run, instance)) await steps.take('resume', RESUME_MS, () => open(run, instance, signal))
    instance.actor.send({ type: 'weights.loaded', weightVersion: String(version) })
    return result(null)
  } catch (cause) {
    const error = toRolloutError(cause, 'UPDATE_FAILED', `step ${steps.step} failed on instance ${id}`, id)
    run.log.error({ instance: id, step: steps.step, code: error.code }, error.message)
    if (touched) {
      // Whatever went on there now would be under weights that nobody knows.
      instance.isTrusted = false
      moveOn(run, instance)
      letGo(run, instance.attempts, createInterruption('resume'))
    } else {
      unmarkSeams(frozen)
    }
    await takeOut(run, instance, steps.step, error)
    return result(error)
  } finally {
    steps.end()
    bringing.isQuiet()
    bringing.isApplied()
  }
}

/**
 * `keep` needs a server that computes the KV of frozen requests anew and says by spans which token is of which version (decision 3). Without,
 * the later tokens would be of no version that anybody could name, so its requests are aborted, and go on from their tokens.
 */
function modeOf(instance: Instance, mode: UpdateMode): UpdateMode {
  const { pause, versions } = can(instance)
  if (mode === 'keep' && !(pause.includes('keep') && versions === 'spans')) return 'abort'
  // What stands still never ends.
  return mode === 'drain' && instance.held === 'frozen' ? 'abort' : mode
}

/** Ends what runs there, or lets it end, until our books and the server's own count agree that nothing does. */
async function empty(
  run: Run,
  instance: Instance,
  mode: UpdateMode,
  timeoutMs: number,
  interruption: Interruption,
  { take, signal }: Steps<UpdateStep>,
): Promise<void> {
  if (mode !== 'drain') interrupt(run, instance.attempts, interruption)
  const runsOn = [...instance.attempts].some((attempt) => attempt.sample !== null && attempt.interruption === null)
  await take('quiet', runsOn ? timeoutMs : Math.min(timeoutMs, QUIET_MS), async () => {
    await quiet(run, [instance], signal)
    await serverQuiet(run, instance, signal)
  })
}

/** From here on tokens may be of the new version. @returns the attempts that stand still */
function markSeams({ attempts }: Instance, version: number): readonly Attempt[] {
  const frozen = [...attempts]
  for (const attempt of frozen) {
    const at = attempt.sample?.output?.length ?? 0
    attempt.seams = [...(attempt.seams ?? []), { at, version }]
  }
  return frozen
}

function unmarkSeams(frozen: readonly Attempt[]): void {
  for (const attempt of frozen) attempt.seams = attempt.seams!.slice(0, -1)
}

async function verify(instance: Instance, version: number, signal: AbortSignal): Promise<void> {
  if (can(instance).versions === 'none') return
  const { id, driver } = instance
  const label = await driver.weightVersion(signal)
  if (label === String(version)) return
  const found = `expected instance ${id} to say version "${version}" after the update, found ${JSON.stringify(label)}`
  throw new RolloutError('ENGINE_ERROR', found, { instance: id })
}

function loaded(run: Run, instance: Instance, version: number): void {
  instance.heardAt = run.clock.now()
  instance.loadedVersion = version
  if (instance.version === null || instance.version < version) instance.version = version
  instance.isTrusted = true
  instance.bringing.tries = 0
  instance.fault = null
}

async function open(run: Run, instance: Instance, signal: AbortSignal): Promise<void> {
  await openServer(run, instance, signal)
  if (instance.isTrusted) return
  const text = `instance ${instance.id} has other weights when it opens than it had after the update: it has restarted`
  throw new RolloutError('ENGINE_ERROR', text, { instance: instance.id })
}

/** What a user's pause froze stays frozen until the user resumes. */
function mustOpen(run: Run, { held }: Instance): boolean {
  return held !== null && !(held === 'frozen' && run.isHalted)
}

/** Gone, or it does not open: it gets no work before it has answered a probe, which opens it. */
const IS_GONE: ReadonlySet<RolloutError['code']> = new Set(['UNREACHABLE', 'TRANSPORT'])

async function takeOut(run: Run, instance: Instance, step: UpdateStep, error: RolloutError): Promise<void> {
  instance.fault = error
  let gone = IS_GONE.has(error.code) || step === 'resume'
  if (step !== 'resume' && mustOpen(run, instance)) {
    await openServer(run, instance).catch((cause: unknown) => {
      run.log.error({ instance: instance.id, err: cause }, 'the server does not open after a failed update')
      gone = true
    })
  }
  if (!isMember(run, instance)) return
  if (!instance.isTrusted) instance.actor.send({ type: 'weights.lost' })
  if (gone) instance.actor.send({ type: 'probe.failed' })
}

/** Loads the last update on an instance that joined, returned or restarted with other weights (decision 2). Never rejects. */
export async function bringUpToDate(run: Run, instance: Instance): Promise<void> {
  const { lastUpdate } = run
  if (lastUpdate === null || run.closing || run.actor.getSnapshot().matches('weightUpdate')) return
  run.log.info(
    { instance: instance.id, version: lastUpdate.version },
    'the instance has other weights than the fleet; the last update is applied to it',
  )
  const { ok } = await bring(
    run,
    instance,
    { ...lastUpdate, mode: 'abort', timeoutMs: BRING_UP_MS },
    {
      startedAt: run.clock.now(),
      interruption: createInterruption('resume'),
      isQuiet: () => {},
      isApplied: () => {},
    },
  )
  if (!ok) bringLater(run, instance)
  else if (isMember(run, instance) && isBehind(instance)) instance.actor.send({ type: 'weights.lost' })
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

/** True when the server is known, or must be feared, to have other weights than it shall have. */
export function isBehind(instance: Instance): boolean {
  if (!instance.isTrusted) return true
  if (instance.version === null) return false
  if (can(instance).versions === 'none') return instance.probe !== null && instance.loadedVersion !== instance.version
  return instance.actor.getSnapshot().context.weightVersion !== String(instance.version)
}
