/**
 * Tasks out of a file of JSON lines, as `rollout-supervisor run` reads them: a source for `batches()`. One line is read when a task is asked
 * for, so a file of any size takes the memory of its longest line.
 */
import { createReadStream } from 'node:fs'
import { messageOf, RolloutError } from '../errors.ts'
import type { Sampling, Task } from '../rollout/task.ts'
import { readLines } from './lines.ts'
import { parseLine, seedOf } from './prompt-line.ts'

/** Options of `readTasks()`. */
export interface ReadTasksOptions {
  /** Samples of a line that does not say. @default 1 */
  readonly samples?: number
  /** What a line does not say; a seed is mixed with the id of the line, and with the number of the pass. */
  readonly sampling?: Sampling
  /** Begins again at the end, without end. @default false */
  readonly repeat?: boolean
  /** Told of a line that cannot be used, which is then left out. @default such a line is an error */
  readonly onProblem?: (line: number, problem: string) => void
}

/** A prompt of some millions of tokens still fits; a file without line breaks does not fill the memory. */
const LONGEST_LINE_BYTES = 64 * 1024 * 1024

/**
 * Reads a file of JSON lines, `{"id", "prompt" | "messages" | "promptTokenIds", "samples"?, "sampling"?, "meta"?}` or the OpenAI batch form.
 * The id of a line becomes the id of its task.
 * @throws RolloutError, as it is read: SOURCE_FAILED when the file cannot be read, or has no line that can be used; INVALID_TASK
 */
export async function* readTasks(path: string | URL, options: ReadTasksOptions = {}): AsyncGenerator<Task, void> {
  const { samples = 1, sampling = {}, repeat = false } = options
  for (let pass = 0; pass === 0 || repeat; pass++) {
    const { seed } = sampling
    const fresh = seed === undefined || pass === 0 ? {} : { seed: seedOf(seed, pass) }
    let usable = 0
    for await (const { line, text, problem } of linesOf(path)) {
      const task = taskOf(
        path,
        line,
        text,
        problem,
        { samples, sampling: { ...sampling, ...fresh } },
        options.onProblem,
      )
      if (task === null) continue
      usable++
      yield task
    }
    if (usable === 0 && repeat) throw new RolloutError('SOURCE_FAILED', `expected tasks in ${path}, found none`)
  }
}

async function* linesOf(path: string | URL) {
  const stream = createReadStream(path)
  try {
    for await (const { number, text, problem } of readLines(stream, LONGEST_LINE_BYTES))
      yield { line: number, text, problem }
  } catch (cause) {
    throw new RolloutError('SOURCE_FAILED', `${path}: cannot be read: ${messageOf(cause)}`, { cause })
  } finally {
    stream.destroy()
  }
}

function taskOf(
  path: string | URL,
  line: number,
  text: string | null,
  problem: string | null,
  defaults: { readonly samples: number; readonly sampling: Sampling },
  onProblem: ReadTasksOptions['onProblem'],
): Task | null {
  try {
    if (text === null) throw new Error(problem ?? 'it is empty')
    const { id, prompt, samples, sampling, meta } = parseLine(text, defaults)
    return { id: String(id), prompt, samples, sampling, meta }
  } catch (cause) {
    if (onProblem === undefined)
      throw new RolloutError('INVALID_TASK', `${path}, line ${line}: ${messageOf(cause)}`, { cause })
    onProblem(line, messageOf(cause))
    return null
  }
}
