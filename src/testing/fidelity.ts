/**
 * The proof that training data is exact (I8, F8), for anybody's engines: every token's log-probability is computed again under the version
 * stamped on it, by a function that the user gives. A poisoned cache, a KV that was kept, a span that is off by one and a token that was
 * lost all show as a difference, and the report says where.
 */
import { RolloutError } from '../errors.ts'
import type { Completion } from '../rollout/completion.ts'

/** Options of createFidelityChecker. */
export interface FidelityOptions {
  /**
   * Log-probabilities of the tokens that follow the prompt, one each, all under the weights of one version and at the temperature that they
   * were sampled with; null where those weights are not there any more.
   */
  readonly score: (
    version: number,
    promptIds: ArrayLike<number>,
    tokenIds: Int32Array,
    completion: Completion,
  ) => ArrayLike<number> | null | Promise<ArrayLike<number> | null>
  /** Largest difference in nats that is no offence: float32 kernels of engine and scorer add up differently. @default 1e-4 */
  readonly tolerance?: number
  /** How many of the worst offenders, and of the malformed completions, are named. @default 20 */
  readonly worst?: number
}

/** What was found of one kind of token. */
export interface FidelityDifference {
  readonly tokens: number
  /** Nats between the stored and the recomputed log-probability; infinite where one is not a number. */
  readonly largest: number
}

/** A token whose log-probability is not that of its version. */
export interface FidelityOffender {
  /** Id of the completion. */
  readonly completion: string
  readonly instance: string | null
  /** Position in `tokenIds`. */
  readonly token: number
  readonly version: number
  readonly stored: number
  readonly recomputed: number
  readonly difference: number
}

/** What the checks so far have found. */
export interface FidelityReport {
  /** Everything could be checked, and nothing differs by more than the tolerance. */
  readonly exact: boolean
  readonly completions: number
  /** Tokens that were checked. */
  readonly tokens: number
  readonly largest: number
  /** Tokens that could not be checked, by why: stamped with no version, marked as mixed, without a log-probability, or their weights are gone. */
  readonly unchecked: {
    readonly noVersion: number
    readonly mixed: number
    readonly noLogprob: number
    readonly noWeights: number
  }
  readonly versions: Readonly<Record<number, FidelityDifference>>
  /** `first` and `rest` of each segment are all tokens; `seams` of them are the first tokens after an interruption or a change of version. */
  readonly positions: {
    readonly first: FidelityDifference
    readonly rest: FidelityDifference
    readonly seams: FidelityDifference
  }
  /** The largest first. */
  readonly offenders: readonly FidelityOffender[]
  /** Completions whose tokens, log-probabilities, spans and segments do not fit together. */
  readonly malformed: readonly { readonly completion: string; readonly found: string }[]
}

/** Checks completions one by one, in any order, also several at once. */
export interface FidelityChecker {
  /** @param promptIds the prompt as token ids */
  check(promptIds: ArrayLike<number>, completion: Completion): Promise<void>
  readonly report: FidelityReport
}

interface Tally {
  tokens: number
  largest: number
}

/** Makes a checker around a function that scores tokens under a version of the weights. */
export function createFidelityChecker(options: FidelityOptions): FidelityChecker {
  const { score, tolerance = 1e-4, worst = 20 } = options
  const tally = (): Tally => ({ tokens: 0, largest: 0 })
  const all = tally()
  const versions = new Map<number, Tally>()
  const positions = { first: tally(), rest: tally(), seams: tally() }
  const unchecked = { noVersion: 0, mixed: 0, noLogprob: 0, noWeights: 0 }
  const offenders: FidelityOffender[] = []
  const malformed: { completion: string; found: string }[] = []
  let completions = 0
  let misshapen = 0

  function add(to: Tally, difference: number): void {
    to.tokens++
    to.largest = Math.max(to.largest, difference)
  }

  function accuse(offender: FidelityOffender): void {
    if (offenders.length === worst && offenders[worst - 1]!.difference >= offender.difference) return
    const before = offenders.findIndex(({ difference }) => difference < offender.difference)
    offenders.splice(before < 0 ? offenders.length : before, 0, offender)
    if (offenders.length > worst) offenders.pop()
  }

  return {
    async check(promptIds, completion) {
      completions++
      const { id, tokenIds, logprobs, segments } = completion
      const found = misfit(completion)
      if (found !== null) {
        misshapen++
        if (malformed.length < worst) malformed.push({ completion: id, found })
      }
      const starts = new Set(segments.filter(({ start, end }) => end > start).map(({ start }) => start))
      const scores = new Map<number, ArrayLike<number> | null>()
      for (const [version, until] of lastTokens(completion))
        scores.set(version, await scored(version, promptIds, tokenIds.subarray(0, until), completion))
      let covered = 0
      for (const span of completion.versions) {
        const { version, start } = span
        const end = Math.min(span.end, tokenIds.length)
        covered += end - start
        const values = version === null ? null : scores.get(version)!
        if (version === null) unchecked.noVersion += end - start
        else if (span.mixed === true) unchecked.mixed += end - start
        else if (logprobs.length === 0) unchecked.noLogprob += end - start
        else if (values === null) unchecked.noWeights += end - start
        else for (let token = start; token < end; token++) compare(version, token, start, values)
      }
      unchecked.noVersion += Math.max(0, tokenIds.length - covered)

      function compare(version: number, token: number, spanStart: number, values: ArrayLike<number>): void {
        const stored = logprobs[token] ?? Number.NaN
        const recomputed = values[token]!
        const off = Math.abs(recomputed - stored)
        // A log-probability that is not a number is as wrong as can be.
        const difference = Number.isNaN(off) ? Number.POSITIVE_INFINITY : off
        const ofVersion = versions.get(version) ?? tally()
        versions.set(version, ofVersion)
        add(all, difference)
        add(ofVersion, difference)
        add(starts.has(token) ? positions.first : positions.rest, difference)
        if (token > 0 && (token === spanStart || starts.has(token))) add(positions.seams, difference)
        if (difference <= tolerance) return
        const instance = segments.find(({ start, end }) => token >= start && token < end)?.instance ?? null
        accuse({ completion: id, instance, token, version, stored, recomputed, difference })
      }
    },
    get report() {
      const left = unchecked.noVersion + unchecked.mixed + unchecked.noLogprob + unchecked.noWeights
      return {
        exact: left === 0 && misshapen === 0 && all.largest <= tolerance,
        completions,
        ...all,
        unchecked: { ...unchecked },
        versions: Object.fromEntries([...versions].map(([version, each]) => [version, { ...each }])),
        positions: {
          first: { ...positions.first },
          rest: { ...positions.rest },
          seams: { ...positions.seams },
        },
        offenders: [...offenders],
        malformed: [...malformed],
      }
    },
  }

  async function scored(version: number, promptIds: ArrayLike<number>, tokenIds: Int32Array, completion: Completion) {
    const values = await score(version, promptIds, tokenIds, completion)
    if (values === null || values.length === tokenIds.length) return values
    throw new RolloutError(
      'INVALID_OPTIONS',
      `score: expected ${tokenIds.length} log-probabilities under version ${version}, one a token, found ${values.length}`,
    )
  }
}

/** Where the last token ends that can be checked under each version. */
function lastTokens({ versions, tokenIds, logprobs }: Completion): Map<number, number> {
  const last = new Map<number, number>()
  if (logprobs.length === 0) return last
  for (const { version, end, mixed } of versions)
    if (version !== null && mixed !== true) last.set(version, Math.min(end, tokenIds.length))
  return last
}

/** What of a completion does not fit together, or null. */
function misfit({ tokenIds, logprobs, versions, segments }: Completion): string | null {
  if (logprobs.length !== tokenIds.length && logprobs.length > 0)
    return `${tokenIds.length} tokens, ${logprobs.length} log-probabilities`
  for (const [name, spans] of [
    ['version spans', versions],
    // What was thrown away left an empty one.
    ['segments', segments.filter(({ start, end }) => start !== end)],
  ] as const) {
    let end = 0
    for (const span of spans) {
      if (span.start !== end || span.end < span.start) return `${name} with [${span.start}, ${span.end}) after ${end}`
      end = span.end
    }
    if (end !== tokenIds.length) return `${tokenIds.length} tokens, ${name} up to ${end}`
  }
  return null
}
