/**
 * One HTTP generation under one lease, from the slot taken to the slot given back.
 *
 *     attached: tokens go to the sample --ends--> the sample is settled or waits again, the lease is given back
 *        | detach: the sample goes on without it (cancelled, timed out, instance left)
 *     detached: the engine is told to end it --confirmed--> the lease is given back
 *
 * Keeps I4 (each lease given back exactly once), I8 (spans cover every token) and I11 (a cancel reaches the engine, and the
 * slot counts as free only when the engine says so; decision 23).
 */
import { type DirectGenerate, directOf } from '../engines/direct.ts'
import type { Chunk, GenerateRequest } from '../engines/driver.ts'
import { RolloutError, toRolloutError } from '../errors.ts'
import { append, outputOf, type Sample, tokenCount } from '../rollout/sample.ts'
import { begunStop } from '../rollout/stop-text.ts'
import { isTokenIds } from '../rollout/task.ts'
import { backoffMs, decideRetry } from '../scheduling/retry.ts'
import { segmentSeed } from '../scheduling/seed.ts'
import { exhaust, waitAgain } from './again.ts'
import { keepController, takeController } from './controllers.ts'
import { confirmEnded } from './detach.ts'
import { endPassing, mayPass, tellReleased } from './handover.ts'
import { askAgain, blame } from './health.ts'
import { basisOf, formFor } from './misfit.ts'
import { paceOf } from './pace.ts'
import { type Attempt, can, type Instance, isMember, type Run } from './run.ts'
import { maySendAgain, noteWeights } from './same-server.ts'
import { part } from './segment.ts'
import { settle } from './settle.ts'
import { wake } from './wake.ts'
import { watch } from './watch.ts'
import { guard, unguard } from './watchdog.ts'

/** Wide enough for 10^13 attempts: fixed width keeps ids from being prefixes of one another (F11). */
const REQUEST_DIGITS = 13

/** A stranger's clean-up ends a request once or twice; with five attempts allowed a sample outlives 19 of them, over a minute. */
const ABORTS_PER_ATTEMPT = 4

/** Puts an attempt into the books. It sends nothing before `drive`, so that whoever is told of it in between may cancel it. */
export function openAttempt(run: Run, sample: Sample, instance: Instance, lease: number, now: number): Attempt {
  const { controller, served } = takeController(run)
  const beganAt = paceOf(run, sample).now()
  const attempt: Attempt = {
    requestId: `${run.runId}-${String(++run.lastRequest).padStart(REQUEST_DIGITS, '0')}`,
    instance,
    lease,
    controller,
    served,
    placedAt: now,
    start: tokenCount(sample),
    version: instance.version,
    firstTokenAt: null,
    lastTokenAt: now,
    beganAt,
    movedAt: beganAt,
    owner: sample,
    sample,
    produced: 0,
    outcome: 'neutral',
    reason: 'finished',
    stage: 'preparing',
    onAccepted: null,
    hangUp: null,
    interruption: null,
    seams: null,
    watch: null,
  }
  run.attempts.set(sample, attempt)
  instance.attempts.add(attempt)
  watch(run, attempt)
  guard(run, instance)
  return attempt
}

/** Generates, and gives the slot back at the end, whatever that is. Never rejects. */
export async function drive(run: Run, attempt: Attempt): Promise<void> {
  const { owner: sample } = attempt
  let last = null as Chunk | null
  let error: RolloutError | null = null
  let unsent = false
  try {
    const { driver } = attempt.instance
    // A sample that has gone on by now, or shall, needs no request.
    unsent = attempt.sample === null || attempt.interruption !== null
    if (!unsent) {
      attempt.stage = 'sent'
      const request = requestOf(run, attempt, sample)
      const onChunk = (chunk: Chunk): void => {
        if (attempt.sample !== null) receive(run, attempt, sample, chunk)
        if (chunk.finishReason !== null) last = chunk
      }
      const direct = directOf(driver)
      if (direct !== undefined && !attempt.controller.signal.aborted) await pushed(attempt, direct, request, onChunk)
      else for await (const chunk of driver.generate(request, attempt.controller.signal)) onChunk(chunk)
    }
    if (last === null && !unsent)
      error = new RolloutError('TRANSPORT', `instance ${attempt.instance.id} ended a stream without a finish reason`, {
        instance: attempt.instance.id,
      })
  } catch (cause) {
    error = toRolloutError(
      cause,
      'ENGINE_ERROR',
      `the driver of instance ${attempt.instance.id} failed`,
      attempt.instance.id,
    )
  }
  run.clock.clearTimeout(attempt.watch)
  if (attempt.sample === null) {
    if (last !== null) noteWeights(run, attempt, last)
    confirmEnded(run, attempt, () => giveBack(run, attempt))
  } else if (attempt.interruption !== null && (unsent || attempt.controller.signal.aborted))
    cutShort(run, attempt, sample)
  else if (error === null) finish(run, attempt, sample, last!)
  else fail(run, attempt, sample, error)
}

/** A driver's short way. Throws at once where it refuses the request; settles when the stream has ended. */
function pushed(
  attempt: Attempt,
  direct: DirectGenerate,
  request: GenerateRequest,
  onChunk: (chunk: Chunk) => void,
): Promise<void> {
  let end!: (error: unknown) => void
  const ended = new Promise<void>((resolve, reject) => {
    end = (error) => (error === null ? resolve() : reject(error))
  })
  const stream = direct(request, { chunk: onChunk, end })
  attempt.hangUp = () => stream.cancel(attempt.controller.signal.reason)
  return ended
}

/** What is sent: the prompt and the tokens so far, with what is left of the budget and a seed of its own. */
function requestOf(run: Run, attempt: Attempt, sample: Sample): GenerateRequest {
  const { task, output } = sample
  const { sampling } = task.spec
  const ids = task.promptTokenIds ?? (isTokenIds(task.spec.prompt) ? task.spec.prompt : null)
  const promptIds = formFor(task, attempt.instance) === 'ids' ? ids : null
  const done = output?.length ?? 0
  const segment = sample.segments.length
  let prompt = promptIds ?? (task.spec.prompt as string)
  if (done > 0 && promptIds !== null) {
    const joined = new Int32Array(promptIds.length + done)
    joined.set(promptIds)
    joined.set(output!.tokenIds.subarray(0, done), promptIds.length)
    prompt = joined
  }
  return {
    requestId: attempt.requestId,
    onAccepted: () => accepted(attempt),
    maySendAgain: () => maySendAgain(run, attempt),
    prompt,
    ...(done === 0 ? {} : { textBefore: begunStop(output!.text, sampling.stop) }),
    sampling:
      done === 0 && sampling.seed === null
        ? sampling
        : {
            ...sampling,
            maxTokens: sampling.maxTokens - done,
            minTokens: Math.max(0, sampling.minTokens - done),
            seed: sampling.seed === null ? null : segmentSeed(sampling.seed, sample.index, segment),
          },
  }
}

function accepted(attempt: Attempt): void {
  attempt.stage = 'accepted'
  attempt.onAccepted?.()
}

function receive(run: Run, attempt: Attempt, sample: Sample, chunk: Chunk): void {
  if (chunk.tokenIds.length === 0 && chunk.text === null) return
  const now = run.clock.now()
  // What it sent before it hung up says nothing of what it is now.
  if (attempt.instance.heardAt > Number.NEGATIVE_INFINITY) attempt.instance.heardAt = now
  attempt.lastTokenAt = now
  if (run.options.timeouts.progressMs !== null) attempt.movedAt = paceOf(run, sample).now()
  attempt.firstTokenAt ??= now
  sample.firstTokenAt ??= now
  const output = outputOf(sample)
  append(output, chunk.tokenIds, chunk.logprobs, chunk.text)
  output.hidden = chunk.hidden ?? 0
  if (basisOf(sample, attempt.instance) === 'raw') output.basis = 'raw'
  if (sample.task.listeners !== null) {
    const { tokenIds, logprobs, text } = chunk
    const event = {
      type: 'sample.tokens',
      at: now,
      taskId: sample.task.id,
      sample: sample.index,
      tokenIds,
      logprobs,
      text,
    }
    for (const listener of sample.task.listeners) listener(event)
  }
}

function finish(run: Run, attempt: Attempt, sample: Sample, last: Chunk): void {
  const { finishReason } = last
  if (finishReason === 'abort') {
    interrupted(run, attempt, sample, last)
    return
  }
  part(run, attempt, sample, 'finished', last.versions)
  attempt.outcome = 'succeeded'
  attempt.instance.totals.completed++
  noteWeights(run, attempt, last)
  settle(run, sample, 'completed', null, finishReason)
  leave(run, attempt, last)
}

/** Gives the slot back; where the server does not know that the request has ended, when it has found out. */
function leave(run: Run, attempt: Attempt, last: Chunk): void {
  if (last.isCut !== true) {
    giveBack(run, attempt)
    return
  }
  const { instance, controller, requestId } = attempt
  controller.abort()
  // The socket is closed; somebody in between may not pass that on.
  if (can(instance).abortById) instance.driver.abort(requestId).catch(() => {})
  confirmEnded(run, attempt, () => giveBack(run, attempt))
}

/**
 * We, or somebody else, ended it at the engine: it resumes, and an interruption of ours never counts against it (decision 16). If it was not
 * us and there is no new token, the server is taken for busy, and asked again after a backoff; so many in a row count as one attempt, or a
 * server that ends everything would be asked for ever.
 */
function interrupted(run: Run, attempt: Attempt, sample: Sample, last: Chunk): void {
  part(run, attempt, sample, 'interrupted', last.versions)
  attempt.instance.totals.interrupted++
  noteWeights(run, attempt, last)
  const isEmpty = attempt.produced === 0 && attempt.interruption === null
  sample.busy = isEmpty ? sample.busy + 1 : 0
  if (isEmpty) sample.fruitless += 1 / ABORTS_PER_ATTEMPT
  if (isEmpty && sample.fruitless >= run.options.attempts) {
    const text = `instance ${attempt.instance.id} ended the request before its first token`
    exhaust(run, sample, new RolloutError('TRANSPORT', text, { instance: attempt.instance.id }))
  } else {
    waitAgain(run, attempt, sample, 'interrupted', isEmpty ? backoffMs(sample.busy) : 0)
  }
  leave(run, attempt, last)
}

/** Interrupted before its request was sent, or by closing its socket: the slot is free when the server says so. */
function cutShort(run: Run, attempt: Attempt, sample: Sample): void {
  part(run, attempt, sample, 'interrupted', null)
  attempt.instance.totals.interrupted++
  waitAgain(run, attempt, sample, 'interrupted')
  confirmEnded(run, attempt, () => giveBack(run, attempt))
  // Others may have room for it before the server has let go.
  if (attempt.instance.attempts.has(attempt)) wake(run, 'queue.changed')
}

function fail(run: Run, attempt: Attempt, sample: Sample, error: RolloutError): void {
  const { instance } = attempt
  const busy = error.code === 'BUSY'
  part(run, attempt, sample, busy ? 'busy' : 'failed', null)
  sample.busy = busy ? sample.busy + 1 : 0
  if (error.code === 'INSTANCE_FAULT') {
    sample.refusedBy ??= new Set()
    sample.refusedBy.add(instance.id)
  }
  const blamesServer = !busy && error.code !== 'REQUEST_REJECTED'
  attempt.outcome = blamesServer ? 'failed' : 'neutral'
  if (blamesServer) blame(run, instance, error)
  const decision = decideRetry(
    {
      code: error.code,
      fruitless: sample.fruitless,
      busy: sample.busy,
      refusedByAll: [...run.instances.values()].every(
        (each) => sample.refusedBy?.has(each.id) === true || refusesAll(each),
      ),
      retryAfterMs: error.retryAfterMs,
    },
    run.options.attempts,
  )
  if (decision.action === 'fail') settle(run, sample, 'failed', error)
  else if (decision.action === 'exhausted') exhaust(run, sample, error)
  else waitAgain(run, attempt, sample, 'retry', decision.afterMs)
  giveBack(run, attempt)
}

/** Away because it refused us, as its probe said: it would refuse the sample as well (decision 17). */
function refusesAll({ fault, account }: Instance): boolean {
  return account.limit === 0 && RolloutError.isInstance(fault) && fault.code === 'INSTANCE_FAULT'
}

/** Gives the slot back, and lets the next sample have it. A second call does nothing: close gives back what a driver does not end. */
export function giveBack(run: Run, attempt: Attempt): void {
  const { instance, lease, owner } = attempt
  if (!instance.attempts.delete(attempt)) return
  unguard(run, instance)
  run.clock.clearTimeout(attempt.watch)
  keepController(run, attempt)
  run.ledger.release(lease)
  if (mayPass(run, attempt)) run.passing = instance
  else tellReleased(run, instance, attempt.outcome)
  // With its last lease a draining instance has left.
  if (attempt.outcome === 'failed' && isMember(run, instance)) instance.actor.send({ type: 'server.suspected' })
  if (run.hub.listens(owner.task)) {
    const { task, index } = owner
    run.hub.tell(
      {
        type: 'sample.released',
        at: run.clock.now(),
        taskId: task.id,
        sample: index,
        kind: task.spec.kind,
        instance: instance.id,
        lease,
        reason: attempt.reason,
        tokens: attempt.produced,
      },
      task,
    )
  }
  run.hub.changed()
  askAgain(run, instance)
  for (const released of run.onReleased) released()
  wake(run, 'slot.freed')
  endPassing(run)
}
