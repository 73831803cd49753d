/**
 * How far a `run` is: its counts, its live line, and its summary.
 */
import type { FleetView } from '../index.ts'
import { createStyle, type StopSignal } from './io.ts'
import { compact, fitParts, timeWords } from './live-line.ts'

export interface FirstFailure {
  readonly id: string | number
  readonly sample: number
  readonly code: string | null
  readonly message: string
}

/** Counted as it goes. Samples but for `lines` and `unusable`. */
export interface RunCounts {
  /** Input lines, blank ones left out. */
  lines: number
  unusable: number
  /** Of the input lines read so far. */
  samples: number
  completed: number
  failed: number
  /** Found in the output of an earlier run. */
  skipped: number
  tokens: number
  /** Of this run; many samples often fail of one cause. */
  firstFailure: FirstFailure | null
  /** Share of the input that was read, or null where its end cannot be told; 1 when there is no more. */
  read: number | null
}

/** The sums of a view of the fleet. */
export interface RunMoment {
  readonly running: number
  readonly waiting: number
  /** Work waits, none runs, and something is wrong with every server. */
  readonly stuck: boolean
  /** Since the run began, those of running samples left out. */
  readonly tokens: number
}

export function momentOf({ conservation, instances }: FleetView): RunMoment {
  const { running, waiting } = conservation
  const stuck = waiting > 0 && running === 0 && instances.every(({ fault }) => fault !== null)
  return { running, waiting, stuck, tokens: instances.reduce((sum, instance) => sum + instance.tokens, 0) }
}

/** Long enough to be read, short enough to follow the run. */
const WINDOW_MS = 5_000

/** Tokens a second over the last moments. */
export function createSpeed(startedAt: number): (at: number, tokens: number) => number {
  const marks: { readonly at: number; readonly tokens: number }[] = [{ at: startedAt, tokens: 0 }]
  return (at, tokens) => {
    marks.push({ at, tokens })
    while (marks.length > 2 && at - marks[1]!.at >= WINDOW_MS) marks.shift()
    const first = marks[0]!
    return at > first.at ? ((tokens - first.tokens) * 1_000) / (at - first.at) : 0
  }
}

/** All samples of the input; an estimate, from the share of it that was read, until it was read to the end. */
function totalOf({ read, samples }: RunCounts): number | null {
  return read === null || read === 0 ? null : Math.round(samples / read)
}

export interface RunLine {
  readonly counts: RunCounts
  readonly moment: RunMoment
  readonly tokensPerSecond: number
  readonly elapsedMs: number
}

const NO_SERVER = 'no server answers'

/** The parts that fit, most important first. */
export function runLine(
  { counts, moment, tokensPerSecond, elapsedMs }: RunLine,
  columns: number,
  color: boolean,
): string {
  const style = createStyle(color)
  const now = counts.completed + counts.failed
  const done = now + counts.skipped
  const total = totalOf(counts)
  const about = counts.read === 1 ? '' : '~'
  const progress = `${count(done)}${total === null ? '' : `/${about}${count(Math.max(total, done))}`} samples`
  const etaMs = total === null || now === 0 || moment.stuck ? null : (elapsedMs / now) * Math.max(0, total - done)
  const { failed, unusable } = counts
  const speed = `${compact(tokensPerSecond)} tok/s`
  const time = timeWords(elapsedMs, etaMs)
  const bad = `${count(unusable)} unusable`
  const parts: readonly (readonly [string, string])[] = [
    [progress, style(progress, 'bold')],
    [time, style(time, 'dim')],
    moment.stuck ? [NO_SERVER, style(NO_SERVER, 'red')] : [speed, style(speed, 'cyan')],
    [`failed ${count(failed)}`, style(`failed ${count(failed)}`, failed > 0 ? 'red' : 'dim')],
    plain(`running ${count(moment.running)}`),
    plain(`waiting ${count(moment.waiting)}`),
    ...(unusable > 0 ? [[bad, style(bad, 'red')] as const] : []),
  ]
  return fitParts(parts, columns)
}

export interface RunSummary extends Omit<RunCounts, 'samples' | 'read'> {
  /** True when every sample of the input has completed, now or earlier. */
  readonly ok: boolean
  /** What the output has as failed from earlier runs. */
  readonly failedBefore: number
  readonly ms: number
  readonly stopped: StopSignal | null
  readonly output: string | null
}

export function summaryText(summary: RunSummary, color: boolean): string {
  const { completed, failed, firstFailure, skipped, unusable, failedBefore, tokens, ms, stopped, output } = summary
  const style = createStyle(color)
  const red = (words: string, number: number): string => (number > 0 ? style(words, 'red') : words)
  const seconds = ms / 1_000
  const parts = [
    `${style(count(completed), 'bold')} completed`,
    red(`${count(failed)} failed`, failed),
    ...(unusable > 0
      ? [red(`${count(unusable)} ${unusable === 1 ? 'line' : 'lines'} could not be used`, unusable)]
      : []),
    ...(skipped > 0 ? [`${count(skipped)} done before`] : []),
    `${count(tokens)} tokens in ${seconds.toFixed(1)} s${tokens === 0 ? '' : ` (${count(Math.round(tokens / Math.max(seconds, 0.001)))} a second)`}`,
  ]
  const hints = [
    ...(firstFailure === null
      ? []
      : [
          `first failure, sample ${firstFailure.sample} of ${JSON.stringify(firstFailure.id)}: ${firstFailure.message}`,
        ]),
    ...(failedBefore > 0 ? [`${count(failedBefore)} failed in an earlier run: --retry-failed runs them again`] : []),
    ...(stopped === null
      ? []
      : [`stopped by ${stopped}${output === null ? '' : `: the same command goes on from ${output}`}`]),
  ]
  return `${[parts.join(', '), ...hints].join('\n')}\n`
}

function count(value: number): string {
  return value.toLocaleString('en-US')
}

function plain(words: string): readonly [string, string] {
  return [words, words]
}
