/**
 * The end of an attempt as the sample sees it: its segment is written and every token of it is labelled with a version (I8).
 */
import type { WireSpan } from '../engines/driver.ts'
import type { SegmentEnd, VersionSpan } from '../rollout/completion.ts'
import { addSegment, addSpan, type Output, outputOf, type Sample, tokenCount } from '../rollout/sample.ts'
import { isTokenIds } from '../rollout/task.ts'
import { noteAttempt } from '../scheduling/sessions.ts'
import { type Attempt, can, type Run } from './run.ts'

/** Separates sample and attempt: writes the segment, labels its tokens, and counts what the attempt was good for. */
export function part(
  run: Run,
  attempt: Attempt,
  sample: Sample,
  reason: SegmentEnd,
  spans: readonly WireSpan[] | null,
): void {
  const now = run.clock.now()
  const end = tokenCount(sample)
  run.attempts.delete(sample)
  attempt.sample = null
  attempt.reason = reason
  attempt.produced = end - attempt.start
  attempt.instance.totals.tokens += attempt.produced
  sample.heldMs += run.paces[sample.task.spec.kind].now() - attempt.beganAt
  // Tokens that are about to be thrown away are no progress: a sample that always breaks off midway would be tried for ever.
  if (end > attempt.start && (reason === 'finished' || isResumable(attempt, sample))) sample.fruitless = 0
  else if (reason === 'failed' || reason === 'timedOut') sample.fruitless++
  const { session } = sample.task
  if (session !== null) noteAttempt(session, attempt.instance.id, attempt.version, reason)
  if (end > attempt.start) label(attempt, outputOf(sample), end, spans)
  addSegment(sample, {
    instance: attempt.instance.id,
    attempt: attempt.requestId,
    start: attempt.start,
    end,
    reason,
    placedAt: attempt.placedAt,
    firstTokenAt: attempt.firstTokenAt,
    endedAt: now,
  })
}

/** The spans of a sample as they would be if its attempt ended now. */
export function spansSoFar(attempt: Attempt, output: Output): readonly VersionSpan[] {
  const copy = { ...output, spans: [...output.spans] }
  label(attempt, copy, output.length, null)
  return copy.spans
}

/** Decision 3: the server's own spans, else the version when the request was sent; where that changed under it, split by arrival. */
function label(attempt: Attempt, output: Output, end: number, spans: readonly WireSpan[] | null): void {
  let covered = attempt.start
  for (const span of spans ?? []) {
    const start = Math.max(covered, attempt.start + span.start)
    const until = Math.min(end, attempt.start + span.end)
    byArrival(output, attempt, covered, Math.min(start, end))
    addSpan(output, { version: versionOf(span.version), start, end: until })
    covered = Math.max(covered, until)
  }
  byArrival(output, attempt, covered, end)
}

/** What came before the server was frozen is surely of the version then; what came after may have been on its way. */
function byArrival(output: Output, { version, seams }: Attempt, from: number, end: number): void {
  let start = from
  let current = version
  let mixed = false
  for (const seam of seams ?? []) {
    const until = Math.min(Math.max(seam.at, start), end)
    addSpan(output, { version: current, start, end: until, ...(mixed ? { mixed } : {}) })
    start = until
    current = seam.version
    mixed = true
  }
  addSpan(output, { version: current, start, end, ...(mixed ? { mixed } : {}) })
}

/** Versions are integers to users, strings on the wire; what is no integer is no version of ours. */
export function versionOf(label: string | null): number | null {
  const version = Number(label)
  return Number.isSafeInteger(version) && String(version) === label && version >= 0 ? version : null
}

/** Whether a sample whose attempt is broken off goes on from its tokens. */
export function isResumable({ instance }: Attempt, { task }: Sample): boolean {
  return can(instance).tokenIds && (task.promptTokenIds !== null || isTokenIds(task.spec.prompt))
}
