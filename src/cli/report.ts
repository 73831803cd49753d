/**
 * What a demo run amounts to: as one object for report.json and --json, and as a table for people.
 */
import { type FleetView, type IdleReason, idleLabels, type TimelineReport } from '../index.ts'
import type { DemoOptions } from './demo-options.ts'
import type { DemoStop, Training } from './demo-train.ts'
import { type Fidelity, LARGEST_DIFFERENCE } from './fidelity.ts'
import type { Style } from './io.ts'
import { sparkline } from './progress.ts'

type IdleMs = Readonly<Partial<Record<IdleReason, number>>>

export interface DemoReport {
  readonly ok: boolean
  readonly stop: DemoStop
  readonly reachedTarget: boolean
  readonly steps: number
  readonly firstReward: number | null
  readonly lastReward: number | null
  readonly rewards: readonly number[]
  readonly wallMs: number
  readonly samples: FleetView['conservation']['ended']
  readonly tokens: number
  readonly tokensPerSecond: number
  readonly fidelity: Fidelity & { readonly exact: boolean }
  /** Shares of slot time are of capacity; idleMs is slot time by reason. */
  readonly utilisation: number
  readonly capacityMs: number
  readonly idleMs: IdleMs
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
  readonly files: readonly string[]
}

export function createReport({ options, training, timeline, fleet, slow, files }: ReportParts): DemoReport {
  const { steps, stop, reachedTarget, fidelity } = training
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
    ok: exact && (stop === 'steps' || reachedTarget),
    stop,
    reachedTarget,
    steps: steps.length,
    firstReward: steps[0]?.reward ?? null,
    lastReward: steps.at(-1)?.reward ?? null,
    rewards: steps.map(({ reward }) => round(reward, 4)),
    wallMs: Math.round(wallMs),
    samples: fleet.conservation.ended,
    tokens,
    tokensPerSecond: Math.round((tokens * 1_000) / Math.max(1, wallMs)),
    fidelity: { ...fidelity, exact },
    utilisation: round(timeline.utilisation, 4),
    capacityMs: Math.round(timeline.capacityMs),
    idleMs: rounded(timeline.idleMs),
    instances: instances.map((instance) => ({
      ...instance,
      utilisation: round(instance.utilisation, 4),
      capacityMs: Math.round(instance.capacityMs),
      idleMs: rounded(instance.idleMs),
    })),
    options,
    files,
  }
}

const STOPS: Readonly<Record<DemoStop, string>> = {
  target: 'target reached',
  steps: 'all steps done',
  budget: 'out of time',
  SIGINT: 'stopped by SIGINT',
  SIGTERM: 'stopped by SIGTERM',
}

/** Columns are aligned; a reason that took no time is left out. */
export function reportText(report: DemoReport, style: Style): string {
  const { fidelity, samples } = report
  const line = (name: string, words: string) => `${style(name.padEnd(12), 'bold')}${words}`
  const reward =
    report.firstReward === null || report.lastReward === null
      ? 'no step was finished'
      : `${report.firstReward.toFixed(2)} to ${report.lastReward.toFixed(2)} in ${count(report.steps)} steps  ${style(sparkline(report.rewards, 24), 'green')}`
  const ended = Object.entries(samples).filter(
    ([outcome, number]) => outcome === 'completed' || outcome === 'failed' || number > 0,
  )
  return [
    line('reward', `${reward}  ${STOPS[report.stop]}`),
    line('samples', ended.map(([outcome, number]) => `${count(number)} ${outcome}`).join(', ')),
    line(
      'tokens',
      `${count(report.tokens)} in ${(report.wallMs / 1_000).toFixed(1)} s: ${count(report.tokensPerSecond)} a second`,
    ),
    line('log-probs', fidelityWords(fidelity, style)),
    line('staleness', stalenessWords(fidelity)),
    '',
    ...table(report, style),
    '',
    line('written', report.files.join('  ')),
    '',
  ].join('\n')
}

function fidelityWords({ tokens, unchecked, largestDifference, exact }: DemoReport['fidelity'], style: Style): string {
  if (tokens + unchecked === 0) return 'none to recompute'
  const verdict = exact ? style('exact', 'green') : style('NOT exact', 'red')
  const rest = unchecked > 0 ? `, ${count(unchecked)} tokens without known weights` : ''
  return `${count(tokens)} recomputed under their stamped versions: ${verdict}, largest difference ${largestDifference.toExponential(1)}${rest}`
}

function stalenessWords({ staleness }: Fidelity): string {
  const parts = Object.entries(staleness).map(([behind, tokens]) => `${behind}: ${count(tokens)} tokens`)
  return parts.length === 0 ? 'no tokens' : `${parts.join(', ')} (trainer version minus token version)`
}

/** Where the slot time went: one row for each instance, one column for each reason that took any. */
function table(report: DemoReport, style: Style): string[] {
  const reasons = (Object.keys(report.idleMs) as IdleReason[])
    .filter((reason) => share(report.idleMs[reason], report.capacityMs) >= 0.0005)
    .sort((a, b) => (report.idleMs[b] ?? 0) - (report.idleMs[a] ?? 0))
  const slow = report.instances.some(({ slowFactor }) => slowFactor !== 1)
  const cells = (
    id: string,
    speed: string,
    samples: number,
    tokens: number,
    slots: number,
    part: { utilisation: number; capacityMs: number; idleMs: IdleMs },
  ) => [
    id,
    ...(slow ? [speed] : []),
    count(slots),
    count(samples),
    count(tokens),
    percent(part.utilisation),
    ...reasons.map((reason) => percent(share(part.idleMs[reason], part.capacityMs))),
  ]
  const sum = (value: (instance: DemoReport['instances'][number]) => number) =>
    report.instances.reduce((total, instance) => total + value(instance), 0)
  const rows = [
    [
      'slot time',
      ...(slow ? ['speed'] : []),
      'slots',
      'samples',
      'tokens',
      'busy',
      ...reasons.map((reason) => idleLabels[reason]),
    ],
    ...report.instances.map((instance) =>
      cells(
        instance.id,
        instance.slowFactor === 1 ? '1' : `1/${instance.slowFactor}`,
        instance.samples,
        instance.tokens,
        instance.slots,
        instance,
      ),
    ),
    cells(
      'all',
      '',
      sum(({ samples }) => samples),
      sum(({ tokens }) => tokens),
      sum(({ slots }) => slots),
      report,
    ),
  ]
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)))
  const format = (row: readonly string[]) =>
    row.map((cell, column) => (column === 0 ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!))).join('  ')
  return rows.map((row, index) => (index === 0 || index === rows.length - 1 ? style(format(row), 'bold') : format(row)))
}

function share(ms: number | undefined, capacityMs: number): number {
  return capacityMs > 0 ? (ms ?? 0) / capacityMs : 0
}

function rounded(idleMs: IdleMs): IdleMs {
  return Object.fromEntries(Object.entries(idleMs).map(([reason, ms]) => [reason, Math.round(ms)]))
}

function round(value: number, digits: number): number {
  return Number(value.toFixed(digits))
}

function count(value: number): string {
  return value.toLocaleString('en-US')
}

function percent(value: number): string {
  return `${(value * 100).toFixed(1)} %`
}
