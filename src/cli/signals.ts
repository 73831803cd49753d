/**
 * SIGINT and SIGTERM: the first stops a command cleanly, the second ends the process at once.
 */
import { EXIT, type Io, type StopSignal } from './io.ts'

/** Aborts `stop` with the name of the first signal. Listens until the answer is called. */
export function stopOnSignals(io: Io, stop: AbortController, say: (words: string) => void): () => void {
  let seen = false
  const listen = (signal: StopSignal): (() => void) =>
    io.onSignal(signal, () => {
      if (seen) return io.exit(EXIT[signal])
      seen = true
      say(`${signal}: stopping; once more to end at once`)
      stop.abort(signal)
    })
  const forget = [listen('SIGINT'), listen('SIGTERM')]
  return () => {
    for (const one of forget) one()
  }
}

/** The signal that stopped a command, or null where something else did, or nothing. */
export function signalOf(stop: AbortSignal): StopSignal | null {
  const reason: unknown = stop.reason
  return reason === 'SIGINT' || reason === 'SIGTERM' ? reason : null
}
