/**
 * How the control calls of a simulated server go wrong: refused, never answered, answered and not done, done and not answered, and with
 * the server dying or restarting before or after what they do. Each failure that a test orders strikes once.
 */
import type { Clock } from '../clock.ts'
import { RolloutError, type RolloutErrorCode } from '../errors.ts'

/** The calls of a driver that can be made to fail; generations have the faults of the server itself. */
export type ControlCall =
  | 'probe'
  | 'load'
  | 'weightVersion'
  | 'abort'
  | 'pause'
  | 'resume'
  | 'updateWeights'
  | 'flush'
  | 'release'
  | 'reclaim'

/** How a control call goes wrong. */
export type ControlFailure =
  /** Refused with this status; nothing happens. */
  | 400
  | 404
  | 500
  | 503
  /** Nothing happens, and no answer comes before the deadline of the call. */
  | 'hang'
  /** Done, and no answer comes. */
  | 'hangAfter'
  /** Done, an update without its label and flush, and then refused with 500. */
  | 'failAfter'
  /** Answered as if done, and nothing happens; a question about the weights is answered with another version, one about the load with none. */
  | 'lie'
  | 'dieBefore'
  | 'dieAfter'
  | 'restartBefore'
  | 'restartAfter'

export interface ControlFaults {
  /** The next `times` such calls go wrong. */
  fail(call: ControlCall, how: ControlFailure, times: number): void
  heal(): void
  /** One call: `act` is what it does, `lie` what a liar answers. */
  run<T>(
    call: ControlCall,
    signal: AbortSignal | undefined,
    act: (failure: ControlFailure | null) => T | Promise<T>,
    lie: () => T,
  ): Promise<T>
  /** Ends the calls that hang. */
  close(): void
}

/** A refusal of a control call blames the instance, whatever its status. */
const CODES = { 400: 'ENGINE_ERROR', 404: 'INSTANCE_FAULT', 500: 'ENGINE_ERROR', 503: 'BUSY' } as const
/** As the drivers of real engines wait. */
const DEADLINE_MS = 10_000
const UPDATE_DEADLINE_MS = 3_600_000

export function createControlFaults(
  clock: Clock,
  id: string,
  server: { readonly mustLive: () => void; readonly die: () => void; readonly revive: () => void },
): ControlFaults {
  const ordered = new Map<ControlCall, ControlFailure[]>()
  const hanging = new Set<() => void>()

  function fault(code: RolloutErrorCode, text: string, status?: number): RolloutError {
    const fields = status === undefined ? { instance: id } : { instance: id, status }
    return new RolloutError(code, `simulated server ${id}: ${text}`, fields)
  }

  function hang(call: ControlCall, signal: AbortSignal | undefined): Promise<never> {
    const deadlineMs = call === 'updateWeights' ? UPDATE_DEADLINE_MS : DEADLINE_MS
    return new Promise((_, reject) => {
      const end = (error: RolloutError): void => {
        clock.clearTimeout(timer)
        signal?.removeEventListener('abort', onAbort)
        hanging.delete(onClose)
        reject(error)
      }
      const onAbort = (): void => end(cancelled(signal))
      const onClose = (): void => end(fault('CLOSED', 'the driver was closed'))
      const timer = clock.setTimeout(() => {
        end(fault('UNREACHABLE', `${call}: expected an answer within ${deadlineMs} ms, found none`))
      }, deadlineMs)
      signal?.addEventListener('abort', onAbort, { once: true })
      hanging.add(onClose)
    })
  }

  function cancelled(signal: AbortSignal | undefined): RolloutError {
    const reason: unknown = signal?.reason
    return RolloutError.isInstance(reason) ? reason : fault('CANCELLED', 'the call was cancelled by its signal')
  }

  function refuse(call: ControlCall, status: 400 | 404 | 500 | 503): RolloutError {
    return fault(CODES[status], `${call}: expected status 200, found ${status}`, status)
  }

  function end(call: ControlCall, how: 'die' | 'restart'): RolloutError {
    server.die()
    if (how === 'restart') server.revive()
    return fault('TRANSPORT', `${call}: expected an answer, found a connection that broke`)
  }

  return {
    fail(call, how, times) {
      const list = ordered.get(call) ?? []
      for (let time = 0; time < times; time++) list.push(how)
      ordered.set(call, list)
    },
    heal: () => ordered.clear(),
    async run(call, signal, act, lie) {
      if (signal?.aborted) throw cancelled(signal)
      server.mustLive()
      const how = ordered.get(call)?.shift() ?? null
      if (typeof how === 'number') throw refuse(call, how)
      if (how === 'hang') return hang(call, signal)
      if (how === 'lie') return lie()
      if (how === 'dieBefore' || how === 'restartBefore') throw end(call, how === 'dieBefore' ? 'die' : 'restart')
      const answer = await act(how)
      if (how === 'hangAfter') return hang(call, signal)
      if (how === 'failAfter') throw refuse(call, 500)
      if (how === 'dieAfter' || how === 'restartAfter') throw end(call, how === 'dieAfter' ? 'die' : 'restart')
      return answer
    },
    close() {
      for (const end of [...hanging]) end()
    },
  }
}
