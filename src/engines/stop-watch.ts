/**
 * Looks for the stop strings that a server cannot find: those that begin in text it was sent as a prompt, before an interruption, and end in
 * what it generates; or all of them, where the server is told of none. As the engines do, it ends a sample with the token that completes a
 * stop string, and the text with the stop string.
 *
 *     text before the seam | text of this attempt
 *               ...</ans   | wer> and so on
 *                   ^ textBefore      ^ isOpen until here: what begins later the server finds
 */
import { endOfStop } from '../rollout/stop-text.ts'
import type { CheckedSampling } from '../rollout/task.ts'

export interface StopWatch {
  /** False once the server itself finds whatever is left to find. */
  readonly isOpen: boolean
  /**
   * The text that came with the next `count` tokens. `pieces`, the text of each of them by itself, tells where in it each token ends;
   * without, they stand or fall together. @returns how much of both belongs to the sample where a stop string ends here, else null
   */
  read(text: string, count: number, pieces: readonly string[] | null): StopEnd | null
}

export interface StopEnd {
  readonly tokens: number
  readonly characters: number
}

export interface StopWatchOptions {
  /** What the server was sent of a stop string that may have begun. */
  readonly textBefore: string | undefined
  readonly sampling: Pick<CheckedSampling, 'stop' | 'minTokens'>
  /** True where the server knows none of the stop strings. */
  readonly finds: 'all' | 'begunBefore'
  /** True where the engine lets a stop string pass that ends within `minTokens`. */
  readonly heedsMinTokens: boolean
}

/** Null where there is nothing to look for, which is nearly always. */
export function createStopWatch(options: StopWatchOptions): StopWatch | null {
  const { textBefore = '', sampling, finds, heedsMinTokens } = options
  const { stop: stops } = sampling
  const isForAll = finds === 'all'
  if (stops.length === 0 || (!isForAll && textBefore === '')) return null
  const longest = Math.max(...stops.map(({ length }) => length))
  const minTokens = heedsMinTokens ? sampling.minTokens : 0
  let tail = textBefore
  /** Characters of the tail that were there before the seam. */
  let before = textBefore.length
  let seen = 0
  let isOpen = true

  /** Characters of the new text that belong to tokens which the minimum asks for. */
  function protectedBy(text: string, count: number, ends: readonly number[] | null): number {
    const left = minTokens - seen
    if (left <= 0) return 0
    return left >= count || ends === null ? text.length : ends[left - 1]!
  }

  /** Whether a stop string that began before the seam may yet end. */
  function mayEnd(): boolean {
    for (let start = 0; start < before; start++) {
      const begun = tail.slice(start)
      if (stops.some((stop) => begun.length < stop.length && stop.startsWith(begun))) return true
    }
    return false
  }

  return {
    get isOpen() {
      return isOpen
    },
    read(text, count, pieces) {
      const ends = pieces === null || pieces.length !== count ? null : endsOfPieces(text, pieces)
      const joined = tail + text
      const after = tail.length + protectedBy(text, count, ends)
      const end = endOfStop(joined, stops, after, isForAll ? undefined : before)
      seen += count
      if (end !== -1) {
        const characters = end - tail.length
        const last = ends === null ? count - 1 : ends.findIndex((each) => each >= characters)
        return { tokens: last + 1, characters }
      }
      tail = joined.slice(Math.max(0, joined.length - longest + 1))
      before = Math.max(0, before - (joined.length - tail.length))
      isOpen = isForAll || mayEnd()
      return null
    },
  }
}

/**
 * Where each token ends in the text of all. The text of a token by itself may differ from its part of the whole, by a first space or where it is a
 * part of a character: such a token ends where the next that is found begins.
 */
function endsOfPieces(text: string, pieces: readonly string[]): number[] {
  const ends: number[] = []
  let at = 0
  let wasFound = true
  for (const piece of pieces) {
    const found = piece === '' || piece.includes('\ufffd') ? -1 : text.indexOf(piece, at)
    if (found !== -1) {
      if (!wasFound) ends[ends.length - 1] = found
      at = found + piece.length
    }
    wasFound = found !== -1
    ends.push(at)
  }
  if (ends.length > 0) ends[ends.length - 1] = text.length
  return ends
}
