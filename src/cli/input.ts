/**
 * Where `run` reads: stdin or a file, as a stream of lines. What cannot be read at all is said before anything starts.
 */
import { createReadStream } from 'node:fs'
import { open, stat } from 'node:fs/promises'
import { addAbortSignal, type Readable } from 'node:stream'
import { type Line, readLines, UnreadableError } from '../input/lines.ts'
import { CommandError, type Io, UsageError } from './io.ts'

export interface RunInput {
  /** Of a regular file; null where the end cannot be told. */
  readonly bytes: number | null
  /** Ends early, without an error, when the signal is aborted. */
  lines(signal: AbortSignal): AsyncGenerator<Line, void>
}

/** A prompt of some millions of tokens still fits; a file without line breaks does not fill the memory. */
const LONGEST_LINE_BYTES = 64 * 1024 * 1024

/** @throws UsageError */
export async function openInput(path: string, io: Io): Promise<RunInput> {
  if (path === '-') return { bytes: null, lines: (signal) => linesOf('stdin', io.stdin(), signal) }
  const found = await stat(path).catch((error: Error) => error)
  if (found instanceof Error) throw new UsageError(`expected a file of prompts, found: ${found.message}`)
  if (found.isDirectory()) throw new UsageError(`expected a file of prompts, found a folder: ${path}`)
  if (found.isFile()) {
    const file = await open(path, 'r').catch((error: Error) => error)
    if (file instanceof Error) throw new UsageError(`expected a file of prompts, found: ${file.message}`)
    await file.close()
  }
  return {
    bytes: found.isFile() ? found.size : null,
    lines: (signal) => linesOf(path, createReadStream(path), signal),
  }
}

/** @throws UsageError where both names are one file */
export async function mustDiffer(input: string, output: string | null): Promise<void> {
  if (output === null || input === '-') return
  const [from, to] = await Promise.all([input, output].map((path) => stat(path).catch(() => null)))
  if (from?.isFile() && to != null && from.dev === to.dev && from.ino === to.ino)
    throw new UsageError(`--output ${output}: expected another file than the prompts, found the same`)
}

async function* linesOf(name: string, stream: Readable, signal: AbortSignal): AsyncGenerator<Line, void> {
  try {
    if (!signal.aborted) yield* readLines(addAbortSignal(signal, stream), LONGEST_LINE_BYTES)
  } catch (error) {
    if (signal.aborted) return
    if (error instanceof UnreadableError) throw new CommandError(error.message)
    throw new CommandError(`${name}: cannot be read: ${error instanceof Error ? error.message : String(error)}`)
  } finally {
    stream.destroy()
  }
}
