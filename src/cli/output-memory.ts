/**
 * What an output file remembers of earlier runs (decision 29): which samples it has, and which of them failed. Reads it once, as a stream;
 * only the beginning of each line is looked at, and of a whole line only a few bytes are kept.
 */
import { createReadStream } from 'node:fs'
import { isRecord, type PromptLine } from '../input/line-fields.ts'
import { readLines } from '../input/lines.ts'
import { CommandError } from './io.ts'
import { createKeyTable, type KeyTable } from './key-table.ts'

export interface OutputMemory {
  /** Sample numbers of the line that the file does not have, in order; all of a batch request, or none. */
  missing(line: PromptLine): number[]
  /** Samples, and batch requests, that it has as failed. */
  readonly failed: number
  /** Bytes up to the last whole line; what follows was torn off by a kill. */
  readonly end: number
  /** True where the last line is whole but for its line break. */
  readonly unterminated: boolean
}

/** Lines as they are read; `keep` is told the text of each that stays. */
export interface ReadMemoryOptions {
  /** Forget what failed, so that it is run again. */
  readonly dropFailed: boolean
  readonly keep?: (line: string) => Promise<void> | void
  readonly signal: AbortSignal
}

export const NO_MEMORY: OutputMemory = {
  missing: ({ samples }) => Array.from({ length: samples }, (_, sample) => sample),
  failed: 0,
  end: 0,
  unterminated: false,
}

/** What Node can hold as one text. */
const LONGEST_BYTES = 500 * 1024 * 1024

/** @throws CommandError where the file is not an output of `run` */
export async function readMemory(path: string, options: ReadMemoryOptions): Promise<OutputMemory> {
  const done = createKeyTable()
  let [failed, end, unterminated] = [0, 0, false]
  for await (const line of readLines(createReadStream(path), LONGEST_BYTES)) {
    options.signal.throwIfAborted()
    const record = line.text === null ? null : recordOf(line.text, line.terminated)
    if (record === null) {
      if (!line.terminated && isTorn(line.text ?? line.head)) break
      throw new CommandError(
        `${path}: line ${line.number} is not one that run has written; choose another --output, or remove the file`,
      )
    }
    end = line.end
    unterminated = !line.terminated
    if (record.failed) {
      failed += 1
      if (options.dropFailed) continue
    }
    done.set(record.key, 1)
    await options.keep?.(line.text!)
  }
  return { missing: (line) => missing(done, line), failed, end, unterminated }
}

function missing(done: KeyTable, { id, samples, batch }: PromptLine): number[] {
  const all = NO_MEMORY.missing({ samples } as PromptLine)
  if (batch !== null) return done.get(batchKey(id)) === 0 ? all : []
  return all.filter((sample) => done.get(sampleKey(id, sample)) === 0)
}

function sampleKey(id: unknown, sample: number): string {
  return `${sample} ${String(id)}`
}

function batchKey(id: unknown): string {
  return `batch ${String(id)}`
}

interface Recorded {
  readonly key: string
  readonly failed: boolean
}

/** The fields that come first in what completion-line.ts writes. */
const SAMPLE = /^\{"id":("(?:[^"\\]|\\.)*"|-?\d+),"sample":(\d+),"outcome":"(\w+)",.*\}$/s
const BATCH = /^\{"id":"batch_req_\w+","custom_id":("(?:[^"\\]|\\.)*"|-?\d+),"error":(null|\{).*\}$/s

/** A line without its line break may be torn where it looks whole, and is read to its end. */
function recordOf(line: string, terminated: boolean): Recorded | null {
  const text = line.trimEnd()
  if (!terminated) return parsed(text)
  const own = SAMPLE.exec(text)
  if (own !== null) return { key: sampleKey(JSON.parse(own[1]!), Number(own[2])), failed: own[3] !== 'completed' }
  const batch = BATCH.exec(text)
  if (batch !== null) return { key: batchKey(JSON.parse(batch[1]!)), failed: batch[2] !== 'null' }
  return parsed(text)
}

/** Also what another program wrote again, with its fields in another order. */
function parsed(text: string): Recorded | null {
  try {
    const value: unknown = JSON.parse(text)
    if (!isRecord(value)) return null
    const { id, sample, outcome, custom_id: customId, error } = value
    if (customId !== undefined && error !== undefined) return { key: batchKey(customId), failed: error !== null }
    if (typeof sample !== 'number' || typeof outcome !== 'string' || id === undefined) return null
    return { key: sampleKey(id, sample), failed: outcome !== 'completed' }
  } catch {
    return null
  }
}

/** Begins like one of our lines, or is what a lost machine left of one. */
function isTorn(text: string): boolean {
  const begin = '{"id":'
  return text.startsWith(begin) || begin.startsWith(text) || text.startsWith('\0')
}
