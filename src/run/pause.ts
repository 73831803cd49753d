/**
 * Pause and resume (decision 8). Placement stops the moment a pause is asked for, whatever else is still going on (D13); when its turn has come,
 * the gates close, and what runs is ended (`abort`), frozen (`keep`) or waited for (`drain`). With `release` the servers then give their GPU
 * memory away. The run stays paused until `resume`, also when a part of this fails.
 */
import { RolloutError, toRolloutError } from '../errors.ts'
import { closeGate, openGate } from './gate.ts'
import { freeze, lacksMemory, openServer, takeMemoryBack } from './hold.ts'
import { createInterruption, type Interruption, interrupt, letGo } from './interrupt.ts'
import { phaseOf } from './phase.ts'
import { answered, quiet, serverQuiet } from './quiet.ts'
import { can, type Instance, isMember, type Run } from './run.ts'
import { createSteps } from './steps.ts'
import { tellPhase } from './tell-phase.ts'
import { wake } from './wake.ts'

/** What a pause does with running generations: end them to go on from their tokens, freeze them on the server, or let them end. */
export type PauseStyle = 'abort' | 'keep' | 'drain'

/** The steps of a pause and of a resume on one instance. */
export type PauseStep = 'quiet' | 'pause' | 'release' | 'reclaim' | 'resume'

/** How a pause or a resume went on one instance. */
export interface InstancePause {
  readonly id: string
  readonly ok: boolean
  /** The step that failed, or null. */
  readonly step: PauseStep | null
  readonly error: RolloutError | null
  readonly ms: number
}

/** How a pause or a resume went, instance by instance. */
export interface PauseReport {
  readonly instances: readonly InstancePause[]
  /** Samples that had to give their slots back. */
  readonly interrupted: number
  readonly resumedTokens: number
  readonly wastedTokens: number
}

export interface CheckedPause {
  readonly mode: PauseStyle
  readonly release: boolean
  /** Of each step; null leaves to each what it needs. */
  readonly timeoutMs: number | null
}

/** Aborts are repeated for 3 s, closed sockets confirmed for 10 s, and strangers' requests waited for 10 s. */
const QUIET_MS = 30_000
const CONTROL_MS = 60_000
/** Weights of hundreds of gigabytes move to and from the host's memory. */
const MEMORY_MS = 600_000
const RESUME_MS = 90_000
/** Longest delay that a Node timer keeps: stands for no deadline. */
const FOREVER_MS = 2_147_483_647

/** Throws WRONG_PHASE naming the instances where it failed. */
export async function pauseRun(run: Run, pause: CheckedPause): Promise<PauseReport> {
  stopPlacement(run)
  run.pausesWaiting++
  let isWaiting = true
  const begin = (): void => {
    if (isWaiting) run.pausesWaiting--
    isWaiting = false
  }
  try {
    return await run.line.enter({ name: 'pause', timeoutMs: pause.timeoutMs }, () => {
      begin()
      return haltAll(run, pause)
    })
  } finally {
    begin()
  }
}

/** From now on nothing is placed that the operation in front does not need itself. */
function stopPlacement(run: Run): void {
  run.actor.send({ type: 'pause.requested' })
  if (phaseOf(run) === 'paused') for (const instance of run.instances.values()) closeGate(run, instance, 'pause')
  tellPhase(run)
}

/** The pause itself, at its turn. */
async function haltAll(run: Run, pause: CheckedPause): Promise<PauseReport> {
  run.isHalted = true
  const interruption = createInterruption('resume')
  const members = [...run.instances.values()]
  const instances = await Promise.all(members.map((instance) => halt(run, instance, pause, interruption)))
  mustSucceed('pause', instances)
  return reportOf(instances, interruption)
}

async function halt(
  run: Run,
  instance: Instance,
  { mode, release, timeoutMs }: CheckedPause,
  interruption: Interruption,
): Promise<InstancePause> {
  closeGate(run, instance, 'pause')
  const within = (ms: number): number => Math.min(timeoutMs ?? FOREVER_MS, ms)
  return stepwise(run, instance, 'the pause', 'quiet', async ({ take, signal }) => {
    const { attempts } = instance
    if (mode === 'keep' && attempts.size > 0 && instance.held === null && can(instance).pause.includes('keep')) {
      if (await isFrozen()) return
    }
    if (instance.held === 'frozen' && mode === 'keep') return
    if (mode !== 'drain' || instance.held === 'frozen') interrupt(run, attempts, interruption)
    await take('quiet', within(mode === 'drain' ? FOREVER_MS : QUIET_MS), () => quiet(run, [instance], signal))
    // Nothing stands still there any more.
    if (instance.held === 'frozen') await take('pause', RESUME_MS, () => openServer(run, instance, signal))
    if (!release) return
    await take('quiet', within(QUIET_MS), () => answered(run, [instance], () => signal.aborted))
    if (instance.isReleased || !isMember(run, instance) || !answers(instance)) return
    if (!can(instance).release) throw cannotRelease(instance)
    await take('quiet', within(QUIET_MS), () => serverQuiet(run, instance, signal))
    await take('release', within(MEMORY_MS), () => giveMemoryAway(instance, signal))

    async function isFrozen(): Promise<boolean> {
      try {
        await take('pause', within(CONTROL_MS), () => freeze(run, instance, signal))
        return true
      } catch (cause) {
        if (signal.aborted) throw cause
        run.log.warn({ instance: instance.id, err: cause }, 'the server cannot be frozen; its requests are aborted')
        return false
      }
    }
  })
}

/** Without an answer it has probably been done; with a refusal it has not, and a server that takes back what it never gave may end. */
async function giveMemoryAway(instance: Instance, signal: AbortSignal): Promise<void> {
  instance.isReleased = true
  try {
    await instance.driver.release!(signal)
  } catch (cause) {
    const isRefusal = RolloutError.isInstance(cause) && cause.code !== 'UNREACHABLE' && cause.code !== 'TRANSPORT'
    if (isRefusal && !signal.aborted) instance.isReleased = false
    throw cause
  }
}

function cannotRelease({ id }: Instance): RolloutError {
  const text = `instance ${id}: expected a server that can give its GPU memory away, found one that says it cannot; see doctor's advice`
  return new RolloutError('INSTANCE_FAULT', text, { instance: id })
}

/** A server that is away has nothing to give. */
function answers(instance: Instance): boolean {
  const state = instance.actor.getSnapshot()
  return state.matches('paused') || state.matches('stale') || state.matches('serving')
}

/**
 * Opens the run again, at its turn; where a pause was asked for meanwhile it leaves that to the resume after it. Instances that do not come
 * back are named in the report, and asked again later.
 */
export async function resumeRun(run: Run): Promise<PauseReport> {
  if (run.pausesWaiting > 0) return reportOf([], createInterruption('resume'))
  const members = [...run.instances.values()]
  const instances = await Promise.all(members.map((instance) => awaken(run, instance)))
  run.isHalted = false
  if (run.closing) throw new RolloutError('CLOSED', 'resume was overtaken by close()')
  run.actor.send({ type: 'resume.requested' })
  for (const instance of run.instances.values()) {
    // Probed while the others were awakened, it answered.
    if (lacksMemory(run, instance)) instance.actor.send({ type: 'probe.failed' })
    openGate(run, instance, 'pause')
  }
  tellPhase(run)
  run.line.look()
  wake(run, 'queue.changed')
  return reportOf(instances, createInterruption('resume'))
}

async function awaken(run: Run, instance: Instance): Promise<InstancePause> {
  const result = await stepwise(run, instance, 'the resume', 'resume', async ({ take, signal }) => {
    if (instance.isReleased) await take('reclaim', MEMORY_MS, () => takeMemoryBack(instance, signal))
    if (instance.held !== null) await take('resume', RESUME_MS, () => openServer(run, instance, signal))
  })
  if (!isMember(run, instance)) return result
  if (!instance.isTrusted) instance.actor.send({ type: 'weights.lost' })
  if (!result.ok) {
    letGo(run, [...instance.attempts], createInterruption('resume'))
    // A probe opens it, and proves that it is there.
    instance.actor.send({ type: 'probe.failed' })
  }
  return result
}

async function stepwise(
  run: Run,
  instance: Instance,
  what: string,
  first: PauseStep,
  work: (steps: ReturnType<typeof createSteps<PauseStep>>) => Promise<void>,
): Promise<InstancePause> {
  const startedAt = run.clock.now()
  const { id } = instance
  const steps = createSteps<PauseStep>(run, instance, { what, first, late: 'WRONG_PHASE' })
  try {
    await work(steps)
    return { id, ok: true, step: null, error: null, ms: run.clock.now() - startedAt }
  } catch (cause) {
    const error = toRolloutError(cause, 'ENGINE_ERROR', `step ${steps.step} of ${what} failed on instance ${id}`, id)
    run.log.error({ instance: id, step: steps.step, code: error.code }, error.message)
    instance.fault = error
    // It may have restarted under the call: it is asked before it has work (F1).
    instance.heardAt = Number.NEGATIVE_INFINITY
    return { id, ok: false, step: steps.step, error, ms: run.clock.now() - startedAt }
  } finally {
    steps.end()
  }
}

/** An instance that left meanwhile is no failure of the pause. */
function mustSucceed(what: string, instances: readonly InstancePause[]): void {
  const failed = instances.filter(({ error }) => error !== null && error.code !== 'UNKNOWN_INSTANCE')
  if (failed.length === 0) return
  const closed = failed.find(({ error }) => error!.code === 'CLOSED')
  if (closed !== undefined) throw closed.error!
  const lines = failed.map(({ id, step, error }) => `  ${id} (${step}): ${error!.message}`)
  throw new RolloutError('WRONG_PHASE', `${what}: the run is paused, but not whole:\n${lines.join('\n')}`, {
    errors: failed.map(({ error }) => error!),
  })
}

function reportOf(instances: readonly InstancePause[], interruption: Interruption): PauseReport {
  const { samples, resumedTokens, wastedTokens } = interruption
  return { instances, interrupted: samples, resumedTokens, wastedTokens }
}
