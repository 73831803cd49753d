/**
 * `rollout-supervisor doctor --conformance`: the conformance suite on each server, and its table: what works, what does not, and what that
 * means for training data.
 */
import { connectInstance, type InstanceOptions } from '../index.ts'
import { type ConformanceReport, type ConformanceResult, checkConformance } from '../testing/index.ts'
import type { Flags } from './flags.ts'
import { createStyle, type Io, type Style, wantsColor } from './io.ts'
import type { Settings } from './settings.ts'
import { columnsOf, wrap } from './wrap.ts'

export const CONFORMANCE_FLAGS = {
  conformance: { type: 'switch', about: 'try out everything that training relies on, and say what came of it' },
  pause: { type: 'switch', about: 'with --conformance: may hold the server for moments' },
  release: { type: 'switch', about: 'with --conformance: may have it give its GPU memory away and take it back' },
  weights: {
    type: 'list',
    about: 'with --conformance: may load these two checkpoints, given twice, as the server sees their folders',
  },
  idle: {
    type: 'duration',
    about: 'with --conformance: how long a connection rests before it is used again (7s)',
  },
} as const satisfies Flags

/** What came of one server. */
interface Examined {
  readonly url: string
  readonly report: ConformanceReport | null
  readonly fault: string | null
}

export function conformanceProblems(settings: Settings): readonly string[] {
  const problems: string[] = []
  const weights = settings.list('weights')
  const allowed = ['pause', 'release', 'weights', 'idle'].filter((name) => settings.overrides(name))
  if (allowed.length > 0 && !settings.on('conformance'))
    problems.push(`--${allowed[0]}: expected --conformance with it, found none`)
  if (weights.length !== 0 && weights.length !== 2)
    problems.push(`--weights: expected two checkpoints, --weights A --weights B, found ${weights.length}`)
  return problems
}

/** True where every server keeps what it promises. */
export async function conformance(
  instances: readonly InstanceOptions[],
  settings: Settings,
  io: Io,
  signal: AbortSignal,
): Promise<boolean> {
  const json = settings.on('json')
  const style = createStyle(wantsColor(io.stdout, io.env, settings.on('no-color')))
  const [first, second] = settings.list('weights')
  const allow = {
    pause: settings.on('pause'),
    release: settings.on('release'),
    ...(first === undefined || second === undefined ? {} : { weights: [first, second] as const }),
  }
  const idleMs = settings.number('idle')
  const options = { allow, signal, ...(idleMs === null ? {} : { idleMs }) }
  const all: Examined[] = []
  for (const instance of instances) {
    const { url } = instance
    try {
      const { driver } = await connectInstance(instance, { signal })
      try {
        const onResult = (result: ConformanceResult): void => {
          if (!json) io.stdout.write(`${line(result, style, columnsOf(io.stdout))}\n`)
        }
        if (!json) io.stdout.write(`${style(url, 'bold')}\n`)
        const report = await checkConformance(driver, { ...options, onResult })
        all.push({ url, report, fault: null })
        if (!json) io.stdout.write(`${lastLine(report, style)}\n\n`)
      } finally {
        await driver.close()
      }
    } catch (error) {
      if (signal.aborted) return false
      const fault = error instanceof Error ? error.message : String(error)
      all.push({ url, report: null, fault })
      if (!json) io.stdout.write(`${style(url, 'bold')}  ${style('cannot be used', 'red')}: ${fault}\n\n`)
    }
  }
  const ok = all.every(({ report }) => report?.conforms === true)
  if (json) io.stdout.write(`${JSON.stringify({ ok, instances: all })}\n`)
  return ok
}

const COLORS = { works: 'green', 'does not': 'red', 'not offered': 'yellow', skipped: 'dim' } as const
const NAME_COLUMNS = 34
const OUTCOME_COLUMNS = 13

function line({ name, outcome, found, meansForTraining }: ConformanceResult, style: Style, columns: number): string {
  const indent = 2 + NAME_COLUMNS + OUTCOME_COLUMNS
  const words = wrap(found.replaceAll(/instance \S+ \(\S+\): /g, ''), indent, columns)
  const said = `  ${name.padEnd(NAME_COLUMNS)}${style(outcome.padEnd(OUTCOME_COLUMNS), COLORS[outcome])}${words}`
  // Nothing is known of what was skipped.
  if (outcome === 'skipped') return said
  return `${said}\n${' '.repeat(indent)}${style(wrap(`-> ${meansForTraining}`, indent, columns), 'dim')}`
}

function lastLine({ engine, engineVersion, results, conforms }: ConformanceReport, style: Style): string {
  const count = (outcome: ConformanceResult['outcome']): number =>
    results.filter((result) => result.outcome === outcome).length
  const sum = `${count('works')} work, ${count('does not')} do not, ${count('not offered')} not offered, ${count('skipped')} skipped`
  return `  ${engine} ${engineVersion ?? '(unknown version)'}: ${style(sum, conforms ? 'green' : 'red')}`
}
