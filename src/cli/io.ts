/**
 * What a command sees of the process: where it writes, how that looks, and which signals came. Given to commands, so that tests can look on.
 * Data goes to stdout, everything else to stderr.
 */
import type { Readable } from 'node:stream'

/** One of the two output streams. */
export interface Output {
  write(text: string): void
  /** Resolves when all that was written is out. @throws CommandError where it cannot be written */
  drained(): Promise<void>
  readonly isTTY: boolean
  /** Characters in a line; read anew for every line, because windows are resized. */
  readonly columns: () => number
}

export interface Io {
  readonly stdout: Output
  readonly stderr: Output
  readonly stdin: () => Readable
  readonly env: Readonly<Record<string, string | undefined>>
  /** Listens to a signal until the answer is called. */
  readonly onSignal: (signal: StopSignal, listener: () => void) => () => void
  /** Ends the process at once. */
  readonly exit: (code: number) => void
}

export type StopSignal = 'SIGINT' | 'SIGTERM'

export const EXIT = { ok: 0, failed: 1, usage: 2, SIGINT: 130, SIGTERM: 143 } as const

/** A command line that cannot be used. Its message says what is allowed. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}

/** Something outside the program stands in the way. Its message says what, and what to do. */
export class CommandError extends Error {
  override readonly name = 'CommandError'
}

/** What to say when an output can no longer be written; `hint` is what to do where it is full. */
export function writeFailure(name: string, error: Error, hint = 'free some, and run again'): CommandError {
  const { code } = error as NodeJS.ErrnoException
  if (code === 'ENOSPC' || code === 'EDQUOT') return new CommandError(`${name}: no space left; ${hint}`)
  return new CommandError(`${name}: cannot be written: ${error.message}`)
}

/** Colours are for terminals, unless NO_COLOR says no or FORCE_COLOR says yes (no-color.org, force-color.org). */
export function wantsColor(output: Output, env: Io['env'], noColor: boolean): boolean {
  if (noColor || (env.NO_COLOR ?? '') !== '') return false
  if ((env.FORCE_COLOR ?? '') !== '') return env.FORCE_COLOR !== '0'
  return output.isTTY && env.TERM !== 'dumb'
}

const CODES = { bold: 1, dim: 2, red: 31, green: 32, yellow: 33, cyan: 36 } as const

export type Style = (words: string, style: keyof typeof CODES) => string

export function createStyle(color: boolean): Style {
  return (words, style) => (color ? `\u001b[${CODES[style]}m${words}\u001b[0m` : words)
}

const FALLBACK_COLUMNS = 100

/** The real process. */
export function processIo(): Io {
  const output = (name: string, stream: NodeJS.WriteStream): Output => ({
    write: (text) => void stream.write(text),
    drained: () =>
      new Promise((resolve, reject) => {
        // What is written last is out last.
        stream.write('', (error) => (error == null ? resolve() : reject(writeFailure(name, error))))
      }),
    isTTY: stream.isTTY === true,
    columns: () => stream.columns ?? FALLBACK_COLUMNS,
  })
  return {
    stdout: output('stdout', process.stdout),
    stderr: output('stderr', process.stderr),
    stdin: () => process.stdin,
    env: process.env,
    onSignal(signal, listener) {
      process.on(signal, listener)
      return () => void process.off(signal, listener)
    },
    exit: (code) => process.exit(code),
  }
}
