/**
 * The flags of `rollout-supervisor demo`, their defaults and their bounds.
 */
import type { WeightUpdateOptions } from '../index.ts'
import { type Flags, flagHelp, readFlags } from './flags.ts'
import { UsageError } from './io.ts'

type UpdateMode = NonNullable<WeightUpdateOptions['mode']>

export interface DemoOptions {
  /** Steps to train, or null: until the target is reached. */
  readonly steps: number | null
  /** Time budget, or null: the default one, and none with --steps. */
  readonly seconds: number | null
  readonly engines: number
  readonly capacity: number
  readonly groups: number
  readonly samples: number
  /** Whether the trainer waits for each step's groups, or is one version behind generation at most. */
  readonly mode: 'on-policy' | 'off-policy'
  /** On-policy: groups in flight beyond those that a step waits for. */
  readonly extra: number
  readonly update: UpdateMode
  /** Steps from one evaluation to the next; 0 is never. */
  readonly evaluateEvery: number
  /** Step in which a server is killed; 0 is never. */
  readonly killStep: number
  readonly policy: 'least-request' | 'round-robin'
  readonly strict: boolean
  /** Engines, from the first, that are slower by slowFactor. */
  readonly slow: number
  readonly slowFactor: number
  readonly stepMs: number
  readonly seed: number
  readonly out: string
  readonly json: boolean
  readonly quiet: boolean
  readonly noColor: boolean
  readonly verbose: boolean
}

/** Mean reward at which the task counts as learned. */
export const TARGET_REWARD = 0.9

const DEFAULTS = {
  engines: 4,
  capacity: 16,
  groups: 32,
  samples: 8,
  evaluateEvery: 5,
  killStep: 4,
  slowFactor: 4,
  stepMs: 16,
  seed: 1,
  out: './rollout-supervisor-demo',
} as const

/** The budget when neither --steps nor --seconds says how long; in the strict order the whole fleet is as slow as its slowest. */
const BUDGET_SECONDS = 120

/** More keeps slots fuller at the end of a step, and tokens older. */
const EXTRA_SHARE = 1 / 8
const UPDATE_MODES = ['abort', 'restart', 'keep', 'drain'] as const satisfies readonly UpdateMode[]

const whole = (min: number, max: number, about: string) => ({ type: 'number', whole: true, min, max, about }) as const
const number = (min: number, max: number, about: string) => ({ type: 'number', whole: false, min, max, about }) as const

const FLAGS = {
  steps: whole(1, 100_000, `training steps; without it, until the mean reward stays above ${TARGET_REWARD}`),
  seconds: number(
    0.001,
    86_400,
    `time budget; missing the target within it is a failure (${BUDGET_SECONDS}, times --slow-factor with --slow; none with --steps)`,
  ),
  engines: whole(1, 64, `embedded inference servers (${DEFAULTS.engines})`),
  capacity: whole(1, 1_024, `sequences that each runs at once (${DEFAULTS.capacity})`),
  groups: whole(1, 4_096, `prompts in a step (${DEFAULTS.groups})`),
  samples: whole(2, 1_024, `samples of each prompt: the group of GRPO (${DEFAULTS.samples})`),
  mode: {
    type: 'word',
    allowed: ['on-policy', 'off-policy'],
    about: 'on-policy: each step waits for its groups; off-policy: the next ones run while it trains (on-policy)',
  },
  extra: whole(
    0,
    4_096,
    'on-policy: groups begun beyond those; long ones go on through updates into later steps (an eighth of --groups)',
  ),
  update: {
    type: 'word',
    allowed: UPDATE_MODES,
    about: 'what an update does to running samples: abort (go on from their tokens), restart, keep or drain (abort)',
  },
  'evaluate-every': whole(0, 100_000, `steps from one evaluation to the next; 0 is never (${DEFAULTS.evaluateEvery})`),
  'kill-step': whole(0, 100_000, `step in which a server of several is killed; 0 is never (${DEFAULTS.killStep})`),
  policy: {
    type: 'word',
    allowed: ['least-request', 'round-robin'],
    about: 'how samples are placed: least-request or round-robin (least-request)',
  },
  strict: { type: 'switch', about: 'with --policy round-robin: only the next server in order takes the next sample' },
  slow: whole(0, 64, 'servers that are slower than the others (0)'),
  'slow-factor': number(1, 1_000, `how many times slower (${DEFAULTS.slowFactor})`),
  'step-ms': number(0, 10_000, `time of one decoding step of a server (${DEFAULTS.stepMs})`),
  seed: whole(0, 2 ** 32 - 1, `of weights, prompts and sampling (${DEFAULTS.seed})`),
  out: { type: 'word', about: `folder for timeline.svg and report.json (${DEFAULTS.out})` },
  json: { type: 'switch', about: 'the report as one JSON object on stdout' },
  quiet: { type: 'switch', about: 'no progress on stderr' },
  'no-color': { type: 'switch', about: 'no colours; NO_COLOR does the same' },
  verbose: { type: 'switch', about: 'log of the supervisor on stderr, and stack traces with errors' },
  help: { type: 'switch', about: 'this text' },
} as const satisfies Flags

export const DEMO_HELP = `usage: rollout-supervisor demo [flags]

Trains a tiny policy with GRPO, on engines that speak SGLang's HTTP protocol inside this process. The task: count down from the
prompt's digit to 0, then stop. Weights are updated after every step while long samples run on, evaluations take slots from rollouts, and
one server is killed and comes back with old weights. Exit code 0 when the target is reached (or --steps are done), 1 when the budget is missed.

${flagHelp(FLAGS)}
`

/** @returns null when help was asked for @throws UsageError */
export function readDemoOptions(args: readonly string[]): DemoOptions | null {
  const flags = readFlags(FLAGS, args)
  if (flags.on('help')) return null
  const policy = flags.word('policy') === 'round-robin' ? 'round-robin' : 'least-request'
  const groups = flags.number('groups') ?? DEFAULTS.groups
  const engines = flags.number('engines') ?? DEFAULTS.engines
  const options: DemoOptions = {
    steps: flags.number('steps'),
    seconds: flags.number('seconds'),
    engines,
    capacity: flags.number('capacity') ?? DEFAULTS.capacity,
    groups,
    extra: flags.number('extra') ?? Math.ceil(groups * EXTRA_SHARE),
    update: UPDATE_MODES.find((mode) => mode === flags.word('update')) ?? 'abort',
    evaluateEvery: flags.number('evaluate-every') ?? DEFAULTS.evaluateEvery,
    // The only server of a fleet would take the run with it.
    killStep: engines === 1 ? 0 : (flags.number('kill-step') ?? DEFAULTS.killStep),
    samples: flags.number('samples') ?? DEFAULTS.samples,
    mode: flags.word('mode') === 'off-policy' ? 'off-policy' : 'on-policy',
    policy,
    strict: flags.on('strict'),
    slow: flags.number('slow') ?? 0,
    slowFactor: flags.number('slow-factor') ?? DEFAULTS.slowFactor,
    stepMs: flags.number('step-ms') ?? DEFAULTS.stepMs,
    seed: flags.number('seed') ?? DEFAULTS.seed,
    out: flags.word('out') ?? DEFAULTS.out,
    json: flags.on('json'),
    quiet: flags.on('quiet'),
    noColor: flags.on('no-color'),
    verbose: flags.on('verbose'),
  }
  if (options.strict && policy !== 'round-robin')
    throw new UsageError('--strict: expected together with --policy round-robin')
  if (options.slow > options.engines)
    throw new UsageError(`--slow: expected at most the number of engines (${options.engines}), found ${options.slow}`)
  return options
}

export function budgetMs({ seconds, steps, slow, slowFactor }: DemoOptions): number {
  // Timers hold at most 2^31 - 1 ms; 24 days are as good as no budget.
  if (seconds === null && steps !== null) return 2 ** 31 - 1
  return Math.min((seconds ?? BUDGET_SECONDS * (slow === 0 ? 1 : slowFactor)) * 1_000, 2 ** 31 - 1)
}
