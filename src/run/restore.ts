/**
 * Puts a saved state into a run that was just made: its samples wait as they waited, with the tokens they had, until `start()`. Nothing is told
 * again of what had ended, beside what comes back inside a group that was not whole (decision 29).
 */
import type { CheckedState } from '../rollout/check-saved.ts'
import { createGroup } from '../rollout/group.ts'
import { createSample, type LiveTask, type Sample } from '../rollout/sample.ts'
import type { SavedSample, SavedTask } from '../rollout/saved.ts'
import { decodeIds, decodeLogprobs, restoreCompletion, shiftSegments } from '../rollout/saved-values.ts'
import type { CheckedTask } from '../rollout/task.ts'
import type { QueueLane } from '../rollout/waiter.ts'
import { expectSlot } from './deadline.ts'
import { createTask } from './intake.ts'
import type { Run } from './run.ts'
import { needsTokens, tokenize } from './tokenize.ts'
import { enqueue, park } from './waitlist.ts'

const LANES: readonly QueueLane[] = ['evaluation', 'interrupted', 'retry', 'started', 'fresh']

/** @returns the tasks whose groups nobody has: those that live on, and those that were just ending */
export function restoreRun(run: Run, state: CheckedState): LiveTask[] {
  const shiftMs = run.clock.now() - state.at
  run.version = state.weights
  for (const instance of run.instances.values()) instance.version = run.version
  run.lastTask = state.last.task
  run.lastRequest = state.last.request
  run.episodes.last = state.last.episode
  Object.assign(run.counts.ended, state.ended)
  run.counts.submitted = Object.values(state.ended).reduce((sum, each) => sum + each, 0)
  run.sinks.putBack(state.unread.map((each) => restoreCompletion(each, shiftMs)))
  const tasks = state.tasks.map((task, at) => restoreTask(run, task, state.specs[at]!, shiftMs))
  const live = tasks.filter(({ group }) => group === null)
  const unknown = new Set(live.filter((task) => needsTokens(run, task)))
  for (const lane of LANES) {
    const pairs = state.line[lane]
    for (let at = 0; at < pairs.length; at += 2) {
      const sample = tasks[pairs[at]!]!.samples[pairs[at + 1]!]!
      sample.order = ++run.lastOrder
      run.counts.submitted++
      run.counts.waiting++
      if (unknown.has(sample.task)) park(run, sample, 'tokenizing')
      else enqueue(run, sample, lane)
    }
  }
  for (const task of unknown) tokenize(run, task)
  const { episodes } = state.leftOut
  if (episodes > 0) run.log.warn({ episodes }, 'episodes that lived when the run was saved are code, and not restored')
  return tasks.filter((task, at) => task.group === null || state.tasks[at]!.keptFor === null)
}

function restoreTask(run: Run, saved: SavedTask, spec: CheckedTask, shiftMs: number): LiveTask {
  const now = run.clock.now()
  const task = createTask(run, saved.id, spec)
  task.started = saved.started
  const promptIds = saved.promptIds === null ? null : decodeIds(saved.promptIds)
  if (promptIds !== null) {
    task.promptTokenIds = [...promptIds]
    task.maxTokenId = promptIds.reduce((largest, id) => Math.max(largest, id), -1)
  }
  const begun = new Map(saved.begun.map((each) => [each.sample, each]))
  for (const each of saved.completions) {
    task.completions[each.sample] = { ...restoreCompletion(each, shiftMs), meta: spec.meta }
    task.ended++
  }
  for (let index = 0; index < spec.samples; index++) {
    const sample = createSample(task, index, 0, now)
    task.samples[index] = sample
    sample.submittedAt = saved.submittedAt + shiftMs
    if (task.completions[index] !== undefined) {
      sample.status = 'ended'
      continue
    }
    const before = begun.get(index)
    if (before !== undefined) goOn(sample, before, shiftMs)
    else sample.waitedMs = now - sample.submittedAt
    if (before === undefined && run.options.timeouts.waitMs !== null && saved.keptFor !== 'rollout')
      expectSlot(run, sample)
  }
  if (saved.keptFor === 'rollout') {
    task.carried = true
    run.carried.add(task)
  }
  if (saved.keptFor === 'batches') run.orphans.add(task)
  if (task.ended === spec.samples) task.group = createGroup(task.id, spec.kind, task.completions, spec.meta)
  else run.tasks.set(task.id, task)
  return task
}

/** A sample that had begun has what it had; instances that refused it are asked again. */
function goOn(sample: Sample, saved: SavedSample, shiftMs: number): void {
  const { waitedMs, heldMs, firstTokenAt, fruitless, restarts, tokens, segments } = saved
  Object.assign(sample, { waitedMs, heldMs, fruitless, restarts })
  sample.firstTokenAt = firstTokenAt === null ? null : firstTokenAt + shiftMs
  if (segments.length > 0) sample.segments = shiftSegments(segments, shiftMs)
  if (tokens === null) return
  const tokenIds = decodeIds(tokens.ids)!
  if (tokenIds.length === 0) return
  const logprobs = tokens.logprobs === null ? null : decodeLogprobs(tokens.logprobs)!
  sample.output = {
    tokenIds,
    logprobs: logprobs ?? new Float32Array(tokenIds.length),
    length: tokenIds.length,
    hasLogprobs: logprobs !== null,
    basis: tokens.basis,
    text: tokens.text,
    hidden: 0,
    spans: tokens.versions.map((span) => ({ ...span })),
  }
}
