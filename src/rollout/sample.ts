/**
 * One of the sequences of a task: the unit of scheduling, a plain record (never an actor). While it waits it is only this
 * record; buffers are made with its first token. Tokens, log-probabilities and spans grow together (I8).
 */
import type { Completion, LogprobBasis, Segment, VersionSpan } from './completion.ts'
import type { Group } from './group.ts'
import type { Session } from './session.ts'
import type { CheckedTask } from './task.ts'
import type { Waiter } from './waiter.ts'

/** A task while any of its samples lives. */
export interface LiveTask {
  readonly id: string
  readonly spec: CheckedTask
  readonly samples: Sample[]
  /** By sample, as they end. */
  readonly completions: Completion[]
  /** How many samples have ended. */
  ended: number
  /** True from the first lease of any sample. */
  started: boolean
  /** True while it waits for the next on-policy batch (decision 26). */
  carried: boolean
  /** True while its samples wait aside for the turn of the operation that they belong to. */
  isHeld: boolean
  /** Token ids of a text or chat prompt, once a server has made them. */
  promptTokenIds: readonly number[] | null
  /** Largest token id of the prompt, or -1 while there are none. */
  maxTokenId: number
  /** What it asks of a server, as bits of NEED. */
  readonly needs: number
  /** Of the conversation that it belongs to. */
  readonly session: Session | null
  /** The episode that it is a turn of. */
  readonly episode: string | null
  /** Set when somebody waits for the group. */
  resolve: ((group: Group) => void) | null
  group: Group | null
  /** Told of this task's events, when somebody listens. */
  listeners: Set<(event: unknown) => void> | null
  offSignal: (() => void) | null
}

export interface Sample extends Waiter {
  readonly task: LiveTask
  readonly index: number
  status: 'waiting' | 'running' | 'ended'
  /** Why it is not in the queue although it waits, or null. */
  parked: 'backoff' | 'version' | 'carried' | 'phase' | 'tokenizing' | null
  /** Timer of its backoff. */
  backoff: unknown
  queuedAt: number
  submittedAt: number
  /** Milliseconds spent waiting, over all its waits. */
  waitedMs: number
  firstTokenAt: number | null
  /** Milliseconds under leases that have ended. */
  heldMs: number
  /** Attempts in a row without a new token. */
  fruitless: number
  busy: number
  /** How often it was made to begin again by somebody's wish (decision 5). */
  restarts: number
  /** Instances that refused it as their own fault. */
  refusedBy: Set<string> | null
  output: Output | null
  segments: Segment[]
}

/** What has been generated so far. */
export interface Output {
  tokenIds: Int32Array
  logprobs: Float32Array
  length: number
  hasLogprobs: boolean
  basis: LogprobBasis
  text: string | null
  /** Tokens at its end that are in no text, because they end inside a character: an interrupted sample does not go on from them. */
  hidden: number
  spans: VersionSpan[]
}

const NO_SEGMENTS: Segment[] = []
/** Room for the first tokens, or for all of them where fewer are asked for: most outputs then need no second buffer. */
const FIRST_TOKENS = 256

export function createSample(task: LiveTask, index: number, order: number, now: number): Sample {
  return {
    task,
    index,
    priority: task.spec.priority,
    order,
    track: 0,
    lane: null,
    before: null,
    after: null,
    status: 'waiting',
    parked: null,
    backoff: null,
    queuedAt: now,
    submittedAt: now,
    waitedMs: 0,
    firstTokenAt: null,
    heldMs: 0,
    fruitless: 0,
    busy: 0,
    restarts: 0,
    refusedBy: null,
    output: null,
    segments: NO_SEGMENTS,
  }
}

export function outputOf(sample: Sample): Output {
  if (sample.output !== null) return sample.output
  const room = Math.min(FIRST_TOKENS, sample.task.spec.sampling.maxTokens)
  sample.output = {
    tokenIds: new Int32Array(room),
    logprobs: new Float32Array(room),
    length: 0,
    hasLogprobs: true,
    basis: 'sampled',
    text: null,
    hidden: 0,
    spans: [],
  }
  return sample.output
}

export function tokenCount(sample: Sample): number {
  return sample.output === null ? 0 : sample.output.length
}

/** Adds what a chunk brought, and nothing else of it. */
export function append(
  output: Output,
  tokenIds: readonly number[],
  logprobs: readonly number[],
  text: string | null,
): void {
  const length = output.length + tokenIds.length
  if (length > output.tokenIds.length) grow(output, length)
  output.tokenIds.set(tokenIds, output.length)
  if (logprobs.length === tokenIds.length) output.logprobs.set(logprobs, output.length)
  else output.hasLogprobs = false
  output.length = length
  if (text !== null) output.text = output.text === null ? text : output.text + text
}

function grow(output: Output, atLeast: number): void {
  let size = output.tokenIds.length
  while (size < atLeast) size *= 2
  const tokenIds = new Int32Array(size)
  const logprobs = new Float32Array(size)
  tokenIds.set(output.tokenIds)
  logprobs.set(output.logprobs)
  output.tokenIds = tokenIds
  output.logprobs = logprobs
}

/** Forgets the tokens that are in no text, of its last segment. @returns how many */
export function dropHidden(sample: Sample): number {
  const { output } = sample
  if (output === null || output.hidden === 0) return 0
  const dropped = output.hidden
  output.hidden = 0
  output.length -= dropped
  const last = sample.segments.at(-1)!
  sample.segments[sample.segments.length - 1] = {
    ...last,
    end: last.end - dropped,
    dropped: (last.dropped ?? 0) + dropped,
  }
  output.spans = spansUntil(output.spans, output.length)
  return dropped
}

export function spansUntil(spans: readonly VersionSpan[], end: number): VersionSpan[] {
  return spans.filter((span) => span.start < end).map((span) => (span.end <= end ? span : { ...span, end }))
}

/** Forgets all tokens: the sample begins again. Its segments stay, empty, and say what was dropped. @returns how many tokens that were */
export function restart(sample: Sample): number {
  const dropped = tokenCount(sample)
  sample.output = null
  if (dropped > 0) sample.segments = sample.segments.map(emptied)
  return dropped
}

function emptied(segment: Segment): Segment {
  const dropped = segment.end - segment.start + (segment.dropped ?? 0)
  return { ...segment, start: 0, end: 0, ...(dropped === 0 ? {} : { dropped }) }
}

/** Labels the tokens `[start, end)`, joining them to the span before when it says the same. */
export function addSpan(output: Output, span: VersionSpan): void {
  if (span.start >= span.end) return
  const last = output.spans.at(-1)
  if (last !== undefined && last.version === span.version && last.end === span.start && last.mixed === span.mixed) {
    output.spans[output.spans.length - 1] = { ...last, end: span.end }
  } else {
    output.spans.push(span)
  }
}

export function addSegment(sample: Sample, segment: Segment): void {
  if (sample.segments === NO_SEGMENTS) sample.segments = [segment]
  else sample.segments.push(segment)
}
