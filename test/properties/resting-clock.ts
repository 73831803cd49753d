/**
 * A virtual clock whose timers each find the supervisor at rest: whatever the last one led to has been done, and what has to hold then is
 * looked at first.
 */
import { createVirtualClock, type VirtualClock } from '../../src/testing/virtual-clock.ts'

export function createRestingClock(atRest: () => void): VirtualClock {
  const virtual = createVirtualClock()
  return {
    ...virtual,
    get pending() {
      return virtual.pending
    },
    setTimeout: (callback, delayMs) =>
      virtual.setTimeout(() => {
        atRest()
        callback()
      }, delayMs),
  }
}
