/**
 * Options of an embedded engine, with every problem found before a socket is opened.
 */
import { RolloutError } from '../errors.ts'
import { isRecord, type Problem, problemList, type Report, rejectUnknownKeys, show } from '../problems.ts'
import type { FaultScript } from './embedded-faults.ts'
import { createTinyWeights, type TinyWeights } from './tiny-policy.ts'

/** Wire protocols that the embedded engine speaks. */
export type EngineProfile = 'sglang' | 'vllm' | 'llama-server' | 'openai'

const ENGINE_PROFILES: readonly EngineProfile[] = ['sglang', 'vllm', 'llama-server', 'openai']

/** How a vLLM reports log-probabilities (`--logprobs-mode`). */
export type LogprobsMode = 'raw_logprobs' | 'processed_logprobs'

const LOGPROBS_MODES: readonly LogprobsMode[] = ['raw_logprobs', 'processed_logprobs']

/** Options of startEmbeddedEngine. */
export interface EmbeddedEngineOptions {
  /** Whose wire protocol to speak. @default 'sglang' */
  readonly profile?: EngineProfile
  /** 0 is any free port. @default 0 */
  readonly port?: number
  /** @default '127.0.0.1' */
  readonly host?: string
  /** Sequences run at once (`--max-running-requests`, `--max-num-seqs`). @default 8 */
  readonly capacity?: number
  /** Time of one step, whatever its batch. With perSequenceMs 0 as well the engine runs as fast as it can. @default 2 */
  readonly stepMs?: number
  /** Time that each sequence of the batch adds to a step. @default 0.05 */
  readonly perSequenceMs?: number
  /** Factor on the time of a step, above 0. @default 1 */
  readonly slow?: number
  /** Of the sampling stream. @default 1 */
  readonly seed?: number
  /** @default createTinyWeights() */
  readonly weights?: TinyWeights
  /** Label of the weights at start (`--weight-version`). @default 'default' */
  readonly weightVersion?: string
  /** Longest prompt plus output, in tokens. @default 4096 */
  readonly contextLength?: number
  /** Asked for on every route but /health and /metrics (SGLang), or under /v1 and /inference (vLLM). @default none */
  readonly apiKey?: string
  /** Requests that may wait (`--max-queued-requests`, vLLM: `--max-num-queued-reqs` without the running ones). @default unlimited */
  readonly maxQueued?: number
  /** SGLang: events carry deltas, not everything so far (`--incremental-streaming-output`). @default false */
  readonly incremental?: boolean
  /** Tokens per event (`--stream-interval`); a request may ask for its own. @default 1 */
  readonly streamInterval?: number
  /** SGLang: heed sampling_seed (`--enable-deterministic-inference`). @default false */
  readonly deterministic?: boolean
  /** SGLang: keep the delays that the real server adds by itself (1 s to pause, 1 s for /health, seconds to notice some disconnects). @default false */
  readonly realDelays?: boolean
  /** Gives its GPU memory away (SGLang: `--enable-memory-saver`, vLLM: `--enable-sleep-mode`). @default false */
  readonly memorySaver?: boolean
  /** SGLang: weights outlive that (`--enable-weights-cpu-backup`); vLLM: those of sleep level 1 always do. @default false */
  readonly weightsBackup?: boolean
  /** vLLM: has `/inference/v1/generate` (`--enable-scale-out`). @default true */
  readonly scaleOut?: boolean
  /** vLLM: has the control routes (`VLLM_SERVER_DEV_MODE=1`). @default true */
  readonly devMode?: boolean
  /** vLLM: which log-probabilities it reports (`--logprobs-mode`). @default 'raw_logprobs' */
  readonly logprobsMode?: LogprobsMode
  /** llama-server: has `/metrics` (`--metrics`). @default true */
  readonly metrics?: boolean
  /** llama-server: every route answers 503 for so long after the start, in milliseconds. @default 0 */
  readonly loadingMs?: number
  /** What goes wrong with it by itself, and when. @default nothing */
  readonly faults?: readonly FaultScript[]
}

export interface CheckedEngineOptions {
  readonly profile: EngineProfile
  readonly port: number
  readonly host: string
  readonly capacity: number
  readonly stepMs: number
  readonly perSequenceMs: number
  readonly slow: number
  readonly seed: number
  readonly weights: TinyWeights
  readonly weightVersion: string
  readonly contextLength: number
  readonly apiKey: string | null
  readonly maxQueued: number
  readonly incremental: boolean
  readonly streamInterval: number
  readonly deterministic: boolean
  readonly realDelays: boolean
  readonly memorySaver: boolean
  readonly weightsBackup: boolean
  readonly scaleOut: boolean
  readonly devMode: boolean
  readonly logprobsMode: LogprobsMode
  readonly metrics: boolean
  readonly loadingMs: number
  readonly faults: readonly FaultScript[]
}

const KNOWN: readonly (keyof EmbeddedEngineOptions)[] = [
  'profile',
  'port',
  'host',
  'capacity',
  'stepMs',
  'perSequenceMs',
  'slow',
  'seed',
  'weights',
  'weightVersion',
  'contextLength',
  'apiKey',
  'maxQueued',
  'incremental',
  'streamInterval',
  'deterministic',
  'realDelays',
  'memorySaver',
  'weightsBackup',
  'scaleOut',
  'devMode',
  'logprobsMode',
  'metrics',
  'loadingMs',
  'faults',
]

/** Throws RolloutError INVALID_OPTIONS that names every problem. */
export function checkEngineOptions(options: EmbeddedEngineOptions): CheckedEngineOptions {
  const problems: Problem[] = []
  const report: Report = (path, expected, found) =>
    problems.push({ path, expected, found: typeof found === 'string' && path === '' ? found : show(found) })
  const given: unknown = options
  if (!isRecord(given)) throw invalid([{ path: 'options', expected: 'an object', found: show(options) }])
  rejectUnknownKeys(options, KNOWN, '', report)

  function number(
    key: keyof EmbeddedEngineOptions,
    fallback: number,
    expected: string,
    fits: (value: number) => boolean,
  ): number {
    const value: unknown = options[key]
    if (value === undefined) return fallback
    if (typeof value === 'number' && Number.isFinite(value) && fits(value)) return value
    report(key, expected, value)
    return fallback
  }
  const integer = (key: keyof EmbeddedEngineOptions, fallback: number, min: number, max: number) =>
    number(
      key,
      fallback,
      `an integer from ${min} to ${max}`,
      (value) => Number.isInteger(value) && value >= min && value <= max,
    )
  function flag(key: keyof EmbeddedEngineOptions, fallback = false): boolean {
    const value: unknown = options[key]
    if (value === undefined) return fallback
    if (typeof value !== 'boolean') report(key, 'true or false', value)
    return value === true
  }
  function text<F>(key: keyof EmbeddedEngineOptions, fallback: F): string | F {
    const value: unknown = options[key]
    if (value === undefined) return fallback
    if (typeof value === 'string' && value !== '') return value
    report(key, 'a string that is not empty', value)
    return fallback
  }

  const { profile = 'sglang', weights = createTinyWeights(), logprobsMode = 'raw_logprobs' } = options
  if (!ENGINE_PROFILES.includes(profile)) report('profile', `one of ${ENGINE_PROFILES.join(', ')}`, profile)
  if (!LOGPROBS_MODES.includes(logprobsMode))
    report('logprobsMode', `one of ${LOGPROBS_MODES.join(', ')}`, logprobsMode)
  if (!isWeights(weights)) report('weights', 'what createTinyWeights or loadWeights returns', weights)
  const { faults = [] } = options
  if (!Array.isArray(faults) || !faults.every(isScript))
    report('faults', 'a list of { afterRequests, afterTokens or afterMs, run }', faults)
  const MAX = Number.MAX_SAFE_INTEGER
  const checked: CheckedEngineOptions = {
    profile,
    port: integer('port', 0, 0, 65535),
    host: text('host', '127.0.0.1'),
    capacity: integer('capacity', 8, 1, 65536),
    stepMs: number('stepMs', 2, 'milliseconds, 0 or more', (value) => value >= 0),
    perSequenceMs: number('perSequenceMs', 0.05, 'milliseconds, 0 or more', (value) => value >= 0),
    slow: number('slow', 1, 'a factor above 0', (value) => value > 0),
    seed: integer('seed', 1, 0, MAX),
    weights,
    weightVersion: text('weightVersion', 'default'),
    contextLength: integer('contextLength', 4096, 2, 16_777_216),
    apiKey: text('apiKey', null),
    maxQueued: options.maxQueued === undefined ? Number.POSITIVE_INFINITY : integer('maxQueued', 0, 0, MAX),
    incremental: flag('incremental'),
    streamInterval: integer('streamInterval', 1, 1, 1_000_000),
    deterministic: flag('deterministic'),
    realDelays: flag('realDelays'),
    memorySaver: flag('memorySaver'),
    weightsBackup: flag('weightsBackup'),
    scaleOut: flag('scaleOut', true),
    devMode: flag('devMode', true),
    logprobsMode,
    metrics: flag('metrics', true),
    loadingMs: number('loadingMs', 0, 'milliseconds, 0 or more', (value) => value >= 0),
    faults,
  }
  if (problems.length > 0) throw invalid(problems)
  return checked
}

function invalid(problems: readonly Problem[]): RolloutError {
  return new RolloutError(
    'INVALID_OPTIONS',
    `startEmbeddedEngine was given options that cannot be used:\n${problemList(problems)}`,
    { problems },
  )
}

function isScript(value: unknown): boolean {
  if (!isRecord(value) || typeof value.run !== 'function') return false
  return [value.afterRequests, value.afterTokens, value.afterMs].some((moment) => typeof moment === 'number')
}

function isWeights(value: unknown): value is TinyWeights {
  if (!isRecord(value) || typeof value.vocabularySize !== 'number') return false
  const size = value.vocabularySize ** 2
  return (
    value.bigram instanceof Float64Array &&
    value.memory instanceof Float64Array &&
    value.bigram.length === size &&
    value.memory.length === size
  )
}
