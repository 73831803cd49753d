/**
 * The check of a task: everything wrong with it is found before any of it is admitted, and said in one error.
 */
import { checkBoolean, checkInteger, checkNumber, checkOneOf } from '../checks.ts'
import { RolloutError } from '../errors.ts'
import { isRecord, type Problem, problemList, type Report, rejectUnknownKeys, show } from '../problems.ts'
import { type CheckedSampling, type CheckedTask, MAX_SAMPLES, type Prompt, type Task } from './task.ts'

const TASK_KEYS = [
  'prompt',
  'sampling',
  'samples',
  'kind',
  'id',
  'priority',
  'sessionId',
  'minVersion',
  'meta',
  'signal',
] as const
const SAMPLING_KEYS = [
  'maxTokens',
  'minTokens',
  'temperature',
  'topP',
  'topK',
  'minP',
  'stop',
  'stopTokenIds',
  'ignoreEos',
  'seed',
] as const

/** Above any vocabulary in use; keeps ids inside Int32Array. */
const MAX_TOKEN_ID = 2 ** 31 - 1

/** Ids make request lines and file names: a few hundred printable characters. */
const MAX_ID_LENGTH = 200

const DEFAULT_MAX_TOKENS = 1024

const AT_LEAST_0 = { min: 0 }
/** Shared by all tasks that name none: there may be a million of them waiting. */
const NONE: readonly never[] = []

/** What a task has that names none. */
export const DEFAULT_SAMPLING: CheckedSampling = {
  maxTokens: DEFAULT_MAX_TOKENS,
  minTokens: 0,
  temperature: 1,
  topP: 1,
  topK: -1,
  minP: 0,
  stop: NONE,
  stopTokenIds: NONE,
  ignoreEos: false,
  seed: null,
}

/**
 * Checks a task whole and fills in its defaults.
 * @param vocabularySize largest known vocabulary of the fleet, or null
 * @throws RolloutError INVALID_TASK that lists every problem
 */
export function checkTask(task: Task, vocabularySize: number | null): CheckedTask {
  const problems: Problem[] = []
  const report: Report = (path, expected, found) => problems.push({ path, expected, found: String(found) })
  if (!isRecord(task)) {
    report('task', 'an object with a prompt', show(task))
    throw invalid(problems)
  }
  rejectUnknownKeys(task, TASK_KEYS, '', report)
  const maxTokenId = checkPrompt(task.prompt, report)
  if (vocabularySize !== null && maxTokenId >= vocabularySize) {
    const index = (task.prompt as readonly number[]).indexOf(maxTokenId)
    report(`prompt[${index}]`, `a token id below ${vocabularySize}, the size of the vocabulary`, show(maxTokenId))
  }
  const checked: CheckedTask = {
    prompt: task.prompt,
    maxTokenId,
    sampling: task.sampling === undefined ? DEFAULT_SAMPLING : checkSampling(task.sampling, report),
    samples: checkInteger(report, 'samples', task.samples, { min: 1, max: MAX_SAMPLES }, 1),
    kind: checkOneOf(report, 'kind', task.kind, ['rollout', 'evaluation'], 'rollout'),
    priority: checkNumber(report, 'priority', task.priority, {}, 0),
    sessionId: checkName(report, 'sessionId', task.sessionId),
    minVersion: checkInteger(report, 'minVersion', task.minVersion, { min: 0 }, null),
    meta: task.meta,
    signal: task.signal,
  }
  checkName(report, 'id', task.id)
  if (task.signal !== undefined && !(task.signal instanceof AbortSignal))
    report('signal', 'an AbortSignal', show(task.signal))
  if (problems.length > 0) throw invalid(problems)
  return checked
}

/** An id that the user gives to something, or null. */
export function checkName(report: Report, path: string, name: unknown): string | null {
  if (name === undefined) return null
  if (typeof name === 'string' && name !== '' && name.length <= MAX_ID_LENGTH) return name
  report(path, `a string of 1 to ${MAX_ID_LENGTH} characters`, show(name))
  return null
}

function invalid(problems: readonly Problem[]): RolloutError {
  return new RolloutError('INVALID_TASK', `the task cannot be run:\n${problemList(problems)}`, { problems })
}

/** The largest token id of the prompt, or -1 for text. */
function checkPrompt(prompt: Prompt, report: Report): number {
  if (typeof prompt === 'string') {
    if (prompt === '') report('prompt', 'text that is not empty', '"" (string)')
    return -1
  }
  if (prompt instanceof Int32Array || (Array.isArray(prompt) && typeof prompt[0] === 'number')) {
    return checkTokenIds(prompt as readonly number[], 'prompt', report)
  }
  if (!Array.isArray(prompt)) {
    report('prompt', 'token ids, text, or chat messages', show(prompt))
    return -1
  }
  if (prompt.length === 0) report('prompt', 'at least one token id or message', 'an empty array')
  for (const [index, message] of prompt.entries()) {
    if (!isRecord(message) || typeof message.role !== 'string' || typeof message.content !== 'string') {
      report(`prompt[${index}]`, 'a token id in a list of them, or { role, content } with two strings', show(message))
      break
    }
  }
  return -1
}

function checkTokenIds(ids: readonly number[] | Int32Array, path: string, report: Report): number {
  let largest = -1
  if (ids.length === 0) report(path, 'at least one token id', 'an empty array')
  for (let index = 0; index < ids.length; index++) {
    const id = ids[index] as unknown
    if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id > MAX_TOKEN_ID) {
      report(`${path}[${index}]`, 'a token id, an integer of at least 0', show(id))
      return largest
    }
    if (id > largest) largest = id
  }
  return largest
}

/** Of a task, or of the turns of an episode. */
export function checkSampling(sampling: unknown, report: Report): CheckedSampling {
  if (!isRecord(sampling)) {
    report('sampling', 'an object', show(sampling))
    return DEFAULT_SAMPLING
  }
  rejectUnknownKeys(sampling, SAMPLING_KEYS, 'sampling', report)
  const topK = checkInteger(report, 'sampling.topK', sampling.topK, { min: -1 }, -1)
  const checked: CheckedSampling = {
    maxTokens: checkInteger(report, 'sampling.maxTokens', sampling.maxTokens, { min: 1 }, DEFAULT_MAX_TOKENS),
    minTokens: checkInteger(report, 'sampling.minTokens', sampling.minTokens, AT_LEAST_0, 0),
    temperature: checkNumber(report, 'sampling.temperature', sampling.temperature, AT_LEAST_0, 1),
    topP: checkNumber(report, 'sampling.topP', sampling.topP, { min: 0, max: 1, exclusive: true }, 1),
    topK: topK === 0 ? -1 : topK,
    minP: checkNumber(report, 'sampling.minP', sampling.minP, { min: 0, max: 1 }, 0),
    stop: checkList(
      sampling.stop,
      (each) => typeof each === 'string' && each !== '',
      'sampling.stop',
      ['strings', 'a string that is not empty'],
      report,
    ),
    stopTokenIds: checkList(
      sampling.stopTokenIds,
      (each) => Number.isInteger(each) && (each as number) >= 0 && (each as number) <= MAX_TOKEN_ID,
      'sampling.stopTokenIds',
      ['token ids', 'a token id, an integer of at least 0'],
      report,
    ),
    ignoreEos: checkBoolean(report, 'sampling.ignoreEos', sampling.ignoreEos, false),
    seed: checkInteger(report, 'sampling.seed', sampling.seed, AT_LEAST_0, null),
  }
  if (checked.minTokens > checked.maxTokens) {
    report('sampling.minTokens', `at most maxTokens, ${checked.maxTokens}`, show(checked.minTokens))
  }
  return checked
}

function checkList<T>(
  value: unknown,
  fits: (each: unknown) => boolean,
  path: string,
  [many, one]: readonly [many: string, one: string],
  report: Report,
): readonly T[] {
  if (value === undefined) return NONE
  if (!Array.isArray(value)) {
    report(path, `an array of ${many}`, show(value))
    return NONE
  }
  // Holes as well.
  const index = value.findIndex((each) => !fits(each))
  if (index < 0) return value as readonly T[]
  report(`${path}[${index}]`, one, show(value[index]))
  return NONE
}
