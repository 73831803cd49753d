/**
 * One sequence inside an embedded engine: what it was asked, what it has so far, when it ends, and which versions its tokens carry.
 */
import type { EngineSampling, KvCache } from './embedded-sampler.ts'
import { EOS, textOfToken } from './tiny-policy.ts'

export type Finish =
  | { readonly type: 'stop'; readonly matched: number | string }
  | { readonly type: 'length' }
  /** From the queue a sequence leaves at once; a running one takes part in one more step. */
  | { readonly type: 'abort'; readonly from: 'running' | 'waiting' }

export interface Span {
  readonly version: string
  readonly start: number
  readonly end: number
}

/** Told of a sequence's progress, within a step. */
export interface SequenceListener {
  token(): void
  end(): void
}

export interface Sequence {
  readonly promptTokenIds: readonly number[]
  readonly sampling: EngineSampling
  readonly tokenIds: number[]
  readonly logprobs: number[]
  readonly state: 'waiting' | 'running' | 'ended'
  readonly finish: Finish | null
  readonly cachedTokens: number
  readonly retractions: number
}

/** A sequence as its engine sees it. */
export interface LiveSequence extends Sequence, KvCache {
  state: Sequence['state']
  finish: Finish | null
  cachedTokens: number
  retractions: number
  readonly listener: SequenceListener
  readonly maxNewTokens: number
  abortAsked: boolean
  /** Versions before the present one, each with the number of tokens at its end. */
  readonly changes: { version: string; tokens: number }[]
}

/** Why the sequence ends with its newest token, or null. The order is that of the real engines: abort, text, token, length. */
export function finishOf({ tokenIds, sampling, maxNewTokens, abortAsked }: LiveSequence): Finish | null {
  if (abortAsked) return { type: 'abort', from: 'running' }
  const holdsStops = sampling.minTokensHoldStops && tokenIds.length <= sampling.minNewTokens
  for (const text of holdsStops ? [] : sampling.stop) {
    // Text grows by one character a token at most, so a match can only be at the very end.
    if (endOfText(tokenIds, text.length) === text) return { type: 'stop', matched: text }
  }
  const token = tokenIds[tokenIds.length - 1]!
  if (token === EOS && !sampling.ignoreEos) return { type: 'stop', matched: token }
  if (!sampling.ignoreStopIds && sampling.stopTokenIds.includes(token)) return { type: 'stop', matched: token }
  return tokenIds.length >= maxNewTokens ? { type: 'length' } : null
}

/** Which versions its tokens so far were sampled with, in order and without gaps. */
export function spansOf({ changes, tokenIds }: LiveSequence, version: string): Span[] {
  const spans: { version: string; start: number; end: number }[] = []
  for (const change of [...changes, { version, tokens: tokenIds.length }]) {
    const last = spans.at(-1)
    if (last !== undefined && change.tokens <= last.end) continue
    if (last !== undefined && last.version === change.version) last.end = change.tokens
    else spans.push({ version: change.version, start: last?.end ?? 0, end: change.tokens })
  }
  return spans
}

/** Prompt and generated tokens. */
export function contextOf({ promptTokenIds, tokenIds }: LiveSequence): readonly number[] {
  return tokenIds.length === 0 ? promptTokenIds : [...promptTokenIds, ...tokenIds]
}

function endOfText(tokenIds: readonly number[], length: number): string {
  let text = ''
  for (let i = tokenIds.length - 1; i >= 0 && text.length < length; i--) text = textOfToken(tokenIds[i]!) + text
  return text
}
