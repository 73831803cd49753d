/**
 * `rollout-supervisor doctor`: asks each server what it is, says what works there and what does not, and what to change. Every server has
 * the same time limit, so that it always ends. With --conformance it tries all that out, one server after another.
 */
import { type InstanceOptions, type Probe, probeInstance, RolloutError } from '../index.ts'
import { CONFORMANCE_FLAGS, conformance, conformanceProblems } from './doctor-conformance.ts'
import { type DoctorFinding, doctorText } from './doctor-report.ts'
import { type Flags, flagHelp } from './flags.ts'
import { fleetProblems } from './fleet-check.ts'
import { createStyle, EXIT, type Io, wantsColor } from './io.ts'
import { CONFIG_KEYS, FLEET_FLAGS, instancesProblems, RUN_FLAGS, readInstances } from './run-options.ts'
import { readSettings, type Settings } from './settings.ts'
import { signalOf, stopOnSignals } from './signals.ts'
import { columnsOf } from './wrap.ts'

const TIMEOUT_MS = 10_000

const FLAGS = {
  ...FLEET_FLAGS,
  timeout: { type: 'duration', about: `for each server (${TIMEOUT_MS / 1_000}s)` },
  ...CONFORMANCE_FLAGS,
  json: { type: 'switch', about: 'one JSON object on stdout' },
  'no-color': { type: 'switch', about: 'no colours; NO_COLOR does the same' },
  verbose: { type: 'switch', about: 'stack traces with errors' },
  help: { type: 'switch', about: 'this text' },
} as const satisfies Flags

export const DOCTOR_HELP = `usage: rollout-supervisor doctor <url ...> [flags]

Asks each inference server what it is: engine, version, capacity, weights version; says what works there, what does not, and which of
its flags to change. Without urls, the servers of the environment or the config file. With --conformance it generates on each server,
aborts and disconnects, and says what was seen and what that means for training data: about a minute a server, which others may use
meanwhile; only --pause, --release and --weights disturb them, and leave the server open, with the first weights.

${flagHelp(FLAGS)}

Exit codes: 0 every server can be used (and keeps what it promises), 1 some cannot, 2 the command line cannot be used, 130 and 143 stopped by a signal.
`

export async function doctor(args: readonly string[], io: Io): Promise<number> {
  const bothForms = args.some((arg) => arg.startsWith('--url'))
  const settings = readSettings(FLAGS, args, io.env, {
    otherKeys: CONFIG_KEYS,
    otherFlags: RUN_FLAGS,
    problems: (found) => doctorProblems(found, bothForms),
  })
  if (settings.on('help')) {
    io.stdout.write(DOCTOR_HELP)
    return EXIT.ok
  }
  const instances = readInstances(settings, settings.operands)
  const stop = new AbortController()
  const forget = stopOnSignals(io, stop, (words) => io.stderr.write(`${words}\n`))
  try {
    if (settings.on('conformance')) {
      const ok = await conformance(instances, settings, io, stop.signal)
      const signal = signalOf(stop.signal)
      return signal !== null ? EXIT[signal] : ok ? EXIT.ok : EXIT.failed
    }
    const timeoutMs = settings.number('timeout') ?? TIMEOUT_MS
    const findings = await Promise.all(instances.map((instance) => examine(instance, timeoutMs, stop.signal)))
    const signal = signalOf(stop.signal)
    if (signal !== null) return EXIT[signal]
    const ok = findings.every(({ probe }) => probe !== null)
    const style = createStyle(wantsColor(io.stdout, io.env, settings.on('no-color')))
    const text = settings.on('json')
      ? `${JSON.stringify(jsonOf(ok, findings))}\n`
      : doctorText(findings, style, columnsOf(io.stdout))
    io.stdout.write(text)
    return ok ? EXIT.ok : EXIT.failed
  } finally {
    forget()
  }
}

function doctorProblems(settings: Settings, urlFlag: boolean): readonly string[] {
  const { operands } = settings
  const instances = readInstances(settings, operands)
  const problems = [...instancesProblems(settings), ...conformanceProblems(settings)]
  if (operands.length > 0 && urlFlag) problems.push('expected urls either as they are or with --url, found both')
  if (instances.length === 0 && problems.length === 0)
    problems.push('expected the urls of servers, such as http://10.0.0.1:30000')
  return [...problems, ...fleetProblems({ instances, supervisor: {} })]
}

async function examine(instance: InstanceOptions, timeoutMs: number, stop: AbortSignal): Promise<DoctorFinding> {
  const { url } = instance
  const limit = new AbortController()
  const end = (): void => limit.abort(new RolloutError('CANCELLED', `${url}: stopped`))
  stop.addEventListener('abort', end)
  const words = `${url}: expected answers within ${timeoutMs / 1_000} s, found none; see whether the server still works, or give it more --timeout`
  const timer = setTimeout(() => limit.abort(new RolloutError('UNREACHABLE', words)), timeoutMs)
  try {
    const probe: Probe = await probeInstance(instance, { signal: limit.signal })
    return { url, probe, fault: null }
  } catch (error) {
    const code = RolloutError.isInstance(error) ? error.code : 'UNREACHABLE'
    return { url, probe: null, fault: { code, message: error instanceof Error ? error.message : String(error) } }
  } finally {
    clearTimeout(timer)
    stop.removeEventListener('abort', end)
  }
}

function jsonOf(ok: boolean, findings: readonly DoctorFinding[]): object {
  return {
    ok,
    instances: findings.map(({ url, probe, fault }) => ({ url, usable: probe !== null, ...probe, fault })),
  }
}
