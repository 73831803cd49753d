/**
 * What a trainer submits, and the check of it: every problem of a task is found before any of it is admitted.
 */

export type TaskKind = 'rollout' | 'evaluation'

/** One message of a chat prompt; the server's own template joins them. */
export interface ChatMessage {
  readonly role: string
  readonly content: string
}

/** Token ids are exact and preferred; text and chat messages are turned into ids by the server where it can. */
export type Prompt = readonly number[] | Int32Array | string | readonly ChatMessage[]

/** How tokens are chosen, and when a sample ends. */
export interface Sampling {
  /** Tokens to generate at most, over all attempts of a sample. @default 1024 */
  readonly maxTokens?: number
  /** @default 0 */
  readonly minTokens?: number
  /** 0 is greedy. @default 1 */
  readonly temperature?: number
  /** Nucleus mass in (0, 1]. @default 1 */
  readonly topP?: number
  /** -1 is off. @default -1 */
  readonly topK?: number
  /** In [0, 1]. @default 0 */
  readonly minP?: number
  /** The sample ends with the token that completes one of these, its text with the string; interruptions make no difference. */
  readonly stop?: readonly string[]
  readonly stopTokenIds?: readonly number[]
  /** Generate past the end-of-sequence token. @default false */
  readonly ignoreEos?: boolean
  /** Integer >= 0. The engine is sent a hash of (seed, sample, segment), so samples of one task differ. */
  readonly seed?: number
}

/** What a trainer submits: a prompt, and how many sequences to sample from it. */
export interface Task<M = unknown> {
  readonly prompt: Prompt
  readonly sampling?: Sampling
  /** How many sequences to sample: 1 to 1024. @default 1 */
  readonly samples?: number
  /** @default 'rollout' */
  readonly kind?: TaskKind
  /** Unique among live tasks. @default one of ours */
  readonly id?: string
  /** Larger runs first within its class. @default 0 */
  readonly priority?: number
  /**
   * Name of the conversation that it belongs to: it is given to the instance where the session ran last, which has its prefix in the cache, while
   * that has a free slot, and else to whichever the policy picks. @default none
   */
  readonly sessionId?: string
  /** Smallest weight version that may sample this task. @default any */
  readonly minVersion?: number
  /** Handed back untouched with every completion. */
  readonly meta?: M
  /** Aborting it cancels the task. */
  readonly signal?: AbortSignal
}

/** A task with its defaults filled in; what the rest of the supervisor sees. */
export interface CheckedTask {
  readonly prompt: Prompt
  /** Largest token id of the prompt, or -1 for text. Compared with an instance's vocabulary before it is sent (R8). */
  readonly maxTokenId: number
  readonly sampling: CheckedSampling
  readonly samples: number
  readonly kind: TaskKind
  readonly priority: number
  readonly sessionId: string | null
  readonly minVersion: number | null
  readonly meta: unknown
  readonly signal: AbortSignal | undefined
}

export interface CheckedSampling {
  readonly maxTokens: number
  readonly minTokens: number
  readonly temperature: number
  readonly topP: number
  readonly topK: number
  readonly minP: number
  readonly stop: readonly string[]
  readonly stopTokenIds: readonly number[]
  readonly ignoreEos: boolean
  readonly seed: number | null
}

/** Well above the groups that trainers use; more is taken for a mistake. */
export const MAX_SAMPLES = 1024

export function isTokenIds(prompt: Prompt): prompt is readonly number[] | Int32Array {
  return typeof prompt !== 'string' && (prompt instanceof Int32Array || typeof prompt[0] === 'number')
}
