/**
 * Writes lines in order, many in one write when they come fast, and says of each when it is out of our hands. The first failure ends it.
 */

export interface LineSink {
  /** `written` is called when the line is with the operating system. */
  write(line: string, written: () => void): void
  /** Resolves when nothing is left to write, or it cannot be. */
  flush(): Promise<void>
  readonly failure: Error | null
}

/** `put` writes all of a text. `onFailure` is called once. */
export function createLineSink(put: (text: string) => Promise<void>, onFailure: (error: Error) => void): LineSink {
  let lines: string[] = []
  let callbacks: (() => void)[] = []
  let failure: Error | null = null
  let writing: Promise<void> | null = null

  async function drain(): Promise<void> {
    while (lines.length > 0 && failure === null) {
      const [text, told] = [lines.join(''), callbacks]
      lines = []
      callbacks = []
      try {
        await put(text)
        for (const written of told) written()
      } catch (error) {
        failure = error instanceof Error ? error : new Error(String(error))
        onFailure(failure)
      }
    }
    writing = null
  }

  return {
    write(line, written) {
      if (failure !== null) return
      lines.push(line)
      callbacks.push(written)
      // Lines of the same moment go out together.
      writing ??= Promise.resolve().then(drain)
    },
    async flush() {
      await writing
    },
    get failure() {
      return failure
    },
  }
}
