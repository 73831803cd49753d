/**
 * From input lines to output lines: each line is read, checked and submitted only when the window has room, and each sample is written
 * when it ends. What was cancelled is not written, so that the next run finds it missing. Every (line id, sample) is submitted at most once.
 */
import { type Completion, RolloutError, type Supervisor, type Task } from '../index.ts'
import { type BatchRequest, nameIn, type PromptLine } from '../input/line-fields.ts'
import { type LineDefaults, LineProblem, parseLine, seedOf } from '../input/prompt-line.ts'
import { batchLine, sampleLine } from './completion-line.ts'
import type { RunInput } from './input.ts'
import { createKeyTable } from './key-table.ts'
import type { LineSink } from './line-sink.ts'
import type { OutputMemory } from './output-memory.ts'
import type { FirstFailure, RunCounts } from './run-progress.ts'
import type { Window } from './window.ts'

export interface RunWork {
  readonly input: RunInput
  readonly memory: OutputMemory
  readonly supervisor: Supervisor
  readonly sink: LineSink
  readonly window: Window
  readonly defaults: LineDefaults
  readonly counts: RunCounts
  /** Says that a line of the input cannot be used. */
  readonly complain: (line: number, words: string) => void
  readonly signal: AbortSignal
}

/** A submitted line, carried by its task. */
interface Entry {
  readonly line: PromptLine
  /** Sample numbers of the line by sample numbers of the task. */
  readonly samples: readonly number[]
  readonly bytes: number
  /** Of a batch request, which is written whole. */
  readonly completions: Completion[]
  /** Samples not written yet. */
  left: number
}

/** Submits what the input has and the output lacks. Resolves at the end of the input, or when the signal is aborted. */
export async function submitLines(work: RunWork): Promise<void> {
  const { input, counts, window, signal } = work
  const seen = createKeyTable()
  const refuse = (number: number, words: string): void => {
    counts.unusable += 1
    work.complain(number, words)
  }
  let before = 0
  for await (const { number, text, problem, end } of input.lines(signal)) {
    counts.lines += 1
    const bytes = end - before
    before = end
    let line: PromptLine | null = null
    try {
      if (text === null) throw new LineProblem(problem!)
      line = parseLine(text, work.defaults)
      const first = seen.get(String(line.id))
      if (first !== 0)
        throw new LineProblem(`expected an id of its own, found ${JSON.stringify(line.id)} also in line ${first}`)
      const samples = work.memory.missing(line)
      if (samples.length > 0) {
        await window.room(samples.length, bytes)
        if (signal.aborted) return
        submit(work, { line, samples, bytes, completions: [], left: samples.length })
      }
      seen.set(String(line.id), number)
      counts.skipped += line.samples - samples.length
      counts.samples += line.samples
    } catch (error) {
      refuse(number, wordsOf(error, line))
    }
    if (input.bytes !== null) counts.read = Math.min(1, end / input.bytes)
    if (signal.aborted) return
  }
  if (!signal.aborted) counts.read = 1
}

function submit({ supervisor, window }: RunWork, entry: Entry): void {
  const { line, samples, bytes } = entry
  const { seed } = line.sampling
  // The rest of a group that was begun earlier must not draw the numbers that its first part has drawn.
  const rest = seed !== undefined && samples.length < line.samples
  const sampling = rest ? { ...line.sampling, seed: seedOf(seed, samples) } : line.sampling
  const task: Task<Entry> = { prompt: line.prompt, samples: samples.length, sampling, meta: entry }
  supervisor.submit(task)
  window.take(samples.length, bytes)
}

/** Writes what ends, from now on. @returns stops it */
export function writeCompletions({ supervisor, sink, window, counts }: RunWork): () => void {
  const subscription = supervisor.completions$.subscribe((completion) => {
    const entry = completion.meta as Entry
    if (completion.outcome === 'cancelled') return
    if (completion.outcome === 'completed') counts.completed += 1
    else {
      counts.failed += 1
      counts.firstFailure ??= failureOf(entry, completion)
    }
    counts.tokens += completion.tokenIds.length
    const written = (number: number): void => {
      entry.left -= number
      window.give(number, entry.left === 0 ? entry.bytes : 0)
    }
    const { line, completions, samples } = entry
    const { batch } = line
    if (batch === null) {
      sink.write(sampleLine(line, samples[completion.sample]!, completion), () => written(1))
      return
    }
    completions.push(completion)
    if (completions.length < samples.length) return
    completions.sort((a, b) => a.sample - b.sample)
    const request: PromptLine & { readonly batch: BatchRequest } = { ...line, batch }
    sink.write(batchLine(request, completions, Math.floor(Date.now() / 1_000)), () => written(completions.length))
  })
  return () => subscription.unsubscribe()
}

function failureOf({ line, samples }: Entry, { sample, outcome, error }: Completion): FirstFailure {
  return { id: line.id, sample: samples[sample]!, code: error?.code ?? null, message: error?.message ?? outcome }
}

/** What is wrong with a line; anything else is not about the line, and is thrown. */
function wordsOf(error: unknown, line: PromptLine | null): string {
  if (error instanceof LineProblem) return error.message
  if (!RolloutError.isInstance(error) || error.code !== 'INVALID_TASK') throw error
  const problems = error.problems.map(({ path, expected, found }) => {
    const name = line === null ? path : nameIn(line, path)
    return `${name}: expected ${expected}, found ${found}`
  })
  return problems.length === 0 ? error.message : problems.join('; ')
}
