/**
 * The conformance suite: whether a server does, through its driver, what the supervisor relies on, and what it means for training data where
 * it does not. Results are data, so that any test runner can wrap them and `doctor --conformance` can print them. Checks that change the
 * server run only when they are allowed; each has a deadline, leaves no request behind, and opens a server that it paused.
 */
import { type Clock, realClock } from '../clock.ts'
import type { EngineDriver, Probe } from '../engines/driver.ts'
import { messageOf, RolloutError } from '../errors.ts'
import { GENERATION_CHECKS } from './conformance-generate.ts'
import { LOAD_CHECKS } from './conformance-load.ts'
import { PHASE_CHECKS } from './conformance-phases.ts'
import { REFUSAL_CHECKS } from './conformance-refusals.ts'
import { createTools, Mismatch, NotOffered, type Tools } from './conformance-tools.ts'

/** What came of a check. `skipped`: nobody allowed it, or it could not be carried out here. */
export type ConformanceOutcome = 'works' | 'does not' | 'not offered' | 'skipped'

/** One line of the table. */
export interface ConformanceResult {
  readonly name: string
  readonly outcome: ConformanceOutcome
  /** What was seen, with figures. */
  readonly found: string
  readonly meansForTraining: string
  readonly ms: number
}

/** What came of all checks on one server. */
export interface ConformanceReport {
  readonly engine: string
  readonly engineVersion: string | null
  readonly probe: Probe
  readonly results: readonly ConformanceResult[]
  /** False where any check says `does not`. */
  readonly conforms: boolean
}

/** What the checks may do to the server beside generating. Nothing of it is done by default. */
export interface ConformanceAllowance {
  /** Stop the server for moments: requests of others wait. */
  readonly pause?: boolean
  /** Load these two checkpoints in turn, as the server sees their folders. It is left with the first, under a new version. */
  readonly weights?: readonly [string, string]
  /** Give its accelerator memory back and take it again. */
  readonly release?: boolean
  /** Stops the server and starts it as it was; also allows requests that were seen to end a server. */
  readonly restart?: () => Promise<void>
}

/** Recomputes the log-probabilities of `tokens` after `prompt`, from the checkpoint in that folder. */
export type ScoreTokens = (
  weights: string,
  prompt: readonly number[],
  tokens: readonly number[],
) => ArrayLike<number> | Promise<ArrayLike<number>>

/** Options of checkConformance. */
export interface ConformanceOptions {
  /** @default nothing */
  readonly allow?: ConformanceAllowance
  /**
   * The log-probabilities of generated tokens, recomputed from a checkpoint of `allow.weights` at temperature 1. Without it nobody
   * knows whether what was cached of old weights is gone: a poisoned cache repeats itself.
   */
  readonly score?: ScoreTokens
  /** Token ids that the server's vocabulary has. @default [4, 5, 6] */
  readonly prompt?: readonly number[]
  /** Most sequences to send at once; the checks at full capacity are skipped on a larger server. @default 64 */
  readonly concurrency?: number
  /** Names of the checks to run. @default all */
  readonly only?: readonly string[]
  /** How long a connection stays idle before it is used again, in milliseconds; 0 skips that check. @default 7000 */
  readonly idleMs?: number
  /** Limit on every single check, in milliseconds. @default 60000 */
  readonly checkMs?: number
  readonly onResult?: (result: ConformanceResult) => void
  /** Ends the run between and inside checks; what it throws then is the signal's reason. */
  readonly signal?: AbortSignal
  /** @default the process's monotonic clock */
  readonly clock?: Clock
}

/** A reason not to carry a check out. */
export interface Unfit {
  readonly outcome: 'not offered' | 'skipped'
  readonly found: string
}

/** What of the options the checks look at. */
export interface CheckedConformance {
  readonly allow: ConformanceAllowance
  readonly score: ScoreTokens | null
  readonly prompt: readonly number[]
  readonly concurrency: number
  readonly idleMs: number
}

/** One promise of a driver. */
export interface Check {
  readonly name: string
  /** What training data has of it. */
  readonly works: string
  /** What training data lacks, or suffers, without it. */
  readonly without: string
  readonly unfit?: (probe: Probe, options: CheckedConformance) => Unfit | null
  /** Returns what was seen; throws Mismatch where the promise is broken. */
  readonly run: (tools: Tools) => Promise<string>
}

const CHECKS: readonly Check[] = [...GENERATION_CHECKS, ...LOAD_CHECKS, ...REFUSAL_CHECKS, ...PHASE_CHECKS]

/** Names of the checks, in their order. */
export const conformanceChecks: readonly string[] = CHECKS.map(({ name }) => name)

const CHECK_MS = 60_000
const IDLE_MS = 7_000

/**
 * Runs the suite on the server behind a driver. The driver stays open. @throws what its first probe throws, and INVALID_OPTIONS for
 * names that are no checks
 */
export async function checkConformance(
  driver: EngineDriver,
  options: ConformanceOptions = {},
): Promise<ConformanceReport> {
  const { only, signal, clock = realClock, checkMs = CHECK_MS, onResult } = options
  const unknown = only?.filter((name) => !conformanceChecks.includes(name)) ?? []
  if (unknown.length > 0) {
    const problem = { path: 'only', expected: `names of ${conformanceChecks.join(', ')}`, found: unknown.join(', ') }
    throw new RolloutError(
      'INVALID_OPTIONS',
      `checkConformance: only: expected ${problem.expected}, found ${problem.found}`,
      {
        problems: [problem],
      },
    )
  }
  const checked: CheckedConformance = {
    allow: options.allow ?? {},
    score: options.score ?? null,
    prompt: options.prompt ?? [4, 5, 6],
    concurrency: options.concurrency ?? 64,
    idleMs: options.idleMs ?? IDLE_MS,
  }
  const probe = await driver.probe(signal)
  const results: ConformanceResult[] = []
  for (const check of CHECKS) {
    signal?.throwIfAborted()
    if (only !== undefined && !only.includes(check.name)) continue
    const result = await carryOut(check)
    results.push(result)
    onResult?.(result)
  }
  const conforms = results.every(({ outcome }) => outcome !== 'does not')
  return { engine: probe.engine, engineVersion: probe.engineVersion, probe, results, conforms }

  async function carryOut(check: Check): Promise<ConformanceResult> {
    const from = clock.now()
    const said = (outcome: ConformanceOutcome, found: string): ConformanceResult => {
      const meansForTraining = outcome === 'works' ? check.works : check.without
      return { name: check.name, outcome, found, meansForTraining, ms: clock.now() - from }
    }
    const unfit = check.unfit?.(probe, checked) ?? null
    if (unfit !== null) return said(unfit.outcome, unfit.found)
    const limit = new AbortController()
    const end = (): void => limit.abort(signal?.reason)
    signal?.addEventListener('abort', end)
    const words = `expected an end within ${checkMs / 1_000} s, found none`
    const timer = clock.setTimeout(() => limit.abort(new Mismatch(words)), checkMs)
    const tools = createTools({ driver, probe, options: checked, clock, signal: limit.signal })
    try {
      return said('works', await check.run(tools))
    } catch (error) {
      signal?.throwIfAborted()
      const reason: unknown = limit.signal.aborted ? limit.signal.reason : error
      return said(reason instanceof NotOffered ? 'not offered' : 'does not', messageOf(reason))
    } finally {
      clock.clearTimeout(timer)
      signal?.removeEventListener('abort', end)
      await tools.leave()
    }
  }
}
