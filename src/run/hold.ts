/**
 * Holds a server and opens it again. It counts as held from before it was told to, until it has proved that it is open: an answer that never
 * came, or was a lie, leaves no server paused (F2).
 */
import { RolloutError, toRolloutError } from '../errors.ts'
import { expectedLabel } from './expected-label.ts'
import { createInterruption, interrupt } from './interrupt.ts'
import { gone, sleep } from './quiet.ts'
import type { Attempt, Instance, Run } from './run.ts'

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
  await instance.driver.pause!('keep', signal)
  return [...instance.attempts].filter(({ sample }) => sample !== null)
}

/** Opens a server, and asks it whether it is open. @throws when it is not, after some tries; it still counts as held then */
export async function openServer(run: Run, instance: Instance, signal?: AbortSignal): Promise<void> {
  for (let tries = 1; ; tries++) {
    try {
      await bounded(run, (ended) => instance.driver.resume(ended))
      const found = await bounded(run, (ended) => instance.driver.probe(ended))
      if (found.paused) throw stillPaused(instance)
      // It may have restarted just now, open and with other weights.
      if (found.weightVersion !== (expectedLabel(instance) ?? found.weightVersion)) instance.isTrusted = false
      break
    } catch (cause) {
      if (tries >= OPEN_TRIES || run.closing)
        throw toRolloutError(cause, 'UNREACHABLE', `instance ${instance.id} does not open`, instance.id)
    }
    await sleep(run.clock, OPEN_PAUSE_MS, signal)
    signal?.throwIfAborted()
  }
  instance.held = null
}

/** What was held by mistake, ours or that of a trainer before us, a probe opens; not what somebody is at work on, or what a pause froze. */
export function isOpenToProbes(run: Run, { held, onLeaving }: Instance): boolean {
  return held === null || (onLeaving.size === 0 && !(held === 'frozen' && run.isHalted))
}

/** Leaves a server as it was found, open and with its memory, when the instance leaves or the run ends. Never rejects. */
export async function leaveOpen(run: Run, instance: Instance): Promise<void> {
  await instance.loading
  try {
    if (instance.isReleased) await bounded(run, (signal) => instance.driver.reclaim!(signal))
    instance.isReleased = false
    if (instance.held !== null) await openServer(run, instance)
  } catch (cause) {
    run.log.error({ instance: instance.id, err: cause }, 'the server could not be left open')
  }
}

function stillPaused({ id }: Instance): RolloutError {
  return new RolloutError('ENGINE_ERROR', `expected instance ${id} to be open, found it paused`, { instance: id })
}

async function bounded<T>(run: Run, call: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController()
  const late = new RolloutError('UNREACHABLE', `expected an answer within ${CALL_MS} ms, found none`)
  let timer: unknown
  const stopped = new Promise<never>((_, reject) => {
    timer = run.clock.setTimeout(() => {
      controller.abort(late)
      reject(late)
    }, CALL_MS)
  })
  try {
    return await Promise.race([call(controller.signal), stopped])
  } finally {
    run.clock.clearTimeout(timer)
  }
}
