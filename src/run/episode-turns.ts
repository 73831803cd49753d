/**
 * The turns of one attempt at an episode: one after another, each a task of one sample that begins with all that was said before it.
 */
import { RolloutError } from '../errors.ts'
import { isRecord, type Problem, problemList, rejectUnknownKeys, show } from '../problems.ts'
import type { Completion } from '../rollout/completion.ts'
import type { EpisodeSession, TurnRequest } from '../rollout/episode.ts'
import type { LiveTask } from '../rollout/sample.ts'
import { isTokenIds } from '../rollout/task.ts'
import { createTranscript, type Transcript } from '../rollout/trajectory.ts'
import type { LiveEpisode } from './episode.ts'
import { admit, cancel, groupOf } from './intake.ts'
import type { Run } from './run.ts'

/** One run of an episode's code. */
export interface Attempt<M> {
  readonly number: number
  readonly session: EpisodeSession<M>
  readonly transcript: Transcript
  /** What it is doing, in words. */
  where(): string
  /** The error of a turn that nobody waited for, or null. */
  forgotten(): RolloutError | null
  /** Ends it: the turn that runs is cancelled, and none can be begun. Tools are told why, unless all is well. */
  close(error: RolloutError | null): void
}

export function openTurns<M>(run: Run, episode: LiveEpisode, number: number): Attempt<M> {
  const { id, spec } = episode
  const controller = new AbortController()
  const transcript = createTranscript()
  const first = episode.turns + 1
  let turn: LiveTask | null = null
  let closed = false

  async function generate(request: TurnRequest): Promise<Completion<M>> {
    if (closed)
      throw misuse(
        `generate() was called after attempt ${number} of episode ${id} had ended; it generates nothing any more`,
      )
    if (turn !== null)
      throw misuse(`generate() was called while turn ${turn.id} was running; await one turn before the next`)
    checkTurn(request)
    const prompt = transcript.promptWith(request.append)
    const { kind, priority, minVersion, meta } = spec
    const sampling = request.sampling ?? spec.sampling
    const task = admit(
      run,
      {
        id: `${id}#${episode.turns + 1}`,
        prompt,
        kind,
        priority,
        meta,
        ...(sampling === undefined ? {} : { sampling }),
        ...(minVersion === null ? {} : { minVersion }),
      },
      { episode: id, session: episode.session, goesOn: episode.turns + 1 > first },
    )
    episode.turns++
    turn = task
    const { completions } = await groupOf(task)
    turn = null
    const completion = completions[0] as Completion<M>
    // Cancelled with its attempt, or overtaken by its end: what it says is no longer part of anything.
    if (completion.error !== null) throw completion.error
    if (!closed) transcript.add(prompt, isTokenIds(prompt) ? prompt : task.promptTokenIds, completion)
    return completion
  }

  return {
    number,
    transcript,
    session: {
      id,
      attempt: number,
      signal: controller.signal,
      get tokenIds() {
        return transcript.tokenIds
      },
      generate(request = {}) {
        const work = generate(request)
        // A turn that nobody waits for must not end the process: its episode says what it was.
        work.catch(() => {})
        return work
      },
    },
    where: () => (turn === null ? 'its own code' : `turn ${turn.id}`),
    forgotten() {
      if (turn === null) return null
      return misuse(`the code of episode ${id} returned while turn ${turn.id} was running; await every generate()`)
    },
    close(error) {
      if (closed) return
      closed = true
      if (turn !== null) cancel(run, turn, error ?? undefined)
      if (error !== null) controller.abort(error)
    },
  }
}

function misuse(text: string): RolloutError {
  return new RolloutError('EPISODE_MISUSE', text)
}

function checkTurn(request: unknown): void {
  const problems: Problem[] = []
  const report = (path: string, expected: string, found: unknown) =>
    void problems.push({ path, expected, found: String(found) })
  if (!isRecord(request)) {
    report('turn', 'an object with append and sampling', show(request))
  } else {
    rejectUnknownKeys(request, ['append', 'sampling'], '', report)
    const { append } = request
    const listed = Array.isArray(append) || append instanceof Int32Array
    if (append !== undefined && typeof append !== 'string' && !listed)
      report('append', 'token ids, text, or chat messages', show(append))
  }
  if (problems.length > 0)
    throw new RolloutError('INVALID_TASK', `the turn cannot be generated:\n${problemList(problems)}`, { problems })
}
