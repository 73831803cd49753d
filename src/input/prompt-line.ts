/**
 * One line of `run`'s input, in either form: our own, `{"id", "prompt" | "messages" | "promptTokenIds", "samples"?, "sampling"?, "meta"?}`,
 * or that of the OpenAI batch API (batch-line.ts). Everything wrong with a line is said at once.
 */
import { hash } from 'node:crypto'
import type { Prompt, Sampling } from '../rollout/task.ts'
import { readBatchLine } from './batch-line.ts'
import {
  excerpt,
  found,
  isRecord,
  type PromptLine,
  type ReadLine,
  type ReportProblem,
  readCount,
  readId,
} from './line-fields.ts'

/** What the flags say where a line does not. */
export interface LineDefaults {
  readonly samples: number
  readonly sampling: Sampling
}

/** A line that cannot be used. */
export class LineProblem extends Error {
  override readonly name = 'LineProblem'
}

const KEYS = ['id', 'prompt', 'messages', 'promptTokenIds', 'samples', 'sampling', 'meta'] as const
const PROMPTS = ['prompt', 'messages', 'promptTokenIds'] as const

/** @throws LineProblem that names everything wrong with the line */
export function parseLine(text: string, defaults: LineDefaults): PromptLine {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw new LineProblem(`expected a JSON object, found: ${error instanceof Error ? excerpt(error.message) : error}`)
  }
  if (!isRecord(value)) throw new LineProblem(`expected a JSON object, found ${found(value)}`)
  const problems: string[] = []
  const read = 'custom_id' in value ? readBatchLine : readOwnLine
  const line = read(value, (path, expected, given) =>
    problems.push(`${path}: expected ${expected}, found ${found(given)}`),
  )
  if (problems.length > 0) throw new LineProblem(problems.join('; '))
  const { seed } = defaults.sampling
  const fresh = seed === undefined ? {} : { seed: seedOf(seed, line.id) }
  return {
    ...line,
    samples: line.samples ?? defaults.samples,
    sampling: { ...defaults.sampling, ...fresh, ...line.sampling },
  }
}

/** A seed of the same width for each line, so that two lines with one prompt differ. */
export function seedOf(seed: number, ...salt: readonly unknown[]): number {
  return hash('sha1', JSON.stringify([seed, ...salt]), 'buffer').readUInt32LE(0)
}

function readOwnLine(value: Record<string, unknown>, report: ReportProblem): ReadLine {
  for (const key of Object.keys(value)) {
    if (!(KEYS as readonly string[]).includes(key))
      report(key, `one of ${KEYS.join(', ')} (fields of your own belong into meta)`, 'an unknown key')
  }
  const given = PROMPTS.filter((key) => value[key] != null)
  if (given.length !== 1)
    report(PROMPTS.join(' | '), 'one of them', given.length === 0 ? undefined : given.join(' and '))
  const [key] = given
  if (key === 'prompt' && typeof value.prompt !== 'string')
    report('prompt', 'text (token ids belong into promptTokenIds, chat into messages)', value.prompt)
  if (key === 'promptTokenIds' && !(Array.isArray(value[key]) && value[key].every((id) => typeof id === 'number')))
    report('promptTokenIds', 'an array of token ids', value.promptTokenIds)
  if (key === 'messages' && !(Array.isArray(value[key]) && value[key].every(isRecord)))
    report('messages', 'an array of { role, content }', value.messages)
  if (value.sampling != null && !isRecord(value.sampling)) report('sampling', 'an object', value.sampling)
  return {
    id: readId('id', value.id, report),
    prompt: value[key ?? 'prompt'] as Prompt,
    samples: readCount('samples', value.samples, report),
    sampling: (value.sampling ?? {}) as Sampling,
    meta: value.meta ?? null,
    names: { prompt: key ?? 'prompt' },
    batch: null,
  }
}
