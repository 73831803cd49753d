/**
 * Where `run` writes: stdout, or a file that is also the memory of the run. A regular file is locked, read, mended and continued;
 * anything else (a pipe, a device) is only written to.
 */
import { constants } from 'node:fs'
import { type FileHandle, open, realpath, rename, stat } from 'node:fs/promises'
import { CommandError, type Io, UsageError, writeFailure } from './io.ts'
import { lockOutput } from './output-lock.ts'
import { NO_MEMORY, type OutputMemory, readMemory } from './output-memory.ts'

export interface RunOutput {
  readonly memory: OutputMemory
  /** Writes all of a text. After a failure the file ends with the last whole line. */
  put(text: string): Promise<void>
  close(): Promise<void>
}

export interface OpenOutputOptions {
  /** Null is stdout. */
  readonly path: string | null
  readonly retryFailed: boolean
  readonly signal: AbortSignal
}

export function openOutput({ path, ...options }: OpenOutputOptions, io: Io): Promise<RunOutput> {
  if (path !== null) return openFile(path, options)
  return Promise.resolve({
    memory: NO_MEMORY,
    async put(text) {
      io.stdout.write(text)
      await io.stdout.drained()
    },
    close: () => io.stdout.drained(),
  })
}

async function openFile(given: string, options: Omit<OpenOutputOptions, 'path'>): Promise<RunOutput> {
  let file: FileHandle | null = null
  let unlock: (() => void) | null = null
  try {
    // A link stays one: what it points to is replaced.
    const path = await realpath(given).catch(() => given)
    const found = await stat(path).catch(() => null)
    if (found?.isDirectory()) throw new UsageError(`--output ${given}: expected a file, found a folder`)
    if (found !== null && !found.isFile()) return appendTo(await open(path, 'a'))
    unlock = lockOutput(path)
    const memory = found === null ? NO_MEMORY : await remember(path, options)
    file = await open(path, constants.O_RDWR | constants.O_CREAT)
    await file.truncate(memory.end)
    return continued(given, file, memory, unlock)
  } catch (error) {
    await file?.close()
    unlock?.()
    const { code, message } = error as NodeJS.ErrnoException
    if (code === undefined) throw error
    if (code === 'ENOSPC' || code === 'EDQUOT') throw outputFailure(given, error as Error)
    // Without the name, which is that of the lock where the folder is not there.
    const found = message.replace(/, \w+ '.*$/s, '')
    throw new UsageError(`--output ${given}: expected a file that can be written, found: ${found}`)
  }
}

/** Lines of a file that is replaced are written this many characters at a time. */
const REWRITE_CHARS = 1024 * 1024

/** Reads the file; with --retry-failed it is replaced, in one step, by one without what failed. */
async function remember(path: string, { retryFailed, signal }: Omit<OpenOutputOptions, 'path'>): Promise<OutputMemory> {
  const memory = await readMemory(path, { dropFailed: retryFailed, signal })
  if (!retryFailed || memory.failed === 0) return memory
  const kept = await open(`${path}.retry`, 'w')
  try {
    let lines: string[] = []
    let chars = 0
    const flush = async (): Promise<void> => {
      await kept.appendFile(lines.join(''))
      lines = []
      chars = 0
    }
    const keep = (line: string): Promise<void> | void => {
      lines.push(`${line.trimEnd()}\n`)
      chars += line.length
      if (chars > REWRITE_CHARS) return flush()
    }
    await readMemory(path, { dropFailed: true, signal, keep })
    await flush()
    await kept.sync()
    const { size } = await kept.stat()
    await rename(`${path}.retry`, path)
    return { ...memory, failed: 0, end: size, unterminated: false }
  } finally {
    await kept.close()
  }
}

function continued(path: string, file: FileHandle, memory: OutputMemory, unlock: () => void): RunOutput {
  let end = memory.end
  let broken = memory.unterminated
  async function writeAll(bytes: Buffer): Promise<void> {
    let done = 0
    while (done < bytes.length) {
      const { bytesWritten } = await file.write(bytes, done, bytes.length - done, end + done)
      done += bytesWritten
    }
    end += bytes.length
  }
  return {
    memory,
    async put(text) {
      const bytes = Buffer.from(broken ? `\n${text}` : text)
      broken = false
      try {
        await writeAll(bytes)
      } catch (error) {
        // Whole lines of what could be written stay.
        const { size } = await file.stat()
        const fitted = bytes.subarray(0, Math.max(0, size - end))
        await file.truncate(end + fitted.lastIndexOf('\n') + 1)
        throw error
      }
    },
    async close() {
      try {
        // Some disks say only now that they are full.
        if (end > memory.end) await file.sync()
        await file.close()
      } catch (error) {
        throw outputFailure(path, error as Error)
      } finally {
        unlock()
      }
    },
  }
}

function appendTo(file: FileHandle): RunOutput {
  return {
    memory: NO_MEMORY,
    put: (text) => file.appendFile(text),
    close: () => file.close(),
  }
}

/** What to say when the output can no longer be written. */
export function outputFailure(path: string | null, error: Error): CommandError {
  if (error instanceof CommandError) return error
  return writeFailure(
    path ?? 'stdout',
    error,
    'every line in it is whole: free some and run again, it goes on from there',
  )
}
