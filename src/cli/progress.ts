/**
 * The live line on stderr. On a terminal one line is rewritten; elsewhere a plain line appears now and then, so that logs stay readable.
 */
import { createStyle, type Output } from './io.ts'

export interface ProgressState {
  readonly step: number
  /** Null where the run has no fixed number of steps. */
  readonly steps: number | null
  /** Mean rewards of the steps that are done. */
  readonly rewards: readonly number[]
  /** Samples of the step that have ended, and all of them. */
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

/** At most ten times a second: more cannot be read. */
const REWRITE_MS = 100
const PLAIN_MS = 2_000
const SPARKLINE_CELLS = 16
const BLOCKS = '▁▂▃▄▅▆▇█'

export interface Progress {
  /** Shows the state, unless the last one is too fresh. */
  update(state: () => ProgressState): void
  /** A whole line that stays, above the live one. */
  say(words: string): void
  /** Leaves the terminal on a line of its own. */
  end(): void
}

export interface ProgressOptions {
  readonly output: Output
  readonly color: boolean
  /** A terminal that can rewrite a line. */
  readonly rewrite: boolean
  readonly quiet: boolean
  readonly now: () => number
}

export function createProgress({ output, color, rewrite, quiet, now }: ProgressOptions): Progress {
  let last = Number.NEGATIVE_INFINITY
  let shown = false
  const clear = (): void => {
    if (shown) output.write('\r\u001b[2K')
    shown = false
  }
  return {
    update(state) {
      if (quiet || now() - last < (rewrite ? REWRITE_MS : PLAIN_MS)) return
      last = now()
      if (!rewrite) {
        output.write(`${progressLine(state(), { columns: Number.POSITIVE_INFINITY, color })}\n`)
        return
      }
      // One column stays free: some terminals wrap when the last is written.
      output.write(`\r\u001b[2K${progressLine(state(), { columns: output.columns() - 1, color })}`)
      shown = true
    },
    say(words) {
      if (quiet) return
      clear()
      output.write(`${words}\n`)
    },
    end: clear,
  }
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
  add(`samples ${state.done}/${state.total}`)
  add(`running ${state.running}`)
  add(`waiting ${state.waiting}`)
  add(`${compact(state.tokensPerSecond)} tok/s`, style(`${compact(state.tokensPerSecond)} tok/s`, 'cyan'))
  add(`busy ${Math.round(state.utilisation * 100)} %`)
  add(`failed ${state.failed}`, state.failed > 0 ? style(`failed ${state.failed}`, 'red') : style('failed 0', 'dim'))
  const time =
    state.etaMs === null ? seconds(state.elapsedMs) : `${seconds(state.elapsedMs)}, about ${seconds(state.etaMs)} left`
  add(time, style(time, 'dim'))
  let width = 0
  const fitting = parts.filter(([plain], index) => {
    width += plain.length + (index > 0 ? 2 : 0)
    return width <= columns
  })
  return fitting.map(([, styled]) => styled).join('  ')
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

function compact(value: number): string {
  return value < 10_000 ? String(Math.round(value)) : `${(value / 1_000).toFixed(1)}k`
}

function seconds(ms: number): string {
  return `${Math.round(ms / 1_000)} s`
}
