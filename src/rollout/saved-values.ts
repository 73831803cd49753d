/**
 * Values that JSON cannot hold by itself, to plain data and back: typed arrays, completions, and a user's own `meta`.
 */
import { errorTable, RolloutError, type RolloutErrorCode } from '../errors.ts'
import { type Report, show } from '../problems.ts'
import type { Completion, Segment } from './completion.ts'
import type { SavedCompletion, SavedTokens } from './saved.ts'

/** The bytes of the first `length` elements, as they are in memory: every machine that runs Node 20 is little-endian, but IBM Z. */
export function encode(array: Int32Array | Float32Array, length: number = array.length): string {
  return Buffer.from(array.buffer, array.byteOffset, 4 * length).toString('base64')
}

export function encodeIds(ids: ArrayLike<number>): string {
  return encode(ids instanceof Int32Array ? ids : Int32Array.from(ids))
}

/** A copy of its own: the array may be written to. Null for what is no such text. */
export function decodeIds(text: unknown): Int32Array | null {
  const bytes = bytesOf(text)
  return bytes === null ? null : new Int32Array(bytes)
}

export function decodeLogprobs(text: unknown): Float32Array | null {
  const bytes = bytesOf(text)
  return bytes === null ? null : new Float32Array(bytes)
}

function bytesOf(text: unknown): ArrayBuffer | null {
  if (typeof text !== 'string') return null
  const bytes = Buffer.from(text, 'base64')
  // Buffer passes over what is no base64.
  if (bytes.length % 4 !== 0 || bytes.toString('base64') !== text) return null
  return new Uint8Array(bytes).buffer
}

/** Copies of plain data, as JSON would read it back; everything else is reported by its path. */
export function plain(value: unknown, path: string, report: Report, above: readonly unknown[] = []): unknown {
  if (value === null || typeof value === 'string' || typeof value === 'boolean') return value
  if (typeof value === 'number' && Number.isFinite(value)) return value
  if (typeof value === 'object' && !above.includes(value)) {
    const within = [...above, value]
    if (Array.isArray(value)) return Array.from(value, (each, at) => plain(each, `${path}[${at}]`, report, within))
    const prototype: unknown = Object.getPrototypeOf(value)
    if (prototype === Object.prototype || prototype === null) {
      const entries = Object.entries(value).filter(([, each]) => each !== undefined)
      return Object.fromEntries(entries.map(([key, each]) => [key, plain(each, `${path}.${key}`, report, within)]))
    }
  }
  report(path, 'what JSON can hold', typeof value === 'object' ? kindOf(value, above) : show(value))
  return null
}

function kindOf(value: object, above: readonly unknown[]): string {
  return above.includes(value) ? 'a circle' : `a ${value.constructor?.name ?? 'strange object'}`
}

function saveTokens(
  tokens: Pick<Completion, 'tokenIds' | 'logprobs' | 'logprobBasis' | 'text' | 'versions'>,
): SavedTokens {
  const { tokenIds, logprobs, logprobBasis, text, versions } = tokens
  return {
    ids: encode(tokenIds),
    logprobs: logprobs.length === tokenIds.length ? encode(logprobs) : null,
    basis: logprobBasis,
    text,
    versions: versions.map((span) => ({ ...span })),
  }
}

export function saveSegments(segments: readonly Segment[]): Segment[] {
  return segments.map((segment) => ({ ...segment }))
}

export function saveCompletion(completion: Completion, meta: unknown): SavedCompletion {
  const { taskId, sample, kind, outcome, finishReason, segments, timings, error } = completion
  return {
    taskId,
    sample,
    kind,
    outcome,
    finishReason,
    tokens: saveTokens(completion),
    segments: saveSegments(segments),
    timings: { ...timings },
    error: error === null ? null : saveError(error),
    ...(meta === undefined ? {} : { meta }),
  }
}

function saveError({ code, message, instance, status }: RolloutError): SavedCompletion['error'] {
  return { code, message, ...(instance === undefined ? {} : { instance }), ...(status === undefined ? {} : { status }) }
}

/** `shiftMs` brings its times to the clock of the run that reads it. */
export function restoreCompletion(saved: SavedCompletion, shiftMs: number): Completion {
  const { taskId, sample, kind, outcome, finishReason, tokens, segments, timings, error, meta } = saved
  return {
    id: `${taskId}/${sample}`,
    taskId,
    sample,
    kind,
    outcome,
    finishReason,
    text: tokens.text,
    tokenIds: decodeIds(tokens.ids)!,
    logprobs: tokens.logprobs === null ? new Float32Array(0) : decodeLogprobs(tokens.logprobs)!,
    versions: tokens.versions,
    logprobBasis: tokens.basis,
    segments: shiftSegments(segments, shiftMs),
    timings,
    error: error === null ? null : restoreError(error),
    meta,
  }
}

function restoreError({ code, message, ...fields }: NonNullable<SavedCompletion['error']>): RolloutError {
  return new RolloutError(code in errorTable ? (code as RolloutErrorCode) : 'ENGINE_ERROR', message, fields)
}

export function shiftSegments(segments: readonly Segment[], shiftMs: number): Segment[] {
  return segments.map((segment) => ({
    ...segment,
    placedAt: segment.placedAt + shiftMs,
    firstTokenAt: segment.firstTokenAt === null ? null : segment.firstTokenAt + shiftMs,
    endedAt: segment.endedAt + shiftMs,
  }))
}
