/**
 * Options of the phase operations: weight updates, evaluations, pause and resume, checked when they are called.
 */
import { checkBoolean, checkCall, checkInteger, checkNumber, checkOneOf, checkSignal } from '../checks.ts'
import { show } from '../problems.ts'
import type { UpdateMode } from './bring.ts'
import type { CheckedEvaluation } from './evaluate.ts'
import type { EvaluationStyle } from './evaluation.ts'
import type { CheckedPause, PauseStyle } from './pause.ts'
import type { FleetUpdate } from './update.ts'

/** Options of `updateWeights()`. */
export interface WeightUpdateOptions {
  /** Integer >= 0, above the fleet's version. The same version again repairs instances that it failed on. */
  readonly version: number
  /**
   * What becomes of running generations. `abort`: they are ended, and go on from their tokens under the new weights. `restart`: they begin
   * again, so that a sample is of one version; one that has begun again twice is left to end. `keep`: they stand still on the server, which
   * computes their KV anew and goes on; a server that cannot do that exactly, or does not say which token is of which version, is
   * treated as with `abort`, and the report says so. `drain`: they end by themselves. @default 'abort'
   */
  readonly mode?: UpdateMode
  /** Folder of the new weights, as the servers see it. Either this or `apply`. */
  readonly path?: string
  /**
   * Loads the weights in a way of your own; afterwards the server must say the new version. Caches are emptied after it, where the engine has a
   * route for that. A server without version labels is taken at your word. Stop at the signal: weights that load after it change under
   * running requests.
   */
  readonly apply?: (instance: { readonly id: string; readonly url: string }, signal: AbortSignal) => Promise<void>
  /**
   * Updates so many instances at a time, while the others serve on, each with the version that it has: integer >= 1. Samples with a
   * `minVersion` above the old version wait for the end. @default all together
   */
  readonly rolling?: number
  /** Milliseconds that it may wait for its turn, then for running generations, then for loading on each instance: above 0. @default 600000 */
  readonly timeoutMs?: number
}

/** Options of `evaluate()`. */
export interface EvaluateOptions {
  /**
   * Where no slot is free: `resume` interrupts just enough rollouts, those with the fewest tokens of context, which go on from their tokens
   * afterwards; `restart` the same, but they begin again; `drain` lets rollouts end and starts no other until the evaluation is over; `share`
   * takes what becomes free. Slots that no evaluation needs go on with rollouts, but for `drain`. @default 'resume'
   */
  readonly interrupt?: EvaluationStyle
  /** Milliseconds from the call on, waiting included, after which what has not ended is `expired`: above 0. @default none */
  readonly timeoutMs?: number
  /** Aborting it cancels what has not ended. */
  readonly signal?: AbortSignal
}

/** Options of `pause()`. */
export interface PauseOptions {
  /**
   * What becomes of running generations. `drain`: they end by themselves. `abort`: they are ended, and go on from their tokens after `resume`.
   * `keep`: they stand still on the server; where it cannot, as with `abort`. @default 'drain', which interrupts nobody who did not ask for it
   */
  readonly mode?: PauseStyle
  /** Gives the GPU memory of the servers away until `resume`, or the next weight update. Not with `keep`. @default false */
  readonly release?: boolean
  /** Milliseconds that it may wait for its turn, and then each instance for each step: at least 0. The run stays paused. @default none */
  readonly timeoutMs?: number
}

/** Options of `resume()`. */
export interface ResumeOptions {
  /** Milliseconds that it may wait for its turn: at least 0. @default none */
  readonly timeoutMs?: number
}

const DEFAULT_UPDATE_MS = 600_000
const UPDATE_MODES: readonly UpdateMode[] = ['abort', 'restart', 'keep', 'drain']
const EVALUATION_STYLES: readonly EvaluationStyle[] = ['resume', 'restart', 'drain', 'share']
const PAUSE_STYLES: readonly PauseStyle[] = ['abort', 'keep', 'drain']

export function checkUpdate(options: WeightUpdateOptions): FleetUpdate {
  const keys = ['version', 'mode', 'path', 'apply', 'rolling', 'timeoutMs']
  return checkCall('updateWeights', keys, options, (report) => {
    const { path, apply, rolling } = options
    if (options.version === undefined) report('version', 'an integer of at least 0', 'nothing')
    if ((path === undefined) === (apply === undefined))
      report('path', 'either path or apply', path === undefined ? 'neither' : 'both')
    if (path !== undefined && (typeof path !== 'string' || path === ''))
      report('path', 'a folder, as the servers see it', show(path))
    if (apply !== undefined && typeof apply !== 'function') report('apply', 'a function', show(apply))
    const version = checkInteger(report, 'version', options.version, { min: 0 }, 0)
    return {
      version,
      mode: checkOneOf(report, 'mode', options.mode, UPDATE_MODES, 'abort'),
      rolling: rolling === undefined ? null : checkInteger(report, 'rolling', rolling, { min: 1 }, 1),
      timeoutMs: checkNumber(report, 'timeoutMs', options.timeoutMs, { min: 0, exclusive: true }, DEFAULT_UPDATE_MS),
      isOurs: path !== undefined,
      apply: async (instance, frozen, signal) => {
        if (path === undefined) await apply!({ id: instance.id, url: instance.spec.url }, signal)
        else await instance.driver.updateWeights({ version, path, frozen }, signal)
      },
    }
  })
}

export function checkEvaluation(tasks: unknown, options: EvaluateOptions): CheckedEvaluation {
  return checkCall('evaluate', ['interrupt', 'timeoutMs', 'signal'], options, (report) => {
    if (!Array.isArray(tasks)) report('tasks', 'an array of tasks', show(tasks))
    return {
      style: checkOneOf(report, 'interrupt', options.interrupt, EVALUATION_STYLES, 'resume'),
      timeoutMs: checkNumber(report, 'timeoutMs', options.timeoutMs, { min: 0, exclusive: true }, null),
      signal: checkSignal(report, options.signal),
    }
  })
}

export function checkPause(options: PauseOptions): CheckedPause {
  return checkCall('pause', ['mode', 'release', 'timeoutMs'], options, (report) => {
    const mode = checkOneOf(report, 'mode', options.mode, PAUSE_STYLES, 'drain')
    const release = checkBoolean(report, 'release', options.release, false)
    if (release && mode === 'keep')
      report('release', "mode 'abort' or 'drain': what stands still needs its memory", "mode 'keep'")
    return { mode, release, timeoutMs: checkNumber(report, 'timeoutMs', options.timeoutMs, { min: 0 }, null) }
  })
}

export function checkResume(options: ResumeOptions): { readonly timeoutMs: number | null } {
  return checkCall('resume', ['timeoutMs'], options, (report) => ({
    timeoutMs: checkNumber(report, 'timeoutMs', options.timeoutMs, { min: 0 }, null),
  }))
}
