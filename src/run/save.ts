/**
 * `save()`: the run at one moment as plain data, without stopping anything (decision 29). What runs is written as interrupted, with the tokens that
 * have come; groups that are not whole keep the completions they have; what was handed out is not in it.
 */
import { RolloutError } from '../errors.ts'
import { type Problem, problemList, type Report } from '../problems.ts'
import type { Segment } from '../rollout/completion.ts'
import { type LiveTask, type Output, type Sample, spansUntil, tokenCount } from '../rollout/sample.ts'
import {
  SAVED_FORMAT,
  SAVED_VERSION,
  type SavedSample,
  type SavedState,
  type SavedTask,
  type SavedTokens,
} from '../rollout/saved.ts'
import { encode, encodeIds, plain, saveCompletion, saveSegments } from '../rollout/saved-values.ts'
import { isTokenIds } from '../rollout/task.ts'
import type { QueueLane } from '../rollout/waiter.ts'
import { type Attempt, mustBeOpen, type Run } from './run.ts'
import { isResumable, spansSoFar } from './segment.ts'
import { laneOf } from './waitlist.ts'

/** @throws RolloutError NOT_SAVABLE that names every task whose `meta` JSON cannot hold */
export function saveRun(run: Run): SavedState {
  mustBeOpen(run, 'save')
  const problems: Problem[] = []
  const report: Report = (path, expected, found) => problems.push({ path, expected, found: String(found) })
  const tasks = [...new Set([...run.tasks.values(), ...run.kept.keys(), ...run.carried, ...run.orphans])].filter(
    ({ episode }) => episode === null,
  )
  const index = new Map(tasks.map((task, at) => [task, at]))
  const state: SavedState = {
    format: SAVED_FORMAT,
    version: SAVED_VERSION,
    weights: run.version,
    at: run.clock.now(),
    last: { task: run.lastTask, request: run.lastRequest, episode: run.episodes.last },
    ended: { ...run.counts.ended },
    tasks: tasks.map((task) => saveTask(run, task, report)),
    line: lineOf(run, index),
    unread: run.sinks.unread().map((completion) => {
      const { taskId, meta } = completion
      return saveCompletion(completion, meta === undefined ? undefined : plain(meta, `task ${taskId}: meta`, report))
    }),
    leftOut: {
      episodes: run.episodes.live.size,
      signals: tasks.filter(({ spec, group }) => spec.signal !== undefined && group === null).length,
    },
  }
  if (problems.length > 0) {
    const text = `the run cannot be saved:\n${problemList(problems)}\nmeta is saved with its task: give it plain data, and look up the rest by task id`
    throw new RolloutError('NOT_SAVABLE', text, { problems })
  }
  return state
}

function saveTask(run: Run, task: LiveTask, report: Report): SavedTask {
  const { id, spec, promptTokenIds, started, samples, completions } = task
  const { prompt, sampling, kind, priority, sessionId, minVersion, meta } = spec
  const saved = meta === undefined ? undefined : plain(meta, `task ${id}: meta`, report)
  return {
    id,
    prompt: isTokenIds(prompt)
      ? { ids: encodeIds(prompt) }
      : typeof prompt === 'string'
        ? prompt
        : prompt.map(({ role, content }) => ({ role, content })),
    promptIds: promptTokenIds === null ? null : encodeIds(promptTokenIds),
    sampling: { ...sampling, stop: [...sampling.stop], stopTokenIds: [...sampling.stopTokenIds] },
    samples: samples.length,
    kind,
    priority,
    sessionId,
    minVersion,
    ...(saved === undefined ? {} : { meta: saved }),
    started,
    submittedAt: samples[0]!.submittedAt,
    keptFor: run.carried.has(task) ? 'rollout' : run.orphans.has(task) ? 'batches' : (run.kept.get(task) ?? null),
    begun: samples.filter(hasBegun).map((sample) => saveSample(run, sample)),
    // The meta of a completion is that of its task.
    completions: completions.filter((each) => each !== undefined).map((each) => saveCompletion(each, undefined)),
  }
}

function hasBegun({ status, segments, output, waitedMs }: Sample): boolean {
  return status === 'running' || (status === 'waiting' && (segments.length > 0 || output !== null || waitedMs > 0))
}

function saveSample(run: Run, sample: Sample): SavedSample {
  const now = run.clock.now()
  const { index, waitedMs, heldMs, firstTokenAt, fruitless, restarts, output, segments } = sample
  const attempt = run.attempts.get(sample) ?? null
  const keeps = attempt === null || (isResumable(attempt, sample) && attempt.interruption?.how !== 'restart')
  return {
    sample: index,
    waitedMs: sample.status === 'waiting' ? waitedMs + now - sample.queuedAt : waitedMs,
    heldMs: attempt === null ? heldMs : heldMs + run.paces[sample.task.spec.kind].now() - attempt.beganAt,
    firstTokenAt,
    fruitless,
    restarts,
    tokens: keeps && output !== null ? tokensOf(output, attempt) : null,
    segments: keeps ? saveSegments(attempt === null ? segments : [...segments, segmentOf(attempt, sample, now)]) : [],
  }
}

function tokensOf(output: Output, attempt: Attempt | null): SavedTokens {
  const { tokenIds, logprobs, hasLogprobs, basis, text } = output
  const length = output.length - output.hidden
  return {
    ids: encode(tokenIds, length),
    logprobs: hasLogprobs ? encode(logprobs, length) : null,
    basis,
    text,
    versions: spansUntil(attempt === null ? output.spans : spansSoFar(attempt, output), length).map((span) => ({
      ...span,
    })),
  }
}

/** Of an attempt that runs: as if it were interrupted now. */
function segmentOf(attempt: Attempt, sample: Sample, now: number): Segment {
  return {
    instance: attempt.instance.id,
    attempt: attempt.requestId,
    start: attempt.start,
    end: tokenCount(sample) - (sample.output?.hidden ?? 0),
    reason: 'interrupted',
    placedAt: attempt.placedAt,
    firstTokenAt: attempt.firstTokenAt,
    endedAt: now,
  }
}

/** Everybody who has not ended, in the order in which they would run: what runs now comes after those that were interrupted before. */
function lineOf(run: Run, index: ReadonlyMap<LiveTask, number>): SavedState['line'] {
  const line: Record<QueueLane, number[]> = { evaluation: [], interrupted: [], retry: [], started: [], fresh: [] }
  const waiting: Sample[] = []
  for (const { samples } of index.keys()) for (const each of samples) if (each.status === 'waiting') waiting.push(each)
  waiting.sort((a, b) => a.order - b.order)
  for (const sample of waiting) line[sample.lane ?? laneAfter(sample)].push(index.get(sample.task)!, sample.index)
  for (const sample of run.attempts.keys()) {
    const at = index.get(sample.task)
    if (at !== undefined) line[laneOf(sample, 'interrupted')].push(at, sample.index)
  }
  return line
}

/** The lane of a sample that is parked beside the queue. */
function laneAfter(sample: Sample): QueueLane {
  const last = sample.segments.at(-1)
  if (last === undefined) return laneOf(sample, 'fresh')
  return laneOf(sample, last.reason === 'interrupted' ? 'interrupted' : 'retry')
}
