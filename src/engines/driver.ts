/**
 * What the supervisor asks of an engine. A new engine is one file that implements EngineDriver.
 * A driver holds no schedule and no retry: every call is one try, and throws RolloutError with the code that says whose fault it was.
 * Token chunks are deltas in every driver, whatever the engine streams.
 */
import type { Clock } from '../clock.ts'
import type { FinishReason, LogprobBasis } from '../rollout/completion.ts'
import type { ChatMessage, CheckedSampling } from '../rollout/task.ts'

/** What a held server does with the requests it runs: ends them, or freezes them until it is opened again. */
export type PauseMode = 'abort' | 'keep'

/** What an engine can do; what it cannot is declared, and degrades as documented. */
export interface Capabilities {
  /** Takes and returns token ids, so an interrupted sample resumes exactly where it was. */
  readonly tokenIds: boolean
  readonly logprobs: LogprobBasis | 'none'
  /** Ends one request by its id; without it only closing the socket does. */
  readonly abortById: boolean
  /** Says which weights it has: per token spans, one label, or nothing. */
  readonly versions: 'spans' | 'label' | 'none'
  /** Loads new weights while running. */
  readonly updateWeights: boolean
  /** Reports how many sequences it runs and has waiting. */
  readonly loadReport: boolean
  /** How it can be held; `keep` only where the KV of frozen requests can be computed anew. Empty where it has no such route. */
  readonly pause: readonly PauseMode[]
  /** Gives its GPU memory to a trainer on the same GPUs, and takes it back. */
  readonly release: boolean
}

/** What a server says about itself. */
export interface Probe {
  readonly engine: string
  readonly engineVersion: string | null
  /** Sequences it runs at once; null where it does not say. */
  readonly capacity: number | null
  /** Weights label as the server says it; null where it has none. */
  readonly weightVersion: string | null
  readonly vocabularySize: number | null
  /** Longest prompt plus output in tokens. */
  readonly contextLength: number | null
  readonly paused: boolean
  readonly capabilities: Capabilities
  /** What to change on the server, flags by name. */
  readonly advice: readonly string[]
}

/** Sequences that a server counts by itself. */
export interface Load {
  readonly running: number
  readonly waiting: number
  /** Tokens generated since it started, where it counts them: tells a slow server from one that stands still. */
  readonly generatedTokens?: number
}

/** One sequence to generate. */
export interface GenerateRequest {
  /** Fresh for every attempt, of fixed width: never a prefix of another (F11). */
  readonly requestId: string
  /** Prompt and, when resuming, the tokens generated so far. */
  readonly prompt: readonly number[] | Int32Array | string | readonly ChatMessage[]
  /** `maxTokens` is what is left of the budget; `seed` is this segment's own. */
  readonly sampling: CheckedSampling
  /**
   * When resuming: the end of the text so far, where a stop string has begun there. Servers look for stop strings in new text only, so a driver
   * looks for those that begin here by itself (`isCut`); one that does not, leaves them unfound.
   */
  readonly textBefore?: string | undefined
  /**
   * Called when response headers have arrived: from then on the server knows the id, and an abort by it finds the request. A driver that
   * does not call it costs an interruption a repeated abort, nothing else.
   */
  readonly onAccepted?: () => void
  /**
   * A kept-alive connection was closed under the request before any answer: the server closes what is idle, or it has restarted. Asked before
   * the request is sent a second time; where it answers false, or rejects, the generation throws what happened.
   */
  readonly maySendAgain?: () => Promise<boolean>
}

/** Weight version of the attempt's tokens `[start, end)`, as the server says it. */
export interface WireSpan {
  readonly version: string
  readonly start: number
  readonly end: number
}

/** New tokens since the last chunk. `logprobs` is as long as `tokenIds`, or empty where the engine gives none. */
export interface Chunk {
  readonly tokenIds: readonly number[]
  readonly logprobs: readonly number[]
  readonly text: string | null
  /** Set on the last chunk only. 'abort' is an interruption, not a completion (F12). */
  readonly finishReason: FinishReason | 'abort' | null
  /** True on a last chunk whose end the driver has set and the server knows nothing of: its slot is free when the server says so. */
  readonly isCut?: boolean
  /**
   * How many of the last tokens so far are in no text yet, because they end inside a character, where the engine cannot go on from there: an
   * interrupted sample goes on from before them. @default 0
   */
  readonly hidden?: number
  /** Spans over all tokens of the attempt, on the last chunk, where the engine gives them. */
  readonly versions: readonly WireSpan[] | null
}

/** New weights for one server. */
export interface WeightUpdate {
  readonly version: number
  /** Folder of the weights, as the server sees it. */
  readonly path: string
  /** Requests are frozen there by `pause('keep')`: what is cached of them is computed anew under the new weights. */
  readonly frozen: boolean
}

/** What came back with the GPU memory that a server had given away. */
export interface Reclaimed {
  /** False where the weights were discarded: the server says their old version, and has none until it is updated. */
  readonly weightsKept: boolean
}

/** One server, as the supervisor talks to it. */
export interface EngineDriver {
  readonly engine: string
  /** Asks the server what it is. Never waits longer than the driver's own deadline. */
  probe(signal?: AbortSignal): Promise<Probe>
  load(signal?: AbortSignal): Promise<Load>
  /** The weights label, from where the server keeps it true. */
  weightVersion(signal?: AbortSignal): Promise<string | null>
  /**
   * Streams one sequence. Ends after a chunk with a finish reason, or throws.
   * Aborting the signal closes the socket; nothing is yielded after that. A signal with no listener left serves later generations
   * once this one has ended by itself.
   */
  generate(request: GenerateRequest, signal: AbortSignal): AsyncIterable<Chunk>
  /**
   * What its server would never take of a request, whatever its load, with what to change: or null. Looks only at the form of the prompt
   * and at which options of sampling are set; asked once for each after a probe, so that such samples go to other instances.
   */
  refuses?(request: Pick<GenerateRequest, 'prompt' | 'sampling'>): string | null
  /** Asks the server to end one request; its stream then ends with 'abort'. Unknown ids are no error. */
  abort(requestId: string, signal?: AbortSignal): Promise<void>
  /** Holds the server: requests that come are kept waiting there until `resume`. */
  pause?(mode: PauseMode, signal?: AbortSignal): Promise<void>
  /** Opens a server that is held, by us or since before us; one that is not, it leaves as it is. */
  resume(signal?: AbortSignal): Promise<void>
  /**
   * Loads weights, labels them, flushes every cache that holds work of the old ones, and proves both. The server is quiet, and
   * held where it can be; or it is held with frozen requests. Neither pauses nor resumes.
   */
  updateWeights(update: WeightUpdate, signal?: AbortSignal): Promise<void>
  /**
   * Empties what is cached of older weights, after weights that somebody else loaded; `frozen` as in WeightUpdate.
   * Throws where the server cannot say that it did.
   */
  flush?(frozen: boolean, signal?: AbortSignal): Promise<void>
  /** Gives the GPU memory of a quiet server away, weights and caches. */
  release?(signal?: AbortSignal): Promise<void>
  /** Takes it back. */
  reclaim?(signal?: AbortSignal): Promise<Reclaimed>
  /** Text or chat to token ids, by the server's own tokenizer, where it has a route for it. */
  tokenize?(prompt: string | readonly ChatMessage[], signal?: AbortSignal): Promise<number[]>
  /** Calls back whenever a connection ends that no request of ours ended: the server may have gone. */
  onHangUp?(listener: () => void): void
  close(): Promise<void>
}

/** A call to a driver of the user's own, which may throw where it should reject, and answer with no promise. */
export async function askDriver<T>(call: () => Promise<T>): Promise<T> {
  return call()
}

/** What a driver is made with. */
export interface DriverOptions {
  readonly id: string
  /** Base URL without a trailing slash. */
  readonly url: string
  readonly apiKey: string | undefined
  /** Which of a server's models, where the protocol names one. */
  readonly model?: string | undefined
  readonly clock: Clock
}

/** Makes the driver of one instance. Sends nothing yet. */
export type DriverFactory = (options: DriverOptions) => EngineDriver
