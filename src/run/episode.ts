/**
 * Episodes: the user's code between turns, its deadline, its retries and its one end (I2). A turn is an ordinary task of one sample: it is
 * interrupted, retried and labelled with versions like any other, and holds no slot while tools run.
 *
 *     attempt 1 --throws, and may try again--> attempt 2 --returns--> completed
 *         | signal, deadline, close()              turns: one at a time, what is left of one is cancelled with its attempt
 *     cancelled, expired
 *
 * An attempt's session is closed with it: code that goes on behind the episode's back can generate nothing any more (I5).
 */
import { setMaxListeners } from 'node:events'
import { messageOf, RolloutError } from '../errors.ts'
import type { Outcome } from '../rollout/completion.ts'
import type { CheckedEpisode, EpisodeCode, EpisodeResult } from '../rollout/episode.ts'
import type { Session } from '../rollout/session.ts'
import type { Trajectory } from '../rollout/trajectory.ts'
import { createSession } from '../scheduling/sessions.ts'
import { openTurns } from './episode-turns.ts'
import { mustBeOpen, type Run } from './run.ts'
import { tellIdle } from './waitlist.ts'

/** An episode while it lives. */
export interface LiveEpisode {
  readonly id: string
  readonly spec: CheckedEpisode
  /** Its preference for an instance. */
  readonly session: Session
  /** Turns begun, over all attempts: the ids of their tasks. */
  turns: number
}

/** Runs the code of an episode. Resolves with its one result, and rejects only when it cannot begin. */
export function runEpisode<T, M>(
  run: Run,
  code: EpisodeCode<T, M>,
  spec: CheckedEpisode,
): Promise<EpisodeResult<T, M>> {
  mustBeOpen(run, 'episode')
  const { episodes } = run
  const id = spec.id ?? freshId(run)
  if (episodes.live.has(id)) {
    const text = `expected an id that no live episode has, found ${JSON.stringify(id)}; ids are free again when the episode has ended`
    throw new RolloutError('DUPLICATE_TASK', text)
  }
  const session = spec.sessionId === null ? createSession() : run.sessions.open(spec.sessionId)
  const live: LiveEpisode = { id, spec, session, turns: 0 }
  const startedAt = run.clock.now()
  episodes.live.set(id, live)
  episodes.submitted++
  return new Promise((resolve) => {
    let attempt = openTurns<M>(run, live, 1)
    let ended = false

    function end(outcome: Outcome, value: T | null, error: RolloutError | null): void {
      if (ended) return
      ended = true
      const { trajectory, earlier } = attempt.transcript.view()
      attempt.close(error)
      run.clock.clearTimeout(deadline)
      spec.signal?.removeEventListener('abort', abort)
      run.onClosing.delete(closing)
      episodes.live.delete(id)
      episodes.ended[outcome]++
      tellEnd(run, live, outcome, trajectory)
      const totalMs = run.clock.now() - startedAt
      const { kind, meta } = spec
      const result = { episodeId: id, kind, trajectory, earlier, attempts: attempt.number, totalMs, meta }
      resolve({ ...result, outcome, value, error } as unknown as EpisodeResult<T, M>)
      run.hub.changed()
      tellIdle(run)
    }
    const abort = (): void => end('cancelled', null, cancelled(id, spec.signal!.reason))
    const closing = (error: RolloutError): void => end('cancelled', null, error)
    const late = (): void => {
      const text = `episode ${id} had not ended within timeoutMs, ${spec.timeoutMs} ms; it was in ${attempt.where()}`
      end('expired', null, new RolloutError('EPISODE_TIMEOUT', text))
    }
    const deadline = spec.timeoutMs === null ? null : run.clock.setTimeout(late, spec.timeoutMs)

    /** Null when the attempt is over, one way or the other; else why it failed. */
    async function tryOnce(): Promise<RolloutError | null> {
      const { session: handle } = attempt
      try {
        const value = await code(handle)
        if (ended) return null
        const forgotten = attempt.forgotten()
        if (forgotten === null) end('completed', value, null)
        return forgotten
      } catch (cause) {
        return ended ? null : failureOf(id, cause)
      }
    }
    async function play(): Promise<void> {
      for (;;) {
        const failure = await tryOnce()
        if (failure === null) return
        if (!failure.retryable || attempt.number >= spec.attempts) {
          end('failed', null, failure)
          return
        }
        attempt.close(failure)
        attempt = openTurns<M>(run, live, attempt.number + 1)
      }
    }

    run.onClosing.add(closing)
    if (spec.signal !== undefined) {
      // One signal may cancel thousands of episodes; Node takes more than ten listeners for a leak.
      setMaxListeners(0, spec.signal)
      spec.signal.addEventListener('abort', abort, { once: true })
    }
    tellBegin(run, live)
    if (spec.signal?.aborted === true) abort()
    if (!ended) void play()
  })
}

/** Passes over ids that a user has given to episodes which still live. */
function freshId(run: Run): string {
  for (;;) {
    const id = `episode-${String(++run.episodes.last).padStart(9, '0')}`
    if (!run.episodes.live.has(id)) return id
  }
}

function cancelled(id: string, reason: unknown): RolloutError {
  if (RolloutError.isInstance(reason)) return reason
  const why = reason === undefined ? '' : `: ${messageOf(reason)}`
  return new RolloutError('CANCELLED', `episode ${id} was cancelled${why}`, { cause: reason })
}

/** What a turn ended with is what the episode ends with, unless the code caught it and threw something of its own. */
function failureOf(id: string, cause: unknown): RolloutError {
  if (RolloutError.isInstance(cause)) return cause
  return new RolloutError('EPISODE_FAILED', `the code of episode ${id} threw: ${messageOf(cause)}`, { cause })
}

function tellBegin(run: Run, { id, spec }: LiveEpisode): void {
  run.hub.changed()
  if (!run.hub.listens(null)) return
  run.hub.tell({ type: 'episode.began', at: run.clock.now(), episodeId: id, kind: spec.kind }, null)
}

function tellEnd(run: Run, { id, spec, turns }: LiveEpisode, outcome: Outcome, { tokenIds }: Trajectory): void {
  if (!run.hub.listens(null)) return
  const base = { type: 'episode.ended' as const, at: run.clock.now(), episodeId: id, kind: spec.kind }
  run.hub.tell({ ...base, outcome, turns, tokens: tokenIds.length }, null)
}
