/**
 * What a demo run amounts to, as one object for report.json and --json.
 */
import type { FleetView, IdleReason, PhaseTimes, TimelineReport } from '../index.ts'
import type { Evaluated } from './demo-evaluate.ts'
import type { Accident } from './demo-fault.ts'
import type { DemoOptions } from './demo-options.ts'
import type { TokenAccount } from './demo-tokens.ts'
import type { DemoStop, Training, Updates } from './demo-train.ts'
import { type Fidelity, LARGEST_DIFFERENCE } from './fidelity.ts'

export type IdleMs = Readonly<Partial<Record<IdleReason, number>>>

export interface DemoReport {
  readonly ok: boolean
  readonly stop: DemoStop
  readonly reachedTarget: boolean
  readonly steps: number
  readonly firstReward: number | null
  readonly lastReward: number | null
  readonly rewards: readonly number[]
  /** In order; the last one is of the final weights. */
  readonly evaluations: readonly Omit<Evaluated, 'at'>[]
  readonly updates: Updates
  /** Null where no server was killed. Times are milliseconds of the run. */
  readonly accident: Accident | null
  readonly wallMs: number
  readonly samples: FleetView['conservation']['ended']
  readonly tokens: number
  readonly tokensPerSecond: number
  readonly account: TokenAccount
  readonly fidelity: Fidelity & { readonly exact: boolean }
  /** Shares of slot time are of capacity; idleMs is slot time by reason. */
  readonly utilisation: number
  readonly capacityMs: number
  readonly idleMs: IdleMs
  readonly phases: PhaseTimes
  readonly instances: readonly {
    readonly id: string
    readonly slowFactor: number
    readonly slots: number
    readonly samples: number
    readonly tokens: number
    readonly utilisation: number
    readonly capacityMs: number
    readonly idleMs: IdleMs
  }[]
  readonly options: DemoOptions
  readonly files: readonly string[]
}

export interface ReportParts {
  readonly options: DemoOptions
  readonly training: Training
  readonly timeline: TimelineReport
  readonly fleet: FleetView
  readonly slow: readonly string[]
  readonly accident: Accident | null
  readonly tokens: TokenAccount
  readonly files: readonly string[]
}

export function createReport(parts: ReportParts): DemoReport {
  const { options, training, timeline, fleet, slow, accident, files } = parts
  const { steps, evaluations, updates, stop, reachedTarget, fidelity } = training
  const ofRun = (at: number | null) => (at === null ? null : Math.round(at - timeline.startedAt))
  const wallMs = timeline.endedAt - timeline.startedAt
  const tokens = fleet.instances.reduce((sum, instance) => sum + instance.tokens, 0)
  const exact = fidelity.unchecked === 0 && fidelity.largestDifference <= LARGEST_DIFFERENCE
  const instances = timeline.instances.map(({ id, lanes, utilisation, capacityMs, idleMs }) => {
    const view = fleet.instances.find((instance) => instance.id === id)
    const counts = { samples: view?.completed ?? 0, tokens: view?.tokens ?? 0 }
    return {
      id,
      slowFactor: slow.includes(id) ? options.slowFactor : 1,
      slots: lanes,
      ...counts,
      utilisation,
      capacityMs,
      idleMs,
    }
  })
  return {
    ok: exact && evaluations.every(({ version }) => version !== null) && (stop === 'steps' || reachedTarget),
    stop,
    reachedTarget,
    steps: steps.length,
    firstReward: steps[0]?.reward ?? null,
    lastReward: steps.at(-1)?.reward ?? null,
    rewards: steps.map(({ reward }) => round(reward, 4)),
    evaluations: evaluations.map(({ at: _, score, ...rest }) => ({ ...rest, score: round(score, 4) })),
    updates,
    accident: accident && {
      ...accident,
      killedAt: ofRun(accident.killedAt)!,
      restartedAt: ofRun(accident.restartedAt),
      backAt: ofRun(accident.backAt),
    },
    wallMs: Math.round(wallMs),
    samples: fleet.conservation.ended,
    tokens,
    tokensPerSecond: Math.round((tokens * 1_000) / Math.max(1, wallMs)),
    account: parts.tokens,
    fidelity: { ...fidelity, exact },
    // Finer than it is shown, or what is shown would be rounded twice, and differ from the timeline.
    utilisation: round(timeline.utilisation, 6),
    capacityMs: Math.round(timeline.capacityMs),
    idleMs: rounded(timeline.idleMs),
    phases: Object.fromEntries(
      Object.entries(timeline.phaseTimes).map(([phase, { times, ...ms }]) => [phase, { times, ...rounded(ms) }]),
    ),
    instances: instances.map((instance) => ({
      ...instance,
      utilisation: round(instance.utilisation, 6),
      capacityMs: Math.round(instance.capacityMs),
      idleMs: rounded(instance.idleMs),
    })),
    options,
    files,
  }
}

function round(value: number, digits: number): number {
  return Number(value.toFixed(digits))
}

function rounded<T extends Readonly<Partial<Record<string, number>>>>(times: T): T {
  return Object.fromEntries(Object.entries(times).map(([name, ms]) => [name, Math.round(ms ?? 0)])) as T
}
