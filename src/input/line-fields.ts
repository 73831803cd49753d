/**
 * What both forms of an input line have in common: the line as `run` sees it, and the checks of single fields.
 */
import { isRecord } from '../problems.ts'
import type { Prompt, Sampling } from '../rollout/task.ts'

export { isRecord }

export interface PromptLine {
  readonly id: string | number
  readonly prompt: Prompt
  readonly samples: number
  readonly sampling: Sampling
  readonly meta: unknown
  /** What the line calls the parts of a task, where it has other names: `prompt`, `sampling.maxTokens`. */
  readonly names: Readonly<Record<string, string>>
  /** Set for a line of the batch form, which is answered in one line, in that form. */
  readonly batch: BatchRequest | null
}

/** What the answer needs to know of the request. */
export interface BatchRequest {
  readonly chat: boolean
  readonly model: string | null
  readonly logprobs: boolean
  /** Known only where the prompt is token ids. */
  readonly promptTokens: number | null
}

/** A path into the task as the line has it. */
export function nameIn({ names }: PromptLine, path: string): string {
  const [whole, base = '', rest = ''] = /^([\w.]+)(.*)$/.exec(path) ?? [path]
  return base in names ? `${names[base]}${rest}` : whole
}

export type ReportProblem = (path: string, expected: string, given: unknown) => void

/** Samples and sampling only as far as the line says. */
export type ReadLine = Omit<PromptLine, 'samples'> & { readonly samples: number | null }

export function readId(path: string, value: unknown, report: ReportProblem): string | number {
  if ((typeof value === 'string' && value !== '') || Number.isSafeInteger(value)) return value as string | number
  report(path, 'text that is not empty, or an integer', value)
  return ''
}

/** As many as one task may have. */
const MOST_SAMPLES = 1_024

export function readCount(path: string, value: unknown, report: ReportProblem): number | null {
  if (value == null) return null
  if (Number.isInteger(value) && (value as number) >= 1 && (value as number) <= MOST_SAMPLES) return value as number
  report(path, `an integer from 1 to ${MOST_SAMPLES}`, value)
  return null
}

const EXCERPT_CHARS = 80

export function found(value: unknown): string {
  if (value === undefined) return 'nothing'
  return typeof value === 'string' && value === 'an unknown key' ? value : excerpt(JSON.stringify(value))
}

/** On one line, and short. */
export function excerpt(text: string): string {
  const line = text.replace(/\s+/g, ' ')
  return line.length > EXCERPT_CHARS ? `${line.slice(0, EXCERPT_CHARS)}…` : line
}
