/**
 * The check of a saved state: read from a file, it may be anything. Everything wrong with it is found before any of it is used.
 */
import { checkBoolean, checkInteger, checkNumber, checkOneOf } from '../checks.ts'
import { errorTable, RolloutError } from '../errors.ts'
import { isRecord, type Report, show } from '../problems.ts'
import { checkTask } from './check-task.ts'
import { SAVED_FORMAT, SAVED_VERSION, type SavedState } from './saved.ts'
import { decodeIds, decodeLogprobs } from './saved-values.ts'
import type { CheckedTask, Task } from './task.ts'

/** A saved state that can be used, with the tasks as if they were submitted. */
export interface CheckedState extends SavedState {
  readonly specs: readonly CheckedTask[]
}

const OUTCOMES = ['completed', 'failed', 'cancelled', 'expired'] as const
const LANES = ['evaluation', 'interrupted', 'retry', 'started', 'fresh'] as const
const REASONS = ['finished', 'interrupted', 'failed', 'busy', 'cancelled', 'timedOut'] as const
const COUNT = { min: 0 }
type Fields = Record<string, unknown>

/** Null where nothing was given, or what was given cannot be used: the report says why. */
export function checkSaved(value: unknown, report: Report): CheckedState | null {
  if (value === undefined) return null
  if (!isRecord(value) || value.format !== SAVED_FORMAT) {
    report('restore', 'what save() returned', isRecord(value) ? `format ${show(value.format)}` : show(value))
    return null
  }
  if (value.version !== SAVED_VERSION) {
    const advice = 'restore it with the version of rollout-supervisor that saved it'
    report(
      'restore.version',
      `${SAVED_VERSION}, the format that this version of rollout-supervisor reads (${advice})`,
      show(value.version),
    )
    return null
  }
  let found = 0
  const count: Report = (path, expected, what) => {
    found++
    report(`restore.${path}`, expected, what)
  }
  checkInteger(count, 'weights', value.weights ?? undefined, COUNT, null)
  number(value, 'at', '', count)
  const last = section(value, 'last', '', count)
  for (const key of ['task', 'request', 'episode']) integer(last, key, 'last', count)
  const ended = section(value, 'ended', '', count)
  for (const key of OUTCOMES) integer(ended, key, 'ended', count)
  const leftOut = section(value, 'leftOut', '', count)
  for (const key of ['episodes', 'signals']) integer(leftOut, key, 'leftOut', count)
  const specs = list(value, 'tasks', '', count).map((task, at) => checkSavedTask(task, `tasks[${at}]`, count))
  list(value, 'unread', '', count).forEach((each, at) => void checkCompletion(each, `unread[${at}]`, count))
  if (found === 0) checkWhole(value as unknown as SavedState, count)
  return found > 0 ? null : ({ ...value, specs } as unknown as CheckedState)
}

/** The task as a trainer would have submitted it, checked as that is. */
function checkSavedTask(value: unknown, path: string, report: Report): CheckedTask | null {
  if (!isRecord(value)) {
    report(path, 'a task', show(value))
    return null
  }
  const { prompt, sampling, sessionId, minVersion, meta } = value
  const ids = isRecord(prompt) ? decodeIds(prompt.ids) : null
  if (isRecord(prompt) && ids === null) report(`${path}.prompt.ids`, 'token ids in base64', show(prompt.ids))
  if (value.promptIds !== null && decodeIds(value.promptIds) === null)
    report(`${path}.promptIds`, 'token ids in base64, or null', show(value.promptIds))
  checkOneOf(report, `${path}.keptFor`, value.keptFor ?? undefined, ['rollout', 'batches'], 'rollout')
  checkBoolean(report, `${path}.started`, value.started ?? null, false)
  number(value, 'submittedAt', path, report)
  list(value, 'completions', path, report).forEach(
    (each, at) => void checkCompletion(each, `${path}.completions[${at}]`, report),
  )
  list(value, 'begun', path, report).forEach((each, at) => void checkSample(each, `${path}.begun[${at}]`, report))
  const { seed, ...rest } = isRecord(sampling) ? sampling : ({} as Fields)
  const task = {
    id: value.id,
    prompt: ids ?? prompt,
    sampling: isRecord(sampling) ? (seed === null ? rest : sampling) : sampling,
    samples: value.samples,
    kind: value.kind,
    priority: value.priority,
    sessionId: sessionId ?? undefined,
    minVersion: minVersion ?? undefined,
    meta,
  }
  if (value.id === undefined) report(`${path}.id`, 'an id', 'nothing')
  try {
    return checkTask(task as unknown as Task, null)
  } catch (error) {
    if (!RolloutError.isInstance(error)) throw error
    for (const problem of error.problems) report(`${path}.${problem.path}`, problem.expected, problem.found)
    return null
  }
}

function checkSample(value: unknown, path: string, report: Report): void {
  if (!isRecord(value)) {
    report(path, 'a sample', show(value))
    return
  }
  integer(value, 'sample', path, report)
  for (const key of ['waitedMs', 'heldMs', 'fruitless', 'restarts']) number(value, key, path, report)
  if (value.firstTokenAt !== null) number(value, 'firstTokenAt', path, report)
  const length = value.tokens === null ? 0 : checkTokens(value.tokens, `${path}.tokens`, report)
  checkSegments(value, length, path, report)
}

function checkCompletion(value: unknown, path: string, report: Report): void {
  if (!isRecord(value)) {
    report(path, 'a completion', show(value))
    return
  }
  if (typeof value.taskId !== 'string') report(`${path}.taskId`, 'an id', show(value.taskId))
  integer(value, 'sample', path, report)
  checkOneOf(report, `${path}.kind`, value.kind ?? null, ['rollout', 'evaluation'], 'rollout')
  checkOneOf(report, `${path}.outcome`, value.outcome ?? null, OUTCOMES, 'failed')
  checkOneOf(report, `${path}.finishReason`, value.finishReason ?? undefined, ['stop', 'length', 'toolCalls'], 'stop')
  const timings = section(value, 'timings', path, report)
  for (const key of ['waitedMs', 'totalMs']) number(timings, key, `${path}.timings`, report)
  if (timings.firstTokenMs !== null) number(timings, 'firstTokenMs', `${path}.timings`, report)
  const { error } = value
  if (error !== null && !(isRecord(error) && String(error.code) in errorTable && typeof error.message === 'string'))
    report(`${path}.error`, 'null, or { code, message } with a code of errorTable', show(error))
  checkSegments(value, checkTokens(value.tokens, `${path}.tokens`, report), path, report)
}

/** How many there are. */
function checkTokens(value: unknown, path: string, report: Report): number {
  if (!isRecord(value)) {
    report(path, 'tokens', show(value))
    return 0
  }
  const ids = decodeIds(value.ids)
  const length = ids?.length ?? 0
  if (ids === null) report(`${path}.ids`, 'token ids in base64', show(value.ids))
  if (ids?.some((id) => id < 0) === true) report(`${path}.ids`, 'token ids of at least 0', 'a negative one')
  const logprobs = value.logprobs === null ? null : decodeLogprobs(value.logprobs)
  if (value.logprobs !== null && logprobs?.length !== length)
    report(
      `${path}.logprobs`,
      `${length} log-probabilities in base64, or null`,
      logprobs === null ? show(value.logprobs) : `${logprobs.length}`,
    )
  checkOneOf(report, `${path}.basis`, value.basis ?? null, ['sampled', 'raw'], 'sampled')
  if (value.text !== null && typeof value.text !== 'string') report(`${path}.text`, 'text, or null', show(value.text))
  let end = 0
  for (const [at, span] of list(value, 'versions', path, report).entries()) {
    const fits = isRecord(span) && span.start === end && Number.isInteger(span.end) && (span.end as number) > end
    const version = isRecord(span) ? span.version : undefined
    if (!fits || !(version === null || Number.isInteger(version))) {
      report(
        `${path}.versions[${at}]`,
        `{ version, start: ${end}, end }`,
        isRecord(span) ? JSON.stringify(span) : show(span),
      )
      return length
    }
    end = span.end as number
  }
  if (end !== length) report(`${path}.versions`, `spans of all ${length} tokens`, `spans of ${end}`)
  return length
}

function checkSegments(value: Fields, length: number, path: string, report: Report): void {
  let end = 0
  for (const [at, segment] of list(value, 'segments', path, report).entries()) {
    const where = `${path}.segments[${at}]`
    const fits =
      isRecord(segment) &&
      typeof segment.instance === 'string' &&
      typeof segment.attempt === 'string' &&
      (segment.firstTokenAt === null || typeof segment.firstTokenAt === 'number') &&
      segment.start === end &&
      Number.isInteger(segment.end) &&
      (segment.end as number) >= end
    if (!fits) {
      report(where, `a segment that starts at ${end}`, isRecord(segment) ? JSON.stringify(segment) : show(segment))
      return
    }
    checkOneOf(report, `${where}.reason`, segment.reason ?? null, REASONS, 'failed')
    for (const key of ['placedAt', 'endedAt']) number(segment, key, where, report)
    end = segment.end as number
  }
  if (end !== length) report(`${path}.segments`, `segments of all ${length} tokens`, `segments of ${end}`)
}

/** Every sample of every task once: waiting in line, or ended; ids once. */
function checkWhole({ tasks, line }: SavedState, report: Report): void {
  const seen = tasks.map(({ samples }) => new Uint8Array(samples))
  const ids = new Set<string>()
  for (const [at, { id, samples, completions, begun }] of tasks.entries()) {
    if (ids.has(id)) report(`tasks[${at}].id`, 'an id of its own', show(id))
    ids.add(id)
    const done = new Set(completions.map(({ sample }) => sample))
    for (const { taskId, sample } of completions) {
      if (taskId !== id || sample >= samples)
        report(`tasks[${at}].completions`, `samples of ${id} below ${samples}`, `${taskId}/${sample}`)
      else seen[at]![sample]!++
    }
    for (const { sample } of begun)
      if (sample >= samples || done.has(sample))
        report(`tasks[${at}].begun`, 'samples that have not ended', `${sample}`)
  }
  const lanes: Fields = isRecord(line) ? line : {}
  for (const lane of LANES) {
    const pairs = lanes[lane]
    if (!Array.isArray(pairs) || pairs.length % 2 !== 0) {
      report(`line.${lane}`, 'pairs of a task and a sample', show(pairs))
      continue
    }
    for (let at = 0; at < pairs.length; at += 2) {
      const samples = seen[pairs[at] as number]
      const sample = pairs[at + 1] as number
      if (samples?.[sample] === undefined)
        report(`line.${lane}[${at}]`, 'a sample of a task', `${show(pairs[at])}, ${show(sample)}`)
      else samples[sample]!++
    }
  }
  for (const [at, samples] of seen.entries()) {
    const wrong = samples.findIndex((times) => times !== 1)
    if (wrong >= 0)
      report(`tasks[${at}]`, 'every sample once, in line or ended', `sample ${wrong} ${samples[wrong]} times`)
  }
}

function number(value: Fields, key: string, path: string, report: Report): void {
  checkNumber(report, path === '' ? key : `${path}.${key}`, value[key] ?? null, {}, 0)
}
function integer(value: Fields, key: string, path: string, report: Report): void {
  checkInteger(report, `${path}.${key}`, value[key] ?? null, COUNT, 0)
}
function list(value: Fields, key: string, path: string, report: Report): readonly unknown[] {
  const found = value[key]
  if (Array.isArray(found)) return found
  report(path === '' ? key : `${path}.${key}`, 'an array', show(found))
  return []
}
function section(value: Fields, key: string, path: string, report: Report): Fields {
  const found = value[key]
  if (isRecord(found)) return found
  report(path === '' ? key : `${path}.${key}`, 'an object', show(found))
  return {}
}
