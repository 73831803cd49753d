/**
 * The settings of `rollout-supervisor run`: flags, environment and config file, their defaults and their bounds.
 */
import { engineNames, type InstanceOptions, policyNames, type Sampling, type SupervisorOptions } from '../index.ts'
import { isRecord } from '../input/line-fields.ts'
import { type Flags, flagHelp } from './flags.ts'
import { fleetProblems } from './fleet-check.ts'
import type { Io } from './io.ts'
import { readSettings, type Settings } from './settings.ts'

export interface RunOptions {
  /** `-` is stdin. */
  readonly input: string
  /** Null is stdout. */
  readonly output: string | null
  readonly retryFailed: boolean
  readonly demoFleet: boolean
  readonly instances: readonly InstanceOptions[]
  readonly supervisor: SupervisorOptions
  readonly samples: number
  readonly sampling: Sampling
  /** Samples that are live at once, or null: twice what the fleet runs. */
  readonly concurrency: number | null
  /** How long running samples may go on after a signal. */
  readonly graceMs: number
  /** How long no server may answer before the run ends. */
  readonly giveUpMs: number
  readonly json: boolean
  readonly quiet: boolean
  readonly verbose: boolean
  readonly noColor: boolean
}

/** Within the 30 s that Kubernetes and systemd grant by default, with time to close. */
const GRACE_MS = 25_000
/** A server that restarts with large weights on a slow disk is back by then. */
const GIVE_UP_MS = 30 * 60_000

const whole = (min: number, max: number, about: string) => ({ type: 'number', whole: true, min, max, about }) as const
const number = (min: number, max: number, about: string) => ({ type: 'number', whole: false, min, max, about }) as const
const MOST = 2 ** 31 - 1

/** Flags that name the fleet; `doctor` has them as well. */
export const FLEET_FLAGS = {
  url: { type: 'list', about: 'a server, http://host:port; may be given many times' },
  engine: { type: 'word', allowed: engineNames, about: `${engineNames.join(', ')} (found out by asking each server)` },
  'api-key': {
    type: 'word',
    about: 'sent as a bearer token; other users see flags: better ROLLOUT_SUPERVISOR_API_KEY',
  },
  model: { type: 'word', about: 'name of the model, for servers that want one (the first that the server lists)' },
  config: { type: 'word', about: 'JSON file with settings (maxTokens for --max-tokens) and instances' },
} as const satisfies Flags

export const RUN_FLAGS = {
  ...FLEET_FLAGS,
  'demo-fleet': { type: 'switch', about: 'two embedded engines inside this process instead of servers' },
  output: { type: 'word', about: 'file to write to and to go on from; - is stdout (stdout)' },
  'retry-failed': { type: 'switch', about: 'run again what the output has as failed' },
  samples: whole(1, 1_024, 'samples of a prompt, where its line does not say (1)'),
  'max-tokens': whole(1, MOST, 'tokens of a sample at most, where its line does not say (1024)'),
  temperature: number(0, 100, '0 is greedy (1)'),
  'top-p': number(Number.MIN_VALUE, 1, 'nucleus mass (1)'),
  'top-k': whole(-1, MOST, '-1 is off (-1)'),
  'min-p': number(0, 1, 'least probability, relative to the largest (0)'),
  stop: { type: 'list', about: 'text that ends a sample; may be given many times' },
  seed: whole(0, 2 ** 32 - 1, 'of sampling; every line gets its own from it'),
  capacity: whole(1, MOST, 'sequences that a server runs at once (what the server says)'),
  'vocabulary-size': whole(1, MOST, 'prompts with token ids beyond it are refused (what the server says)'),
  'logprob-basis': {
    type: 'word',
    allowed: ['sampled', 'raw'],
    about: 'raw takes log-probabilities of before temperature where a server has no others (sampled)',
  },
  concurrency: whole(1, MOST, 'samples in flight at most (twice what the fleet runs at once)'),
  policy: { type: 'word', allowed: policyNames, about: `${policyNames.join(' or ')} (${policyNames[0]})` },
  grace: { type: 'duration', about: `after a signal, running samples may take so long to end (${GRACE_MS / 1_000}s)` },
  'give-up': { type: 'duration', about: `end when no server has answered for so long (${GIVE_UP_MS / 60_000}m)` },
  json: { type: 'switch', about: 'the summary as one JSON object, on stdout with --output, else on stderr' },
  quiet: { type: 'switch', about: 'no progress and no summary on stderr, only what is wrong' },
  'no-color': { type: 'switch', about: 'no colours; NO_COLOR does the same' },
  verbose: { type: 'switch', about: 'log of the supervisor on stderr, and stack traces with errors' },
  help: { type: 'switch', about: 'this text' },
} as const satisfies Flags

/** Keys of the config file that are no flags. */
export const CONFIG_KEYS = ['instances', 'timeouts', 'retry', 'breaker', 'watchdogMs', 'minInstances'] as const

export const RUN_HELP = `usage: rollout-supervisor run <prompts.jsonl | -> (--url http://host:port ... | --demo-fleet) [flags]

Completes every line of a file of prompts on a fleet of inference servers. One JSON object a line, in either form:

  {"id": "a", "prompt": "text" | "messages": [{"role", "content"}] | "promptTokenIds": [1, 2], "samples"?, "sampling"?, "meta"?}
  {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [...], "max_tokens": 64}}

Each sample is written as one JSON line when it ends (each request of the second form, in the OpenAI batch form). With --output the
file is also the memory: stopped at any moment and run again, it goes on where it was, and every sample is there exactly once.
A line that cannot be used is reported with its number and does not stop the others.

${flagHelp(RUN_FLAGS)}

Flags win over environment variables (--max-tokens is ROLLOUT_SUPERVISOR_MAX_TOKENS), which win over the config file:
  {"instances": [{"url": "http://10.0.0.1:30000", "engine": "sglang"}], "maxTokens": 512, "timeouts": {"progressMs": 60000}}

Exit codes: 0 every sample completed, 1 some failed or some lines could not be used, 2 the command line or a file cannot be used,
130 and 143 stopped by SIGINT and SIGTERM, after running samples have ended; a second signal stops at once.
`

/** @returns null when help was asked for @throws UsageError */
export function readRunOptions(args: readonly string[], env: Io['env']): RunOptions | null {
  const settings = readSettings(RUN_FLAGS, args, env, { otherKeys: CONFIG_KEYS, problems: runProblems })
  if (settings.on('help')) return null
  const output = settings.word('output')
  return {
    input: settings.operands[0]!,
    output: output === '-' ? null : output,
    retryFailed: settings.on('retry-failed'),
    demoFleet: settings.on('demo-fleet'),
    instances: readInstances(settings),
    supervisor: readSupervisor(settings),
    samples: settings.number('samples') ?? 1,
    sampling: readSampling(settings),
    concurrency: settings.number('concurrency'),
    graceMs: settings.number('grace') ?? GRACE_MS,
    giveUpMs: settings.number('give-up') ?? GIVE_UP_MS,
    json: settings.on('json'),
    quiet: settings.on('quiet'),
    verbose: settings.on('verbose'),
    noColor: settings.on('no-color'),
  }
}

function runProblems(settings: Settings): readonly string[] {
  const { operands } = settings
  const problems: string[] = []
  const output = settings.word('output')
  const demoFleet = settings.on('demo-fleet')
  const instances = readInstances(settings)
  if (operands.length !== 1) problems.push(`expected one file of prompts, or - for stdin, found ${operands.length}`)
  if (demoFleet && settings.overrides('url')) problems.push('expected either --url or --demo-fleet, found both')
  if (!demoFleet && instances.length === 0 && instancesProblems(settings).length === 0)
    problems.push('expected servers: --url, instances in the config file, or --demo-fleet')
  if (settings.on('retry-failed') && (output === null || output === '-'))
    problems.push('--retry-failed: expected together with --output, which says what failed')
  return [
    ...problems,
    ...instancesProblems(settings),
    ...fleetProblems({ instances, supervisor: readSupervisor(settings) }),
  ]
}

function readSupervisor(settings: Settings): SupervisorOptions {
  const { instances: _, ...supervisor } = settings.config
  return { ...supervisor, policy: settings.word('policy') ?? policyNames[0] } as SupervisorOptions
}

/** What is wrong with the list of servers as a whole. */
export function instancesProblems({ config: { instances } }: Settings): readonly string[] {
  return instances === undefined || Array.isArray(instances) ? [] : ['instances: expected an array of { url, engine }']
}

/**
 * The servers of the operands, else of --url or its variable, else of the config file. What they are is checked by the supervisor.
 */
export function readInstances(settings: Settings, operands: readonly string[] = []): readonly InstanceOptions[] {
  const { instances: list } = settings.config
  const given: readonly unknown[] = Array.isArray(list) ? list : []
  const urls = operands.length > 0 ? operands : settings.list('url')
  const configured = operands.length > 0 || settings.overrides('url') ? [] : given
  const instances: unknown[] = [...urls.map((url) => ({ url })), ...configured]
  const shared = present({
    engine: settings.word('engine'),
    apiKey: settings.word('api-key'),
    capacity: settings.number('capacity'),
    vocabularySize: settings.number('vocabulary-size'),
    model: settings.word('model'),
    logprobBasis: settings.word('logprob-basis'),
  })
  return instances.map((each) => (isRecord(each) ? { ...shared, ...each } : each) as InstanceOptions)
}

function readSampling(settings: Settings): Sampling {
  const stop = settings.list('stop')
  return present({
    maxTokens: settings.number('max-tokens'),
    temperature: settings.number('temperature'),
    topP: settings.number('top-p'),
    topK: settings.number('top-k'),
    minP: settings.number('min-p'),
    stop: stop.length === 0 ? null : stop,
    seed: settings.number('seed'),
  })
}

/** Without what nobody has set. */
function present<T extends object>(values: T): { [K in keyof T]?: NonNullable<T[K]> } {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== null)) as {
    [K in keyof T]?: NonNullable<T[K]>
  }
}
