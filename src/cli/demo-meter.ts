/**
 * Figures for the live line, gathered from the supervisor's events: samples ended, failures, and tokens and slot time of the last moments.
 * Constant memory: a window of a few seconds.
 */
import type { SupervisorEvent, Timeline } from '../index.ts'

interface Moment {
  readonly at: number
  readonly tokens: number
  readonly busyMs: number
  readonly capacityMs: number
}

/** Long enough to be read, short enough to follow the run. */
const WINDOW_MS = 3_000

export interface DemoMeter {
  observe(event: SupervisorEvent): void
  readonly failed: number
  readonly tokens: number
  /** Over the last seconds. */
  rates(at: number): { readonly tokensPerSecond: number; readonly utilisation: number }
}

export function createDemoMeter(timeline: Timeline): DemoMeter {
  const window: Moment[] = []
  let [failed, tokens] = [0, 0]
  return {
    observe(event) {
      if (event.type === 'sample.released') tokens += event.tokens
      if (event.type !== 'sample.ended') return
      if (event.outcome === 'failed' || event.outcome === 'expired') failed += 1
    },
    get failed() {
      return failed
    },
    get tokens() {
      return tokens
    },
    rates(at) {
      const now: Moment = { at, tokens, ...timeline.slotTime(at) }
      window.push(now)
      while (window.length > 2 && at - window[0]!.at > WINDOW_MS) window.shift()
      const first = window[0]!
      const capacityMs = now.capacityMs - first.capacityMs
      return {
        tokensPerSecond: at > first.at ? ((now.tokens - first.tokens) * 1_000) / (at - first.at) : 0,
        utilisation: capacityMs > 0 ? (now.busyMs - first.busyMs) / capacityMs : 0,
      }
    },
  }
}
