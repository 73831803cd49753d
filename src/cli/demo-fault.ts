/**
 * The demo's accident: one server is killed in the middle of a step, misses the weight update at its end, and comes back with the weights of
 * the beginning. Watches what becomes of it.
 */
import type { SupervisorEvent } from '../index.ts'
import type { EmbeddedEngine, TinyWeights } from '../testing/index.ts'

/** What happened, in clock milliseconds; null where the run ended before. */
export interface Accident {
  readonly instance: string
  readonly step: number
  readonly killedAt: number
  readonly restartedAt: number | null
  /** Serving again, brought up to date. */
  readonly backAt: number | null
}

export interface DemoFault {
  readonly instance: string
  observe(event: SupervisorEvent): void
  /** Resolves when nothing listens there any more. */
  kill(step: number): Promise<void>
  /** Brings it back, if it was killed; with the weights and the version label of the beginning. */
  restart(): Promise<void>
  readonly accident: Accident | null
}

export interface FaultOptions {
  readonly instance: string
  readonly engine: EmbeddedEngine
  /** Of version 0. */
  readonly weights: TinyWeights
  readonly now: () => number
}

export function createDemoFault({ instance, engine, weights, now }: FaultOptions): DemoFault {
  let accident: Accident | null = null
  return {
    instance,
    observe(event) {
      if (accident === null || accident.restartedAt === null || accident.backAt !== null) return
      if (event.type !== 'instance.state' || event.instance !== instance) return
      if (event.state.startsWith('serving')) accident = { ...accident, backAt: event.at }
    },
    async kill(step) {
      accident = { instance, step, killedAt: now(), restartedAt: null, backAt: null }
      await engine.faults.die()
    },
    async restart() {
      if (accident === null || accident.restartedAt !== null) return
      accident = { ...accident, restartedAt: now() }
      await engine.faults.restart({ weights, weightVersion: '0' })
    },
    get accident() {
      return accident
    },
  }
}
