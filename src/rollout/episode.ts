/**
 * What a trainer writes of an episode, what its code is given, and the single record it ends with (I2).
 */
import type { RolloutError } from '../errors.ts'
import type { Completion } from './completion.ts'
import type { Prompt, Sampling, TaskKind } from './task.ts'
import type { Trajectory } from './trajectory.ts'

/** What the next turn begins with, and how its tokens are chosen. */
export interface TurnRequest {
  /**
   * Added to everything that was said so far: token ids, text or chat messages. Token ids are exact, and can follow text and messages too;
   * text and messages are turned into ids by the server, anew for every turn. @default nothing: the policy goes on from its last token
   */
  readonly append?: Prompt
  /** @default the episode's own */
  readonly sampling?: Sampling
}

/** What an episode's code talks to. */
export interface EpisodeSession<M = unknown> {
  /** Id of the episode. */
  readonly id: string
  /** 1, and one more for each time that the code begins again. */
  readonly attempt: number
  /** Aborted when this attempt ends in any other way than by returning: hand it to tools that wait. */
  readonly signal: AbortSignal
  /** Tokens so far: prompts, generations and what was appended. Empty where the servers show no token ids. */
  readonly tokenIds: Int32Array
  /**
   * One turn: waits for a slot, generates, and gives the slot back. Turns follow one another; each begins with all that was said before it.
   * @throws RolloutError what the turn ended with; it then has left no trace, and the code may try another
   * @throws RolloutError INVALID_TASK for what cannot be appended, EPISODE_MISUSE while another turn runs and after the episode's end
   */
  generate(turn?: TurnRequest): Promise<Completion<M>>
}

/** The code of an episode: calls `session.generate` as often as it likes, with tools and environments in between, and returns what it made of it. */
export type EpisodeCode<T, M = unknown> = (session: EpisodeSession<M>) => Promise<T> | T

/** Options of `episode()`. */
export interface EpisodeOptions<M = unknown> {
  /** Unique among live episodes; its turns are the tasks `<id>#1`, `<id>#2` and so on. @default one of ours */
  readonly id?: string
  /** Shares its preference for an instance with other episodes and tasks of the same session. @default a session of its own */
  readonly sessionId?: string
  /** Aborting it cancels the episode at once, whatever its code is doing. */
  readonly signal?: AbortSignal
  /** From the call to the end, tools and waits included, in milliseconds; then it ends as `expired`. @default none */
  readonly timeoutMs?: number
  /**
   * How often the code may run, from its beginning each time, when it throws or a turn fails for a reason that may pass.
   * @default { attempts: 1 }
   */
  readonly retry?: { readonly attempts?: number }
  /** Of turns that say nothing else. */
  readonly sampling?: Sampling
  /** @default 'rollout' */
  readonly kind?: TaskKind
  /** Larger runs first within its class. @default 0 */
  readonly priority?: number
  /** Smallest weight version that may sample its turns. @default any */
  readonly minVersion?: number
  /** Handed back untouched, with the result and with every turn. */
  readonly meta?: M
}

interface Ended<M> {
  readonly episodeId: string
  readonly kind: TaskKind
  /** What was said, by the last attempt: one exact sequence for token ids. */
  readonly trajectory: Trajectory<M>
  /**
   * Sequences that came before `trajectory`: none for token ids. With text and chat messages a server may render what went before in other tokens
   * than the policy wrote; a new sequence then begins.
   */
  readonly earlier: readonly Trajectory<M>[]
  /** How often the code ran. */
  readonly attempts: number
  /** From the call to the end, in milliseconds. */
  readonly totalMs: number
  readonly meta: M
}

/** What an episode ended with. Exactly one for each, whatever happened to it. */
export type EpisodeResult<T, M = unknown> = Ended<M> &
  (
    | { readonly outcome: 'completed' /** What the code returned. */; readonly value: T; readonly error: null }
    | { readonly outcome: 'failed' | 'cancelled' | 'expired'; readonly value: null; readonly error: RolloutError }
  )

/** Options with their defaults filled in. */
export interface CheckedEpisode {
  readonly id: string | null
  readonly sessionId: string | null
  readonly signal: AbortSignal | undefined
  readonly timeoutMs: number | null
  readonly attempts: number
  readonly sampling: Sampling | undefined
  readonly kind: TaskKind
  readonly priority: number
  readonly minVersion: number | null
  readonly meta: unknown
}
