/**
 * The report of a demo run as people read it: words first, then what each phase and each slot cost.
 */
import { type IdleReason, idleLabels, type Phase } from '../index.ts'
import type { DemoStop } from './demo-train.ts'
import type { Fidelity } from './fidelity.ts'
import type { Style } from './io.ts'
import { sparkline } from './progress.ts'
import type { DemoReport, IdleMs } from './report.ts'

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
  const lines = [
    ['reward', `${reward}  ${STOPS[report.stop]}`],
    ['evaluation', evaluationWords(report, style)],
    ['samples', ended.map(([outcome, number]) => `${count(number)} ${outcome}`).join(', ')],
    [
      'tokens',
      `${count(report.tokens)} in ${(report.wallMs / 1_000).toFixed(1)} s: ${count(report.tokensPerSecond)} a second`,
    ],
    ['log-probs', fidelityWords(fidelity, style)],
    ['staleness', stalenessWords(fidelity)],
    ['resumed', resumedWords(report)],
    ['wasted', wastedWords(report)],
    ['accident', accidentWords(report)],
  ] as const
  return [
    ...lines.flatMap(([name, words]) => (words === null ? [] : [line(name, words)])),
    '',
    ...phaseTable(report, style),
    '',
    ...slotTable(report, style),
    '',
    line('written', report.files.join('  ')),
    '',
  ].join('\n')
}

function evaluationWords({ evaluations }: DemoReport, style: Style): string | null {
  const [first, last] = [evaluations[0], evaluations.at(-1)]
  if (first === undefined || last === undefined) return null
  const curve = sparkline(
    evaluations.map(({ score }) => score),
    24,
  )
  const mixed = evaluations.filter(({ version }) => version === null).length
  const versions = mixed === 0 ? 'each of one version' : style(`${mixed} of several versions`, 'red')
  return `${first.score.toFixed(2)} to ${last.score.toFixed(2)} in ${count(evaluations.length)} evaluations  ${style(curve, 'green')}  ${versions}`
}

/** What interrupted samples went on with, by what had interrupted them. */
function resumedWords({ account: { resumed }, updates, options }: DemoReport): string {
  const of = (cause: keyof typeof resumed, after: string) =>
    resumed[cause].samples === 0
      ? []
      : [`${count(resumed[cause].tokens)} tokens of ${count(resumed[cause].samples)} samples after ${after}`]
  const parts = [
    ...of('update', `${count(updates.count)} updates (${options.update})`),
    ...of('evaluation', 'evaluations'),
    ...of('fault', 'faults'),
  ]
  return parts.length === 0 ? 'nothing' : parts.join(', ')
}

function wastedWords({ account: { wasted, leftOver, evaluation }, tokens }: DemoReport): string {
  const part = `${count(wasted)} tokens that servers sampled and nobody has (${percent(share(wasted, tokens))})`
  const rest = leftOver === 0 ? '' : `; ${count(leftOver)} left over at the end`
  return evaluation === 0 ? part + rest : `${part}${rest}; ${count(evaluation)} spent on evaluation`
}

function accidentWords({ accident }: DemoReport): string | null {
  if (accident === null) return null
  const seconds = (ms: number) => `${(ms / 1_000).toFixed(1)} s`
  const { instance, step, killedAt, restartedAt, backAt } = accident
  const killed = `${instance} was killed in step ${step} at ${seconds(killedAt)}`
  if (restartedAt === null) return killed
  const restarted = `${killed}, came back with version 0 at ${seconds(restartedAt)}`
  return backAt === null ? restarted : `${restarted}, and served again, up to date, at ${seconds(backAt)}`
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

const PHASES: Readonly<Partial<Record<Phase, string>>> = {
  rollout: 'rollout',
  evaluation: 'evaluation',
  weightUpdate: 'weight update',
  paused: 'paused',
}

/** What each phase took, and the slot time that stood idle in it. */
function phaseTable(report: DemoReport, style: Style): string[] {
  const rows = (Object.entries(PHASES) as [Phase, string][]).flatMap(([phase, name]) => {
    const time = report.phases[phase]
    if (time === undefined || time.wallMs === 0) return []
    return [
      [
        name,
        count(time.times),
        `${(time.wallMs / 1_000).toFixed(2)} s`,
        `${(time.wallMs / time.times).toFixed(0)} ms`,
        percent(share(time.idleMs, time.capacityMs)),
        percent(share(time.idleMs, report.capacityMs)),
      ],
    ]
  })
  return aligned([['phase', 'times', 'in all', 'each', 'idle in it', 'of all slot time'], ...rows], style, false)
}

/** Where the slot time went: one row for each instance, one column for each reason that took any. */
function slotTable(report: DemoReport, style: Style): string[] {
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
  return aligned(rows, style, true)
}

/** The first row is the head; the last one, where it is a sum, stands out like it. */
function aligned(rows: readonly (readonly string[])[], style: Style, hasSum: boolean): string[] {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)))
  const format = (row: readonly string[]) =>
    row.map((cell, column) => (column === 0 ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!))).join('  ')
  return rows.map((row, index) =>
    index === 0 || (hasSum && index === rows.length - 1) ? style(format(row), 'bold') : format(row),
  )
}

function share(ms: number | undefined, capacityMs: number): number {
  return capacityMs > 0 ? (ms ?? 0) / capacityMs : 0
}

function count(value: number): string {
  return value.toLocaleString('en-US')
}

function percent(value: number): string {
  return `${(value * 100).toFixed(1)} %`
}
