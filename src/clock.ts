/**
 * Time, injected everywhere: the supervisor, its machines and its deadlines read no other clock.
 * The shape is a superset of XState's own Clock, so one object serves both.
 */
export interface Clock {
  /** Milliseconds since some fixed moment; never goes back. */
  now(): number
  setTimeout(callback: () => void, delayMs: number): unknown
  clearTimeout(handle: unknown): void
}

/** The process's own monotonic clock. */
export const realClock: Clock = {
  now: () => performance.now(),
  setTimeout: (callback, delayMs) => setTimeout(callback, delayMs),
  clearTimeout: (handle) => clearTimeout(handle as NodeJS.Timeout),
}
