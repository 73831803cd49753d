/**
 * What an episode has said so far: prompts, tool results and generations in one sequence of tokens, with a mask of what the policy wrote.
 * Only turns that are whole enter it, so tokens, mask, log-probabilities and spans always agree (I8).
 *
 * Tokens are never made twice: a turn goes on from the ids of the one before. Where a server makes the ids (text, chat messages), it
 * makes them anew for each turn; they are joined where they begin with the tokens so far, and begin a sequence of their own where not.
 */
import { RolloutError } from '../errors.ts'
import type { Completion, LogprobBasis, VersionSpan } from './completion.ts'
import { type ChatMessage, isTokenIds, type Prompt } from './task.ts'

/** One turn of an episode, and where the tokens that it wrote are in the trajectory. */
export interface Turn<M = unknown> {
  readonly start: number
  readonly end: number
  readonly completion: Completion<M>
}

/** Everything that was said, in one sequence: what a trainer computes its loss on. */
export interface Trajectory<M = unknown> {
  /** Prompts, generations and what the environment added, in order. Empty where the servers show no token ids. */
  readonly tokenIds: Int32Array
  /** As long as tokenIds: 1 where the policy wrote the token, 0 where a prompt or the environment did. */
  readonly mask: Uint8Array
  /** Natural logarithms, as long as tokenIds, 0 where mask is 0; empty where an engine gives none. */
  readonly logprobs: Float32Array
  readonly logprobBasis: LogprobBasis
  /** Of the tokens that the policy wrote, by their place in tokenIds. */
  readonly versions: readonly VersionSpan[]
  readonly turns: readonly Turn<M>[]
}

export interface Transcript {
  /** Tokens so far, where all are known. */
  readonly tokenIds: Int32Array
  /** The prompt of a turn that goes on from here. Keeps nothing: a turn that fails leaves no trace. */
  promptWith(append: Prompt | undefined): Prompt
  /** Takes a turn that is whole. `promptIds` are the token ids that its prompt became, or null where nobody knows them. */
  add(prompt: Prompt, promptIds: ArrayLike<number> | null, completion: Completion): void
  /** The sequence now, and those before it that a server's template has rewritten since. */
  view(): { readonly trajectory: Trajectory; readonly earlier: readonly Trajectory[] }
}

/** A sequence as it grows. */
interface Sequence {
  tokenIds: Int32Array
  logprobs: Float32Array
  mask: Uint8Array
  length: number
  /** False once a turn had tokens that no server showed. */
  known: boolean
  hasLogprobs: boolean
  basis: LogprobBasis
  readonly versions: VersionSpan[]
  readonly turns: Turn[]
}

const FIRST_TOKENS = 1_024

export function createTranscript(): Transcript {
  const earlier: Sequence[] = []
  let now = createSequence()
  /** What was said, in the form in which the caller says it. */
  let said: Prompt | null = null

  function joined(append: Prompt): Prompt {
    if (said === null) return append
    if (isTokenIds(append)) {
      if (!now.known) throw misuse('token ids', 'turns whose token ids no server has shown')
      return joinIds(now.tokenIds.subarray(0, now.length), append)
    }
    if (isTokenIds(said)) throw misuse(kindOf(append), 'token ids, which are exact; append token ids')
    if (typeof said === 'string') {
      if (typeof append === 'string') return said + append
    } else if (typeof append !== 'string') return [...said, ...append]
    throw misuse(kindOf(append), `${kindOf(said)}; an episode goes on as it began, or in token ids`)
  }

  return {
    get tokenIds() {
      return now.tokenIds.slice(0, now.length)
    },
    promptWith(append) {
      const nothing = append === undefined || (typeof append !== 'string' && append.length === 0)
      if (!nothing) return joined(append)
      if (said === null)
        throw misuse('nothing', 'no turn before it; the first turn needs a prompt: generate({ append })')
      return said
    },
    add(prompt, promptIds, completion) {
      const { tokenIds, text } = completion
      const known = promptIds !== null && (tokenIds.length > 0 || text === null || text === '')
      if (now.turns.length > 0 && !(known && now.known && beginsWith(promptIds, now))) {
        earlier.push(now)
        now = createSequence()
      }
      if (known) write(now, promptIds, now.length, 0)
      now.known = known
      record(now, completion, known)
      // Where no server decodes, what the policy said can only be gone on from in token ids.
      if (isTokenIds(prompt) || (known && text === null)) said = now.tokenIds.slice(0, now.length)
      else said = goOn(prompt, text ?? '')
    },
    view: () => ({ trajectory: viewOf(now), earlier: earlier.map(viewOf) }),
  }
}

function createSequence(): Sequence {
  return {
    tokenIds: new Int32Array(FIRST_TOKENS),
    logprobs: new Float32Array(FIRST_TOKENS),
    mask: new Uint8Array(FIRST_TOKENS),
    length: 0,
    known: true,
    hasLogprobs: true,
    basis: 'sampled',
    versions: [],
    turns: [],
  }
}

/** Text and messages go on with what the policy said. */
function goOn(prompt: string | readonly ChatMessage[], text: string): Prompt {
  return typeof prompt === 'string' ? prompt + text : [...prompt, { role: 'assistant', content: text }]
}

function beginsWith(ids: ArrayLike<number>, { tokenIds, length }: Sequence): boolean {
  if (ids.length < length) return false
  for (let at = 0; at < length; at++) if (ids[at] !== tokenIds[at]) return false
  return true
}

/** Writes `ids[from...]` at the end. */
function write(sequence: Sequence, ids: ArrayLike<number>, from: number, mask: 0 | 1): void {
  const until = sequence.length + ids.length - from
  if (until > sequence.tokenIds.length) grow(sequence, until)
  for (let at = from; at < ids.length; at++) sequence.tokenIds[sequence.length + at - from] = ids[at]!
  sequence.mask.fill(mask, sequence.length, until)
  sequence.length = until
}

function grow(sequence: Sequence, atLeast: number): void {
  let size = sequence.tokenIds.length
  while (size < atLeast) size *= 2
  const { tokenIds, logprobs, mask } = sequence
  sequence.tokenIds = new Int32Array(size)
  sequence.logprobs = new Float32Array(size)
  sequence.mask = new Uint8Array(size)
  sequence.tokenIds.set(tokenIds)
  sequence.logprobs.set(logprobs)
  sequence.mask.set(mask)
}

function record(sequence: Sequence, completion: Completion, known: boolean): void {
  const start = sequence.length
  if (known) {
    const { tokenIds, logprobs, versions, logprobBasis } = completion
    write(sequence, tokenIds, 0, 1)
    if (logprobs.length === tokenIds.length) sequence.logprobs.set(logprobs, start)
    else sequence.hasLogprobs = false
    if (logprobBasis === 'raw') sequence.basis = 'raw'
    for (const span of versions) sequence.versions.push({ ...span, start: start + span.start, end: start + span.end })
  }
  sequence.turns.push({ start, end: sequence.length, completion })
}

function viewOf({ tokenIds, logprobs, mask, length, hasLogprobs, basis, versions, turns }: Sequence): Trajectory {
  return {
    tokenIds: tokenIds.slice(0, length),
    mask: mask.slice(0, length),
    logprobs: hasLogprobs ? logprobs.slice(0, length) : new Float32Array(0),
    logprobBasis: basis,
    versions: [...versions],
    turns: [...turns],
  }
}

function joinIds(first: ArrayLike<number>, second: ArrayLike<number>): Int32Array {
  const joined = new Int32Array(first.length + second.length)
  joined.set(first)
  joined.set(second, first.length)
  return joined
}

function kindOf(prompt: Prompt): string {
  if (typeof prompt === 'string') return 'text'
  return isTokenIds(prompt) ? 'token ids' : 'chat messages'
}

function misuse(found: string, after: string): RolloutError {
  const problem = { path: 'append', expected: 'what can follow the turns before it', found: `${found} after ${after}` }
  return new RolloutError(
    'INVALID_TASK',
    `the turn cannot be generated: append: expected ${problem.expected}, found ${problem.found}`,
    {
      problems: [problem],
    },
  )
}
