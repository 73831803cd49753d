/**
 * The options of createSupervisor: their types, defaults, and the check that finds every problem before anything is built.
 */
import type { InspectionEvent, Observer } from 'xstate'
import type { instanceMachine } from '../machines/index.ts'
import { checkFunction, checkInteger, checkNumber, checkOneOf, checkString } from './checks.ts'
import { type Clock, realClock } from './clock.ts'
import type { DriverFactory } from './engines/driver.ts'
import { type EngineName, engineFactory, engineNames } from './engines/index.ts'
import { RolloutError } from './errors.ts'
import { isRecord, type Problem, problemList, type Report, rejectUnknownKeys, show } from './problems.ts'
import { type CheckedState, checkSaved } from './rollout/check-saved.ts'
import type { LogprobBasis } from './rollout/completion.ts'
import type { SavedState } from './rollout/saved.ts'
import { isPolicy, type PolicyOption, policyNames } from './scheduling/policies.ts'
import { type Logger, quietLogger } from './telemetry/logger.ts'

/** One server of the fleet. */
export interface InstanceOptions {
  /** Base URL of the server, `http://host:port` with an optional path. */
  readonly url: string
  /** Name of an engine, or a factory of drivers of your own. @default 'sglang' */
  readonly engine?: EngineName | DriverFactory
  /** @default `host:port` of the url */
  readonly id?: string
  /** Sequences that may run at once. @default what the server says, else a default of the engine (256 for SGLang) */
  readonly capacity?: number
  /** Relative speed: an instance of weight 2 is given twice the share. @default 1 */
  readonly weight?: number
  /** Sent as a bearer token. */
  readonly apiKey?: string
  /** Token ids of prompts are checked against it. @default what the server says */
  readonly vocabularySize?: number
  /**
   * `'raw'` accepts log-probabilities of the distribution before temperature where the server reports no others; completions then
   * carry it as their `logprobBasis`. Without it rollouts with a temperature other than 1 and 0 fail there with INVALID_TASK; evaluations,
   * whose log-probabilities nobody trains on, run at any.
   * @default 'sampled'
   */
  readonly logprobBasis?: LogprobBasis
  /** Name of the model, for the engine 'openai', whose requests carry one. @default the first that the server lists */
  readonly model?: string
}

/** Deadlines in milliseconds. */
export interface TimeoutOptions {
  /** Until a sample gets its first slot; then it ends as `expired`. */
  readonly waitMs?: number
  /** From placing an attempt to its first token; then it is interrupted and tried elsewhere. */
  readonly firstTokenMs?: number
  /** Between two tokens of an attempt; then it is interrupted and resumes elsewhere. */
  readonly progressMs?: number
  /** Time under leases, over all attempts of a sample; then it ends as `expired`. */
  readonly totalMs?: number
}

/** Options of createSupervisor. */
export interface SupervisorOptions {
  /** The fleet to start with. More can be added later. @default [] */
  readonly instances?: readonly InstanceOptions[]
  /** How an instance is chosen. @default 'least-request' */
  readonly policy?: PolicyOption
  /** Deadlines in milliseconds, each optional. None is set by default. */
  readonly timeouts?: TimeoutOptions
  /** `attempts` in a row without a new token end a sample as failed. @default { attempts: 5 } */
  readonly retry?: { readonly attempts?: number }
  /**
   * When to stop sending work to a failing server: `failures` in a row; the first probe after `resetMs`, doubling up to `maxResetMs`.
   * @default { failures: 3, resetMs: 1000, maxResetMs: 60000 }
   */
  readonly breaker?: { readonly failures?: number; readonly resetMs?: number; readonly maxResetMs?: number }
  /** A server whose streams and own counters stand still for so long, in milliseconds, loses its samples to others. @default 60000 */
  readonly watchdogMs?: number
  /** With fewer instances able to work, `start` and weight updates fail as a whole. @default 1 */
  readonly minInstances?: number
  /** Any logger with pino's methods. Silent by default. */
  readonly logger?: Logger
  /** XState inspection: an observer or a function. */
  readonly inspect?: Observer<InspectionEvent> | ((event: InspectionEvent) => void)
  /** Time, injected in simulations. @default the process's monotonic clock */
  readonly clock?: Clock
  /** An instance machine of your own: `instanceMachine.provide({ guards: { takesWork } })`. */
  readonly instanceMachine?: typeof instanceMachine
  /** Eight lower-case letters or digits that begin every request id. @default random */
  readonly runId?: string
  /** What `save()` returned: its samples wait again, with the tokens they had, and are in `restored`. @default nothing */
  readonly restore?: SavedState
}

export interface CheckedInstance {
  readonly id: string
  readonly url: string
  readonly engine: string
  readonly createDriver: DriverFactory
  readonly capacity: number | null
  readonly weight: number
  readonly apiKey: string | undefined
  readonly vocabularySize: number | null
  readonly logprobBasis: LogprobBasis
  readonly model: string | undefined
}

export interface CheckedOptions {
  readonly instances: readonly CheckedInstance[]
  readonly policy: PolicyOption
  readonly timeouts: { readonly [K in keyof TimeoutOptions]-?: number | null }
  readonly attempts: number
  readonly breaker: { readonly failures: number; readonly resetMs: number; readonly maxResetMs: number }
  readonly watchdogMs: number
  readonly minInstances: number
  readonly logger: Logger
  readonly inspect: SupervisorOptions['inspect']
  readonly clock: Clock
  readonly instanceMachine: SupervisorOptions['instanceMachine']
  readonly runId: string | undefined
  readonly restore: CheckedState | null
}

const OPTION_KEYS: readonly (keyof SupervisorOptions)[] = [
  'instances',
  'policy',
  'timeouts',
  'retry',
  'breaker',
  'watchdogMs',
  'minInstances',
  'logger',
  'inspect',
  'clock',
  'instanceMachine',
  'runId',
  'restore',
]
const INSTANCE_KEYS: readonly (keyof InstanceOptions)[] = [
  'url',
  'engine',
  'id',
  'capacity',
  'weight',
  'apiKey',
  'vocabularySize',
  'logprobBasis',
  'model',
]
const TIMEOUT_KEYS: readonly (keyof TimeoutOptions)[] = ['waitMs', 'firstTokenMs', 'progressMs', 'totalMs']

/** Milliseconds of a timer: Node's keep at most 2^31 - 1. */
const DELAY = { min: 0, max: 2_147_483_647, exclusive: true }

/** @throws RolloutError INVALID_OPTIONS that lists every problem */
export function checkOptions(options: SupervisorOptions): CheckedOptions {
  const problems: Problem[] = []
  const report: Report = (path, expected, found) => problems.push({ path, expected, found: String(found) })
  const given: Record<string, unknown> = isRecord(options) ? options : {}
  if (!isRecord(options)) report('options', 'an object', show(options))
  rejectUnknownKeys(given, OPTION_KEYS, '', report)
  const section = (name: string, keys: readonly string[]): Record<string, unknown> => {
    const value = given[name]
    if (value === undefined) return {}
    if (!isRecord(value)) {
      report(name, `an object with ${keys.join(', ')}`, show(value))
      return {}
    }
    rejectUnknownKeys(value, keys, name, report)
    return value
  }
  const timeouts = section('timeouts', TIMEOUT_KEYS)
  const retry = section('retry', ['attempts'])
  const breaker = section('breaker', ['failures', 'resetMs', 'maxResetMs'])
  const timeout = (key: keyof TimeoutOptions): number | null =>
    checkNumber(report, `timeouts.${key}`, timeouts[key], DELAY, null)
  const longest = checkNumber(report, 'breaker.maxResetMs', breaker.maxResetMs, DELAY, null)
  const resetMs = checkNumber(report, 'breaker.resetMs', breaker.resetMs, DELAY, Math.min(longest ?? 1_000, 1_000))
  const maxResetMs = longest ?? Math.max(resetMs, 60_000)
  if (resetMs > maxResetMs) report('breaker.maxResetMs', `at least breaker.resetMs, ${resetMs}`, show(maxResetMs))
  const checked: CheckedOptions = {
    instances: checkInstances(given.instances, report),
    policy: checkPolicy(given.policy, report),
    timeouts: {
      waitMs: timeout('waitMs'),
      firstTokenMs: timeout('firstTokenMs'),
      progressMs: timeout('progressMs'),
      totalMs: timeout('totalMs'),
    },
    attempts: checkInteger(report, 'retry.attempts', retry.attempts, { min: 1 }, 5),
    breaker: {
      failures: checkInteger(report, 'breaker.failures', breaker.failures, { min: 1 }, 3),
      resetMs,
      maxResetMs,
    },
    watchdogMs: checkNumber(report, 'watchdogMs', given.watchdogMs, DELAY, 60_000),
    minInstances: checkInteger(report, 'minInstances', given.minInstances, { min: 0 }, 1),
    logger: checkLogger(given.logger, report),
    inspect: checkInspect(given.inspect, report),
    clock: checkClock(given.clock, report),
    instanceMachine: checkMachine(given.instanceMachine, report),
    runId: checkString(report, 'runId', given.runId, undefined),
    restore: checkSaved(given.restore, report),
  }
  if (checked.runId !== undefined && !/^[a-z0-9]{8}$/.test(checked.runId)) {
    report('runId', 'eight lower-case letters or digits', show(checked.runId))
  }
  if (problems.length > 0)
    throw new RolloutError('INVALID_OPTIONS', `createSupervisor cannot use these options:\n${problemList(problems)}`, {
      problems,
    })
  return checked
}

/** Checks one instance by itself, for `add`. */
export function checkInstance(options: InstanceOptions): CheckedInstance {
  const problems: Problem[] = []
  const checked = readInstance(options, 'instance', (path, expected, found) =>
    problems.push({ path, expected, found: String(found) }),
  )
  if (checked === null || problems.length > 0) {
    throw new RolloutError('INVALID_OPTIONS', `the instance cannot be added:\n${problemList(problems)}`, { problems })
  }
  return checked
}

function checkInstances(value: unknown, report: Report): CheckedInstance[] {
  if (value === undefined) return []
  if (!Array.isArray(value)) {
    report('instances', 'an array of { url, engine }', show(value))
    return []
  }
  const checked: CheckedInstance[] = []
  const seen = new Map<string, number>()
  for (const [index, each] of value.entries()) {
    const instance = readInstance(each, `instances[${index}]`, report)
    if (instance === null) continue
    for (const [what, key] of [
      ['id', instance.id],
      ['url', instance.url],
    ] as const) {
      const first = seen.get(`${what} ${key}`)
      if (first !== undefined)
        report(`instances[${index}].${what}`, `another ${what} than that of instances[${first}]`, show(key))
      else seen.set(`${what} ${key}`, index)
    }
    checked.push(instance)
  }
  return checked
}

function readInstance(value: unknown, path: string, report: Report): CheckedInstance | null {
  if (!isRecord(value)) {
    report(path, 'an object with a url', show(value))
    return null
  }
  rejectUnknownKeys(value, INSTANCE_KEYS, path, report)
  const url = checkUrl(value.url, `${path}.url`, report)
  const custom = typeof value.engine === 'function' ? (value.engine as DriverFactory) : null
  const engine = custom === null ? checkOneOf(report, `${path}.engine`, value.engine, engineNames, 'sglang') : null
  return {
    id: checkString(report, `${path}.id`, value.id, url === null ? '?' : url.host || url.href),
    url: url === null ? '?' : url.href.replace(/\/+$/, ''),
    engine: engine ?? 'custom',
    createDriver: custom ?? engineFactory(engine!),
    capacity: checkInteger(report, `${path}.capacity`, value.capacity, { min: 1 }, null),
    weight: checkNumber(report, `${path}.weight`, value.weight, { min: 0, exclusive: true }, 1),
    apiKey: checkString(report, `${path}.apiKey`, value.apiKey, undefined),
    vocabularySize: checkInteger(report, `${path}.vocabularySize`, value.vocabularySize, { min: 1 }, null),
    model: checkString(report, `${path}.model`, value.model, undefined),
    logprobBasis: checkOneOf(report, `${path}.logprobBasis`, value.logprobBasis, ['sampled', 'raw'], 'sampled'),
  }
}

function checkUrl(value: unknown, path: string, report: Report): URL | null {
  const expected = "a base URL such as 'http://10.0.0.1:30000'"
  if (typeof value !== 'string' || !URL.canParse(value)) {
    report(path, expected, show(value))
    return null
  }
  const url = new URL(value)
  const { username, password, search, hash } = url
  if (!/^(https?|sim):$/.test(url.protocol)) {
    // What has a user in it may have a password as well.
    report(path, `${expected}, with its http:// or https://`, username === '' ? show(value) : `a ${url.protocol} url`)
  } else if (username !== '' || password !== '') {
    report(path, `${expected}, without a user or password; a key goes into apiKey`, `${show(url.host)} behind an @`)
  } else if (search !== '' || hash !== '') {
    report(path, `${expected}, without query or fragment`, show(value.replace(/([?#]).*/s, '$1…')))
  }
  return url
}

function checkPolicy(value: unknown, report: Report): PolicyOption {
  if (value === undefined) return 'least-request'
  if (typeof value === 'string' && (policyNames as readonly string[]).includes(value)) return value as PolicyOption
  if (isRecord(value)) {
    if (isPolicy(value)) {
      for (const method of ['add', 'remove', 'changed'] as const)
        checkFunction(report, `policy.${method}`, value[method] ?? null)
      return value
    }
    if (value.name === 'round-robin' && (value.strict === undefined || typeof value.strict === 'boolean')) {
      rejectUnknownKeys(value, ['name', 'strict'], 'policy', report)
      return value as PolicyOption
    }
  }
  report(
    'policy',
    `one of ${policyNames.map((name) => `'${name}'`).join(', ')}, { name: 'round-robin', strict }, or a PlacementPolicy`,
    isRecord(value) && 'name' in value ? `{ name: ${show(value.name)} }` : show(value),
  )
  return 'least-request'
}

function checkLogger(value: unknown, report: Report): Logger {
  if (value === undefined) return quietLogger
  if (isRecord(value) && ['debug', 'info', 'warn', 'error'].every((level) => typeof value[level] === 'function'))
    return value as unknown as Logger
  report('logger', 'a logger with the methods debug, info, warn and error', show(value))
  return quietLogger
}

function checkInspect(value: unknown, report: Report): SupervisorOptions['inspect'] {
  if (value === undefined || typeof value === 'function' || (isRecord(value) && typeof value.next === 'function'))
    return value as SupervisorOptions['inspect']
  report('inspect', 'a function, or an observer with next', show(value))
  return undefined
}

function checkMachine(value: unknown, report: Report): SupervisorOptions['instanceMachine'] {
  if (value === undefined || (isRecord(value) && typeof value.provide === 'function'))
    return value as SupervisorOptions['instanceMachine']
  report('instanceMachine', 'an XState machine, such as instanceMachine.provide({ guards })', show(value))
  return undefined
}

function checkClock(value: unknown, report: Report): Clock {
  if (value === undefined) return realClock
  if (isRecord(value) && ['now', 'setTimeout', 'clearTimeout'].every((name) => typeof value[name] === 'function'))
    return value as unknown as Clock
  report('clock', 'an object with now, setTimeout and clearTimeout', show(value))
  return realClock
}
