/**
 * What the live line of a training run says: step, reward, samples, speed, failures, and the time that is left.
 */
import { createStyle } from './io.ts'
import { compact, createLiveLine, fitParts, type LiveLine, type LiveLineOptions, timeWords } from './live-line.ts'

export interface ProgressState {
  readonly step: number
  /** Null where the run has no fixed number of steps. */
  readonly steps: number | null
  /** Mean rewards of the steps that are done. */
  readonly rewards: readonly number[]
  /** Mean reward of the last evaluation; null before there was one. */
  readonly score: number | null
  /** Groups of the step that have ended, and all of them. */
  readonly done: number
  readonly total: number
  readonly running: number
  readonly waiting: number
  readonly tokensPerSecond: number
  /** Of the slot time since the last line. */
  readonly utilisation: number
  readonly failed: number
  readonly elapsedMs: number
  /** Null where it cannot be told. */
  readonly etaMs: number | null
}

const PLAIN_MS = 2_000
const SPARKLINE_CELLS = 16
const BLOCKS = '▁▂▃▄▅▆▇█'

/** A live line of a training run. */
export interface Progress extends Omit<LiveLine, 'update'> {
  /** Shows the state, unless the last one is too fresh. */
  update(state: () => ProgressState): void
}

export interface ProgressOptions extends Omit<LiveLineOptions, 'plainMs'> {
  readonly color: boolean
}

export function createProgress({ color, ...options }: ProgressOptions): Progress {
  const live = createLiveLine({ ...options, plainMs: PLAIN_MS })
  return { ...live, update: (state) => live.update((columns) => progressLine(state(), { columns, color })) }
}

/** The parts that fit, most important first. */
export function progressLine(
  state: ProgressState,
  { columns, color }: { readonly columns: number; readonly color: boolean },
): string {
  const style = createStyle(color)
  const reward = state.rewards.at(-1)
  const parts: (readonly [plain: string, styled: string])[] = []
  const add = (words: string, styled: string = words) => parts.push([words, styled])
  const step = state.step === 0 ? 'starting' : `step ${state.step}${state.steps === null ? '' : `/${state.steps}`}`
  add(step, style(step, 'bold'))
  const line = sparkline(state.rewards, SPARKLINE_CELLS)
  if (reward !== undefined)
    add(`reward ${reward.toFixed(2)} ${line}`, `reward ${style(reward.toFixed(2), 'green')} ${style(line, 'green')}`)
  if (state.score !== null) add(`eval ${state.score.toFixed(2)}`, `eval ${style(state.score.toFixed(2), 'green')}`)
  add(`groups ${state.done}/${state.total}`)
  add(`running ${state.running}`)
  add(`waiting ${state.waiting}`)
  add(`${compact(state.tokensPerSecond)} tok/s`, style(`${compact(state.tokensPerSecond)} tok/s`, 'cyan'))
  add(`busy ${Math.round(state.utilisation * 100)} %`)
  add(`failed ${state.failed}`, state.failed > 0 ? style(`failed ${state.failed}`, 'red') : style('failed 0', 'dim'))
  const time = timeWords(state.elapsedMs, state.etaMs)
  add(time, style(time, 'dim'))
  return fitParts(parts, columns)
}

/** One block for each value, or for the mean of neighbours when there are more values than cells. Values run from 0 to 1. */
export function sparkline(values: readonly number[], cells: number): string {
  const count = Math.min(cells, values.length)
  return Array.from({ length: count }, (_, cell) => {
    const part = values.slice(
      Math.floor((cell * values.length) / count),
      Math.floor(((cell + 1) * values.length) / count),
    )
    const mean = part.reduce((sum, value) => sum + value, 0) / part.length
    return BLOCKS[Math.min(BLOCKS.length - 1, Math.max(0, Math.floor(mean * BLOCKS.length)))]
  }).join('')
}
