/**
 * What SGLang's tokenizer process does between HTTP and the scheduler: the pause gate, the lock that weight updates take, the table of
 * live request ids. Seen on a real 0.5.23: requests held at the gate cannot be aborted, pausing `abort` over a frozen scheduler blocks
 * `continue` until the clients leave, and an update that may not flush has changed the weights all the same.
 */
import { messageOf } from '../errors.ts'
import type { EngineCore } from './embedded-contract.ts'
import type { EngineCounters } from './embedded-engine.ts'
import type { Sequence } from './embedded-sequence.ts'
import { loadWeights } from './tiny-policy.ts'

export type PauseMode = 'abort' | 'retract' | 'in_place'

export interface Ticket {
  readonly id: string
  readonly streamed: boolean
  /** The gate let it in: check it and submit it. Null when it was refused, and so has ended. */
  begin(): Sequence | null
  sequence: Sequence | null
  /** The client has left. */
  gone: boolean
  abortSent: boolean
}

export interface UpdateOutcome {
  readonly success: boolean
  readonly message: string
}

export interface SglangManager {
  readonly paused: boolean
  readonly weightVersion: string
  readonly modelPath: string
  has(id: string): boolean
  enter(ticket: Ticket): void
  /** It has ended, whichever way. */
  done(ticket: Ticket): void
  clientLeft(ticket: Ticket): void
  abort(id: string): void
  abortAll(): void
  pause(mode: PauseMode): Promise<void>
  resume(): Promise<void>
  update(path: string, version: string | null, flush: boolean, abortAll: boolean): Promise<UpdateOutcome>
  setVersion(version: string): void
  /** Runs something later, unless the engine closes first. */
  after(delayMs: number, action: () => void): void
  close(): void
}

export interface ManagerOptions {
  readonly weightVersion: string
  readonly realDelays: boolean
  readonly counters: EngineCounters
}

/** pause `abort` looks again after this long while something runs. */
const PAUSE_RETRY_MS = 1000
/** A request that does not stream notices its client's absence when it wakes for another reason. */
const UNSTREAMED_LEAVE_MS = 3000
const QUEUED_LEAVE_MS = 3800
/** After a stream the server aborts its id once more, whoever has it by then. */
const LATE_ABORT_MS = 2000

export function createSglangManager(core: EngineCore, options: ManagerOptions): SglangManager {
  const { realDelays, counters } = options
  const live = new Map<string, Ticket>()
  /** Holders of the reader lock: requests past the gate whose clients are still there. */
  const readers = new Set<Ticket>()
  const timers = new Set<NodeJS.Timeout>()
  let held: Ticket[] = []
  let whenFree: (() => void)[] = []
  let writers = 0
  let paused = false
  let { weightVersion } = options
  let modelPath = 'tiny-policy'
  let condition: Promise<void> = Promise.resolve()

  function after(delayMs: number, action: () => void): void {
    const timer = setTimeout(() => {
      timers.delete(timer)
      action()
    }, delayMs)
    timers.add(timer)
  }

  /** One at a time, in order, as under the pause condition of the real server. */
  function exclusive(action: () => Promise<void> | void): Promise<void> {
    condition = condition.then(action)
    return condition
  }

  function begin(ticket: Ticket): void {
    readers.add(ticket)
    ticket.sequence = ticket.begin()
    if (ticket.sequence === null) done(ticket)
  }

  function releaseHeld(): void {
    if (paused || writers > 0) return
    const entering = held
    held = []
    counters.held = 0
    for (const ticket of entering) begin(ticket)
  }

  function unlock(ticket: Ticket): void {
    if (!readers.delete(ticket) || readers.size > 0) return
    const waiting = whenFree
    whenFree = []
    for (const go of waiting) queueMicrotask(go)
  }

  async function free(): Promise<void> {
    while (readers.size > 0) await new Promise<void>((resolve) => whenFree.push(resolve))
  }

  function done(ticket: Ticket): void {
    if (live.get(ticket.id) === ticket) live.delete(ticket.id)
    unlock(ticket)
    if (realDelays && ticket.streamed) after(LATE_ABORT_MS, () => abort(ticket.id))
  }

  function abort(id: string): void {
    const ticket = live.get(id)
    if (ticket === undefined || ticket.abortSent) return
    // A held request has nothing to abort yet, and this flag keeps later tries from reaching it.
    ticket.abortSent = true
    if (ticket.sequence !== null) core.abort(ticket.sequence)
  }

  async function load(path: string, version: string | null, flush: boolean): Promise<UpdateOutcome> {
    try {
      const weights = await loadWeights(path)
      if (weights.vocabularySize !== core.weights.vocabularySize) {
        return {
          success: false,
          message: `Failed to update weights: size mismatch, the model has a vocabulary of ${core.weights.vocabularySize}, the file one of ${weights.vocabularySize}. Rolling back to original weights.`,
        }
      }
      core.setWeights(weights)
    } catch (error) {
      return { success: false, message: `Failed to get weights iterator: ${messageOf(error)}.` }
    }
    counters.updates++
    if (version !== null) core.setVersion(version)
    if (flush && !core.flush()) {
      const message =
        'Weights were updated, but the cache was not flushed because requests are still running or queued. Retract or finish them, then call /flush_cache.'
      return { success: false, message }
    }
    modelPath = path
    if (version === null) return { success: true, message: 'Succeeded to update model weights.' }
    weightVersion = version
    return { success: true, message: `Succeeded to update model weights. Weight version updated to ${version}.` }
  }

  return {
    get paused() {
      return paused
    },
    get weightVersion() {
      return weightVersion
    },
    get modelPath() {
      return modelPath
    },
    has: (id) => live.has(id),
    enter(ticket) {
      live.set(ticket.id, ticket)
      if (paused || writers > 0) counters.held = held.push(ticket)
      else begin(ticket)
    },
    done,
    clientLeft(ticket) {
      if (ticket.gone) return
      ticket.gone = true
      counters.disconnects++
      const { sequence } = ticket
      if (sequence === null) return
      const leave = () => {
        core.drop(sequence)
        unlock(ticket)
      }
      if (!realDelays || (ticket.streamed && sequence.state === 'running')) leave()
      else after(sequence.state === 'running' ? UNSTREAMED_LEAVE_MS : QUEUED_LEAVE_MS, leave)
    },
    abort,
    abortAll: () => core.abortAll(),
    pause(mode) {
      return exclusive(async () => {
        paused = true
        if (mode !== 'abort') {
          core.freeze(mode === 'retract' ? 'retract' : 'keep')
          return
        }
        core.abortAll()
        while (readers.size > 0) {
          if (realDelays) await new Promise<void>((resolve) => after(PAUSE_RETRY_MS, resolve))
          else await free()
          core.abortAll()
        }
      })
    },
    resume() {
      return exclusive(() => {
        paused = false
        core.thaw()
        releaseHeld()
      })
    },
    async update(path, version, flush, abortAll) {
      if (abortAll) core.abortAll()
      let lock = false
      await exclusive(() => {
        lock = !paused
      })
      if (!lock) return load(path, version, flush)
      writers++
      await free()
      const outcome = await load(path, version, flush)
      writers--
      releaseHeld()
      return outcome
    },
    setVersion(version) {
      weightVersion = version
      core.setVersion(version)
    },
    after,
    close() {
      for (const timer of timers) clearTimeout(timer)
      timers.clear()
      held = []
      readers.clear()
    },
  }
}
