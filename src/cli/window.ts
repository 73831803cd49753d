/**
 * Bounds what of the input is live at once: samples that were submitted and whose lines are not written yet, and the bytes of their
 * input lines. This is what keeps the memory of `run` flat, however long its input is.
 */

export interface Window {
  readonly samples: number
  /** Resolves when so much more fits, or when the signal is aborted. Anything fits into an empty window. */
  room(samples: number, bytes: number): Promise<void>
  take(samples: number, bytes: number): void
  give(samples: number, bytes: number): void
  /** Resolves when it is empty, or when the signal is aborted. */
  empty(): Promise<void>
}

export interface WindowOptions {
  /** Read anew for every look: fleets change. */
  readonly mostSamples: () => number
  readonly mostBytes: number
  readonly signal: AbortSignal
}

export function createWindow({ mostSamples, mostBytes, signal }: WindowOptions): Window {
  let samples = 0
  let bytes = 0
  /** One reader waits at a time. */
  let waiting: { readonly fits: () => boolean; readonly go: () => void } | null = null
  const look = (): void => {
    if (waiting !== null && (signal.aborted || waiting.fits())) {
      const { go } = waiting
      waiting = null
      go()
    }
  }
  signal.addEventListener('abort', look, { once: true })
  const until = async (fits: () => boolean): Promise<void> => {
    if (signal.aborted || fits()) return
    await new Promise<void>((go) => {
      waiting = { fits, go }
    })
  }
  return {
    get samples() {
      return samples
    },
    room: (more, moreBytes) =>
      until(() => samples === 0 || (samples + more <= mostSamples() && bytes + moreBytes <= mostBytes)),
    take(more, moreBytes) {
      samples += more
      bytes += moreBytes
    },
    give(less, lessBytes) {
      samples -= less
      bytes -= lessBytes
      look()
    },
    empty: () => until(() => samples === 0),
  }
}
