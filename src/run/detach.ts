/**
 * A sample goes on without its attempt (cancelled, timed out, its instance left), and the request it leaves behind is ended at the
 * engine. The slot counts as free at once when the stream ends by the server's own doing; after a socket that we closed, when
 * the server's count says so, or 10 s later (I11, D3, decision 23).
 */
import type { LeaseOutcome } from '../../machines/index.ts'
import { askDriver } from '../engines/driver.ts'
import type { SegmentEnd } from '../rollout/completion.ts'
import { type Attempt, can, type Run } from './run.ts'
import { part } from './segment.ts'

/**
 * Lets the sample go on without the attempt, whose request is ended at the engine behind its back.
 * `reason` says why in the sample's segments, `outcome` what the instance's health is told.
 */
export function detach(run: Run, attempt: Attempt, reason: SegmentEnd, outcome: LeaseOutcome): void {
  const { sample } = attempt
  if (sample === null) return
  part(run, attempt, sample, reason, null)
  attempt.outcome = outcome
  endAtEngine(run, attempt)
}

/** Tells the engine until it listens; a socket that is still open after that is closed. */
export function endAtEngine(run: Run, attempt: Attempt): void {
  const { instance, requestId } = attempt
  run.clock.clearTimeout(attempt.watch)
  attempt.watch = null
  if (!can(instance).abortById || attempt.stage === 'preparing') {
    hangUp(attempt)
    return
  }
  let tries = 0
  const ask = (): void => {
    run.clock.clearTimeout(attempt.watch)
    if (!instance.attempts.has(attempt)) return
    if (tries++ >= ABORT_TRIES) {
      hangUp(attempt)
      return
    }
    attempt.watch = run.clock.setTimeout(ask, ABORT_REPEAT_MS)
    askDriver(() => instance.driver.abort(requestId)).catch(() => hangUp(attempt))
  }
  attempt.onAccepted = ask
  ask()
}

/** Closes the socket of its request; before it is sent, nothing will be. */
export function hangUp(attempt: Attempt): void {
  attempt.controller.abort()
  attempt.hangUp?.()
}

/** An abort can overtake its request on the way to the server, where it then ends nothing: it is repeated, also when the server has it. */
const ABORT_REPEAT_MS = 250
const ABORT_TRIES = 12

/** Longer than any engine was seen to hold the slot of a closed stream. */
const CLOSED_SOCKET_MS = 10_000
/** Between two looks at a server's own count: servers that look at their sockets were seen to need 30 to 50 ms. */
const FIRST_POLL_MS = 20
const LAST_POLL_MS = 250

/** Gives back once, also when the server is asked and never answers, and when the run is closed meanwhile. */
export function confirmEnded(run: Run, attempt: Attempt, giveBack: () => void): void {
  const { instance, controller } = attempt
  run.clock.clearTimeout(attempt.watch)
  if (!controller.signal.aborted || attempt.stage === 'preparing' || run.closing) {
    giveBack()
    return
  }
  let isOver = false
  const end = (): void => {
    if (isOver) return
    isOver = true
    run.onClosing.delete(end)
    run.clock.clearTimeout(late)
    giveBack()
  }
  const late = run.clock.setTimeout(end, CLOSED_SOCKET_MS)
  run.onClosing.add(end)
  let pauseMs = FIRST_POLL_MS
  const poll = async (): Promise<void> => {
    const counted = await countOf(attempt)
    if (isOver) return
    // In one step: of several that wait for the server's word, each count frees one.
    if (counted < accountedFor(attempt) || run.instances.get(instance.id) !== instance) end()
    else attempt.watch = run.clock.setTimeout(() => void poll(), pauseMs)
    pauseMs = Math.min(2 * pauseMs, LAST_POLL_MS)
  }
  void poll()
}

/** Sequences that the server counts; where it does not say, more than could be ours. */
async function countOf({ instance }: Attempt): Promise<number> {
  if (!can(instance).loadReport) return Number.POSITIVE_INFINITY
  try {
    const { running, waiting } = await instance.driver.load()
    return running + waiting
  } catch {
    return Number.POSITIVE_INFINITY
  }
}

/**
 * What the server must count while none of the closed ones has ended: those, and the ones that it has sent tokens of. A request that it has
 * not answered yet may not be in its count, and would pass for one that has ended.
 */
function accountedFor({ instance }: Attempt): number {
  let sure = 0
  for (const { controller, firstTokenAt, sample } of instance.attempts)
    if (controller.signal.aborted || (sample !== null && firstTokenAt !== null)) sure++
  return sure
}
