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

/** Node turns a longer delay into 1 ms (2^31 - 1 ms are 24.8 days). */
const LONGEST_MS = 2_147_483_647

/** The process's own monotonic clock. */
export const realClock: Clock = {
  now: () => performance.now(),
  setTimeout: (callback, delayMs) => setTimeout(callback, Math.min(delayMs, LONGEST_MS)),
  clearTimeout: (handle) => clearTimeout(handle as NodeJS.Timeout),
}
