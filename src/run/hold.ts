/**
 * Holds a server and opens it again. It counts as held from before it was told to, until it has proved that it is open: an answer that never
 * came, or was a lie, leaves no server paused (F2).
 */
import { RolloutError, toRolloutError } from '../errors.ts'
import { expectedLabel } from './expected-label.ts'
import { createInterruption, interrupt } from './interrupt.ts'
import { gone, sleep } from './quiet.ts'
import type { Attempt, Instance, Run } from './run.ts'
import { moveOn, standStill } from './watch.ts'

/** A request whose response headers do not come for so long is ended before the server is frozen. */
const HEADERS_MS = 2_000
const HEADERS_POLL_MS = 1
/** An open server is worth another try; what it refuses three times it will go on refusing. */
const OPEN_TRIES = 3
const OPEN_PAUSE_MS = 100
/** Each call of it; drivers have their own deadlines, a user's may not. */
const CALL_MS = 10_000

/** Holds a server that runs nothing: what strangers send meanwhile waits there. */
export async function holdEmpty(instance: Instance, signal: AbortSignal): Promise<void> {
  instance.held = 'empty'
  await instance.driver.pause!('abort', signal)
}

/**
 * Freezes a server with what runs there. Before, no request may be between being sent and its headers: held at the door, it could not be
 * ended. @returns the attempts that are frozen
 */
export async function freeze(run: Run, instance: Instance, signal: AbortSignal): Promise<readonly Attempt[]> {
  const isUnderway = (attempt: Attempt): boolean => attempt.stage !== 'accepted' && attempt.firstTokenAt === null
  const underway = (): Attempt[] => [...instance.attempts].filter(isUnderway)
  const giveUpAt = run.clock.now() + HEADERS_MS
  interrupt(
    run,
    underway().filter(({ stage }) => stage === 'preparing'),
    createInterruption('resume'),
  )
  while (underway().length > 0 && run.clock.now() < giveUpAt && !signal.aborted)
    await sleep(run.clock, HEADERS_POLL_MS, signal)
  await gone(run, interrupt(run, underway(), createInterruption('resume')), signal)
  instance.held = 'frozen'
  standStill(run, instance)
  await instance.driver.pause!('keep', signal)
  return [...instance.attempts].filter(({ sample }) => sample !== null)
}

/** Opens a server, and asks it whether it is open. @throws when it is not, after some tries; it still counts as held then */
export async function openServer(run: Run, instance: Instance, signal?: AbortSignal): Promise<void> {
  await persist(run, instance, signal, async () => {
    await bounded(run, signal, (ended) => instance.driver.resume(ended))
    const found = await bounded(run, signal, (ended) => instance.driver.probe(ended))
    if (found.paused) throw stillPaused(instance)
    // It may have restarted just now, open and with other weights.
    if (found.weightVersion !== (expectedLabel(instance) ?? found.weightVersion)) instance.isTrusted = false
  })
  instance.held = null
  moveOn(run, instance)
}

async function persist(
  run: Run,
  { id }: Instance,
  signal: AbortSignal | undefined,
  work: () => Promise<void>,
): Promise<void> {
  for (let tries = 1; ; tries++) {
    try {
      return await work()
    } catch (cause) {
      signal?.throwIfAborted()
      if (tries >= OPEN_TRIES || (run.closing && isSilent(cause)))
        throw toRolloutError(cause, 'UNREACHABLE', `instance ${id} does not open`, id)
    }
    await sleep(run.clock, OPEN_PAUSE_MS, signal)
    signal?.throwIfAborted()
  }
}

/** Takes the GPU memory back that a pause had it give away. Weights that were discarded meanwhile leave it stale. */
export async function takeMemoryBack(instance: Instance, signal?: AbortSignal): Promise<void> {
  if (!instance.isReleased) return
  const { weightsKept } = await instance.driver.reclaim!(signal)
  instance.isReleased = false
  if (!weightsKept) instance.isTrusted = false
}

/** Nobody is at work there, and no pause wants it without its memory: a resume has failed to take it back. */
export function lacksMemory(run: Run, { isReleased, onLeaving }: Instance): boolean {
  return isReleased && onLeaving.size === 0 && !run.isHalted
}

/** Nobody waits at the end of a run for a server that does not answer. */
function isSilent(cause: unknown): boolean {
  return RolloutError.isInstance(cause) && cause.code === 'UNREACHABLE'
}

/** What was held by mistake, ours or that of a trainer before us, a probe opens; not what somebody is at work on, or what a pause froze. */
export function isOpenToProbes(run: Run, { held, onLeaving }: Instance): boolean {
  return held === null || (onLeaving.size === 0 && !(held === 'frozen' && run.isHalted))
}

/** Leaves a server as it was found, open and with its memory, when the instance leaves or the run ends. Never rejects. */
export async function leaveOpen(run: Run, instance: Instance): Promise<void> {
  await instance.loading
  try {
    await persist(run, instance, undefined, () => bounded(run, undefined, (signal) => takeMemoryBack(instance, signal)))
    if (instance.held !== null) await openServer(run, instance)
  } catch (cause) {
    run.log.error({ instance: instance.id, err: cause }, 'the server could not be left open')
  }
}

function stillPaused({ id }: Instance): RolloutError {
  return new RolloutError('ENGINE_ERROR', `expected instance ${id} to be open, found it paused`, { instance: id })
}

async function bounded<T>(
  run: Run,
  signal: AbortSignal | undefined,
  call: (ended: AbortSignal) => Promise<T>,
): Promise<T> {
  const controller = new AbortController()
  const stop = (): void => controller.abort(signal?.reason)
  const late = new RolloutError('UNREACHABLE', `expected an answer within ${CALL_MS} ms, found none`)
  const timer = run.clock.setTimeout(() => controller.abort(late), CALL_MS)
  const stopped = new Promise<never>((_, reject) => {
    controller.signal.addEventListener('abort', () => reject(controller.signal.reason as Error), { once: true })
  })
  signal?.addEventListener('abort', stop, { once: true })
  if (signal?.aborted === true) stop()
  try {
    return await Promise.race([call(controller.signal), stopped])
  } finally {
    run.clock.clearTimeout(timer)
    signal?.removeEventListener('abort', stop)
  }
}
