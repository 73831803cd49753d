/**
 * The check of an episode's options: everything wrong with them is said in one error, before its code runs.
 */
import { checkCall, checkFunction, checkInteger, checkNumber, checkOneOf, checkSignal } from '../checks.ts'
import { isRecord, rejectUnknownKeys, show } from '../problems.ts'
import { checkName, checkSampling } from './check-task.ts'
import type { CheckedEpisode, EpisodeOptions } from './episode.ts'

const KEYS: readonly (keyof EpisodeOptions)[] = [
  'id',
  'sessionId',
  'signal',
  'timeoutMs',
  'retry',
  'sampling',
  'kind',
  'priority',
  'minVersion',
  'meta',
]

/** @throws RolloutError INVALID_OPTIONS that lists every problem */
export function checkEpisode(code: unknown, options: EpisodeOptions): CheckedEpisode {
  return checkCall('episode', KEYS, options, (report) => {
    if (code === undefined) report('code', 'a function', 'nothing')
    checkFunction(report, 'code', code)
    const { retry = {}, sampling } = options
    if (isRecord(retry)) rejectUnknownKeys(retry, ['attempts'], 'retry', report)
    else report('retry', 'an object with attempts', show(retry))
    if (sampling !== undefined) checkSampling(sampling, report)
    return {
      id: checkName(report, 'id', options.id),
      sessionId: checkName(report, 'sessionId', options.sessionId),
      signal: checkSignal(report, options.signal),
      timeoutMs: checkNumber(report, 'timeoutMs', options.timeoutMs, { min: 0, exclusive: true }, null),
      attempts: checkInteger(
        report,
        'retry.attempts',
        (retry as { attempts?: unknown } | null)?.attempts,
        { min: 1 },
        1,
      ),
      sampling,
      kind: checkOneOf(report, 'kind', options.kind, ['rollout', 'evaluation'], 'rollout'),
      priority: checkNumber(report, 'priority', options.priority, {}, 0),
      minVersion: checkInteger(report, 'minVersion', options.minVersion, { min: 0 }, null),
      meta: options.meta,
    }
  })
}
