/**
 * Deadlines of a running attempt (decision 18): firstTokenMs, progressMs and totalMs, none by default. One timer an attempt,
 * armed for the nearest deadline and, when it fires early because tokens came or time stood still (pace.ts), for the next one. What is
 * frozen on its server by an update that rolls over it stands still alone.
 */
import { RolloutError, type RolloutErrorCode } from '../errors.ts'
import { exhaust, waitAgain } from './again.ts'
import { detach } from './detach.ts'
import { blame } from './health.ts'
import type { Attempt, Instance, Run } from './run.ts'
import { settle } from './settle.ts'
import { wake } from './wake.ts'

interface Deadline {
  /** In time that counts. */
  readonly at: number
  readonly code: RolloutErrorCode
  readonly option: 'firstTokenMs' | 'progressMs' | 'totalMs'
}

export function watch(run: Run, attempt: Attempt): void {
  const { firstTokenMs, progressMs, totalMs } = run.options.timeouts
  if (firstTokenMs === null && progressMs === null && totalMs === null) return
  const pace = run.paces[attempt.owner.task.spec.kind]
  if (pace.stopped || attempt.instance.frozenSince !== null) {
    pace.halted.add(attempt)
    return
  }
  const now = pace.now()
  const at = Math.min(
    nearest(run, attempt)?.at ?? Number.POSITIVE_INFINITY,
    // It begins with the first token, of which nobody tells the timer: it looks.
    progressMs === null ? Number.POSITIVE_INFINITY : now + progressMs,
  )
  if (at === Number.POSITIVE_INFINITY) return
  attempt.watch = run.clock.setTimeout(() => {
    if (attempt.sample === null) return
    const due = attempt.instance.frozenSince === null ? nearest(run, attempt) : null
    if (due !== null && due.at <= pace.now()) expire(run, attempt, due)
    else watch(run, attempt)
  }, at - now)
}

/** From now on the attempts of an instance stand still. */
export function standStill(run: Run, instance: Instance): void {
  instance.frozenSince ??= { rollout: run.paces.rollout.now(), evaluation: run.paces.evaluation.now() }
}

/** They move on, or are given up: the time since does not count. */
export function moveOn(run: Run, instance: Instance): void {
  const { frozenSince } = instance
  if (frozenSince === null) return
  instance.frozenSince = null
  for (const attempt of instance.attempts) {
    const { kind } = attempt.owner.task.spec
    const pace = run.paces[kind]
    // Those that began since, in the moment before the server was held.
    const stoodMs = pace.now() - Math.max(frozenSince[kind], attempt.beganAt)
    attempt.beganAt += stoodMs
    attempt.movedAt += stoodMs
    if (pace.halted.delete(attempt) && attempt.sample !== null) watch(run, attempt)
  }
}

function nearest(run: Run, attempt: Attempt): Deadline | null {
  const { firstTokenMs, progressMs, totalMs } = run.options.timeouts
  const deadlines: Deadline[] = []
  if (totalMs !== null && attempt.sample !== null) {
    deadlines.push({ at: attempt.beganAt + totalMs - attempt.sample.heldMs, code: 'TOTAL_TIMEOUT', option: 'totalMs' })
  }
  if (attempt.firstTokenAt === null) {
    if (firstTokenMs !== null)
      deadlines.push({ at: attempt.beganAt + firstTokenMs, code: 'FIRST_TOKEN_TIMEOUT', option: 'firstTokenMs' })
  } else if (progressMs !== null) {
    deadlines.push({ at: attempt.movedAt + progressMs, code: 'PROGRESS_TIMEOUT', option: 'progressMs' })
  }
  return deadlines.reduce<Deadline | null>((first, each) => (first === null || each.at < first.at ? each : first), null)
}

function expire(run: Run, attempt: Attempt, { code, option }: Deadline): void {
  const sample = attempt.sample!
  const { instance } = attempt
  const error = new RolloutError(
    code,
    `${sample.task.id}/${sample.index} on instance ${instance.id} passed its ${option}, ${run.options.timeouts[option]} ms`,
    { instance: instance.id },
  )
  if (code === 'TOTAL_TIMEOUT') {
    detach(run, attempt, 'timedOut', 'neutral')
    settle(run, sample, 'expired', error)
    return
  }
  blame(run, instance, error)
  detach(run, attempt, 'timedOut', 'failed')
  if (sample.fruitless >= run.options.attempts) {
    exhaust(run, sample, error)
  } else {
    waitAgain(run, attempt, sample, 'retry')
    wake(run, 'queue.changed')
  }
}
