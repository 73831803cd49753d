/**
 * What an engine's scheduler can be asked, whichever wire protocol asks, and in what the schedulers of real engines differ.
 */
import type { EngineSampling, LogprobMode } from './embedded-sampler.ts'
import type { Sequence, SequenceListener, Span } from './embedded-sequence.ts'
import type { TinyWeights } from './tiny-policy.ts'

export interface CoreCounters {
  running: number
  waiting: number
  aborted: number
  tokensGenerated: number
  /** Those of sequences that have ended. */
  tokensEnded: number
  promptTokens: number
  cachedTokens: number
  maxRunning: number
  retractions: number
  steps: number
}

/** In what real engines differ. */
export interface CoreManners {
  readonly logprobs: LogprobMode
  /** Whether a seed counts, and what its stream hangs on: the position in the context, or the number of tokens of the request. */
  readonly seeds: 'ignored' | 'byPosition' | 'byRequest'
  /** Of the context length, tokens that no request may use. */
  readonly reservedTokens: number
  /** Whether an abort ends a running sequence at once, or after one more step. */
  readonly abortsAtOnce: boolean
}

export interface CoreOptions extends CoreManners {
  readonly weights: TinyWeights
  readonly version: string
  readonly capacity: number
  readonly stepMs: number
  readonly perSequenceMs: number
  readonly slow: number
  readonly seed: number
  readonly contextLength: number
  readonly counters: CoreCounters
  /** After one or several steps in a row: the moment to write to sockets. */
  readonly onTurnEnd: () => void
}

export interface EngineCore {
  readonly weights: TinyWeights
  readonly version: string
  submit(promptTokenIds: readonly number[], sampling: EngineSampling, listener: SequenceListener): Sequence
  abort(sequence: Sequence): void
  abortAll(): void
  /** The client is gone: the slot is free at once, unless the engine is frozen. */
  drop(sequence: Sequence): void
  /**
   * Admits no more, and stops stepping but for 'finish', which lets what runs run out. 'retract' gives every running sequence's
   * cache back and queues it again; 'keep' leaves all as it is.
   */
  freeze(running: 'retract' | 'keep' | 'finish'): void
  thaw(): void
  /** Gives the cache of every running sequence back and puts them first in the queue, from where they start again when they may. */
  preempt(): void
  /** Empties the prefix cache; refused (false) while sequences run, and if `waiting` matters also while some wait that could run. */
  flush(waiting?: 'matters' | 'ignored'): boolean
  /** Takes effect with the next step. Caches stay as they are. */
  setWeights(weights: TinyWeights): void
  setVersion(version: string): void
  /** Which versions the sequence's tokens so far are stamped with. */
  spansOf(sequence: Sequence): Span[]
  setSlow(factor: number): void
  close(): void
}
