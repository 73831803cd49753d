/**
 * evaluate(): a class of its own, admitted whole when it is called and placed when its turn in the line has come. From then until it ends it
 * keeps the version of the weights that it began with, because an update waits for it (F10). At its timeout, its signal or the close of the run
 * what is unfinished ends and is in the groups: never dropped, never waited for without end.
 */
import { RolloutError } from '../errors.ts'
import type { Group } from '../rollout/group.ts'
import type { LiveTask } from '../rollout/sample.ts'
import type { Task } from '../rollout/task.ts'
import { checkTasks } from './check-tasks.ts'
import type { Evaluation, EvaluationStyle } from './evaluation.ts'
import { openGate } from './gate.ts'
import { cancel, endTask, enter, groupOf } from './intake.ts'
import { createInterruption } from './interrupt.ts'
import { isPauseWanted, phaseOf } from './phase.ts'
import { type Instance, mustBeOpen, type Run } from './run.ts'
import { tellPhase } from './tell-phase.ts'
import { release } from './waitlist.ts'
import { wake } from './wake.ts'

export interface CheckedEvaluation {
  readonly style: EvaluationStyle
  /** From the call on; it never stops (decision 18). */
  readonly timeoutMs: number | null
  readonly signal: AbortSignal | undefined
}

/** The groups, in the order of the tasks. @throws RolloutError INVALID_TASK or DUPLICATE_TASK before anything was admitted */
export async function evaluate<M>(
  run: Run,
  tasks: readonly Task<M>[],
  { style, timeoutMs, signal }: CheckedEvaluation,
): Promise<Group<M>[]> {
  mustBeOpen(run, 'evaluate')
  const live = admitAll(run, tasks)
  const groups = Promise.all(live.map((task) => groupOf(task) as Promise<Group<M>>))
  const isOver = (): boolean => live.every((task) => task.ended === task.samples.length)
  const evaluation: Evaluation = {
    style,
    tasks: new Set(live),
    interruption: createInterruption(style === 'restart' ? 'restart' : 'resume'),
    disturbed: new Set(),
    isExhausted: false,
  }
  const late = (): void => {
    const text = `the evaluation did not end within its timeoutMs, ${timeoutMs} ms; give it more time, or fewer tasks`
    for (const task of live) endTask(run, task, 'expired', new RolloutError('EVALUATION_TIMEOUT', text))
  }
  const abort = (): void => {
    for (const task of live) cancel(run, task, signal!.reason)
  }
  const timer = timeoutMs === null ? null : run.clock.setTimeout(late, timeoutMs)
  signal?.addEventListener('abort', abort, { once: true })
  if (signal?.aborted === true) abort()
  let isBehindPause = isPauseWanted(run)
  const isReady = (): boolean => {
    if (!isPauseWanted(run)) isBehindPause = false
    return isOver() || (!isBehindPause && !run.isHalted && phaseOf(run) !== 'starting' && !needsUpdate(run))
  }
  // What waits in the line when the run closes is in the groups, as cancelled.
  run.line
    .enter({ name: 'evaluate', timeoutMs: null, isReady }, () => takeTurn(run, evaluation, groups, isOver))
    .catch(() => {})
  try {
    return await groups
  } finally {
    run.clock.clearTimeout(timer)
    signal?.removeEventListener('abort', abort)
    run.line.look()
  }
}

/** Nobody has weights that can be used, or that could be loaded again: it would stand before the very update that it needs. */
function needsUpdate({ lastUpdate, instances }: Run): boolean {
  return lastUpdate === null && instances.size > 0 && [...instances.values()].every(isStale)
}

function isStale({ actor }: Instance): boolean {
  return actor.getSnapshot().matches('stale')
}

/** All of them or none. They wait aside until their turn. */
function admitAll(run: Run, tasks: readonly Task[]): LiveTask[] {
  return checkTasks(run, tasks, 'evaluation').map(({ id, spec }) => enter(run, id, spec, null, true))
}

/** It keeps its version, and an update would wait for it: newer weights never come. */
function wantsOtherWeights({ version }: Run, { spec: { minVersion } }: LiveTask): boolean {
  return minVersion !== null && (version === null || version < minVersion)
}

function tooOldFor({ version }: Run, { id, spec }: LiveTask): RolloutError {
  const found = `task ${id} wants weights of version ${spec.minVersion}, but its evaluation runs under ${version}`
  return new RolloutError('INVALID_TASK', `${found}; update the weights first`)
}

async function takeTurn(
  run: Run,
  evaluation: Evaluation,
  groups: Promise<unknown>,
  isOver: () => boolean,
): Promise<void> {
  if (isOver()) return
  run.evaluation = evaluation
  for (const task of evaluation.tasks) {
    if (wantsOtherWeights(run, task)) endTask(run, task, 'failed', tooOldFor(run, task))
    else release(run, task)
  }
  run.actor.send({ type: 'evaluation.started' })
  // A pause that was asked for since has closed them; it comes after.
  for (const instance of run.instances.values()) openGate(run, instance, 'pause')
  tellPhase(run)
  await groups
  run.evaluation = null
  if (run.closing) return
  const { samples, resumedTokens, wastedTokens } = evaluation.interruption
  run.log.info({ interrupted: samples, resumedTokens, wastedTokens }, 'the evaluation has ended')
  run.actor.send({ type: 'evaluation.ended' })
  tellPhase(run)
  wake(run, 'queue.changed')
}
