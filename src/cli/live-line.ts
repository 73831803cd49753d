/**
 * A live line on stderr. On a terminal one line is rewritten, at most ten times a second; elsewhere a plain line appears now and then,
 * so that logs stay readable.
 */
import type { Output } from './io.ts'

/** More often cannot be read. */
const REWRITE_MS = 100

export interface LiveLine {
  /** Draws the line into so many columns, unless the last one is too fresh. */
  update(draw: (columns: number) => string): void
  /** A whole line that stays, above the live one. */
  say(words: string): void
  /** Leaves the terminal on a line of its own. */
  end(): void
}

export interface LiveLineOptions {
  readonly output: Output
  /** A terminal that can rewrite a line. */
  readonly rewrite: boolean
  readonly quiet: boolean
  /** Time between two plain lines. */
  readonly plainMs: number
  readonly now: () => number
}

export function createLiveLine({ output, rewrite, quiet, plainMs, now }: LiveLineOptions): LiveLine {
  let last = Number.NEGATIVE_INFINITY
  let shown = false
  const clear = (): void => {
    if (shown) output.write('\r\u001b[2K')
    shown = false
  }
  return {
    update(draw) {
      if (quiet || now() - last < (rewrite ? REWRITE_MS : plainMs)) return
      last = now()
      if (!rewrite) {
        output.write(`${draw(Number.POSITIVE_INFINITY)}\n`)
        return
      }
      // One column stays free: some terminals wrap when the last is written.
      output.write(`\r\u001b[2K${draw(output.columns() - 1)}`)
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

/** The parts that fit, most important first; each as it is counted and as it is written. */
export function fitParts(parts: readonly (readonly [plain: string, styled: string])[], columns: number): string {
  let width = 0
  const fitting = parts.filter(([plain], index) => {
    width += plain.length + (index > 0 ? 2 : 0)
    return width <= columns
  })
  return fitting.map(([, styled]) => styled).join('  ')
}

export function compact(value: number): string {
  return value < 10_000 ? String(Math.round(value)) : `${(value / 1_000).toFixed(1)}k`
}

/** How long it runs, and how long it goes on where that can be told. */
export function timeWords(elapsedMs: number, etaMs: number | null): string {
  return etaMs === null ? seconds(elapsedMs) : `${seconds(elapsedMs)}, ~${seconds(etaMs)} left`
}

/** Hours and minutes only where there are some. */
function seconds(ms: number): string {
  const total = Math.round(ms / 1_000)
  if (total < 120) return `${total} s`
  const minutes = Math.round(total / 60)
  return minutes < 120 ? `${minutes} min` : `${(minutes / 60).toFixed(1)} h`
}
