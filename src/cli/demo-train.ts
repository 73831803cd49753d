/**
 * The demo's training loop: more groups are in flight than a step trains on; when enough are done, they are rewarded and trained on, and the fleet
 * is brought to the new weights while the others still run. They go on from their tokens, each token with the version it was sampled under.
 * The loop stops at its target, after its steps, or when it is told to; a step that is cut short is not trained on.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Completion, Group, Supervisor } from '../index.ts'
import { saveWeights, type TinyWeights } from '../testing/index.ts'
import { countdownReward } from './countdown.ts'
import { type Evaluated, evaluatePolicy } from './demo-evaluate.ts'
import type { DemoFault } from './demo-fault.ts'
import { type DemoOptions, TARGET_REWARD } from './demo-options.ts'
import { createRollouts, type DemoRollouts, type Prompt } from './demo-rollouts.ts'
import { createFidelityCheck, type Fidelity } from './fidelity.ts'
import { createTrainer, type TrainingGroup } from './trainer.ts'

export type DemoStop = 'target' | 'steps' | 'budget' | 'SIGINT' | 'SIGTERM'

export interface TrainedStep {
  /** Clock milliseconds. */
  readonly at: number
  readonly reward: number
  /** Mean length of its answers. */
  readonly tokens: number
}

/** All weight updates together. */
export interface Updates {
  readonly count: number
  readonly interrupted: number
  readonly resumedTokens: number
  readonly wastedTokens: number
}

export interface Training {
  readonly steps: readonly TrainedStep[]
  readonly evaluations: readonly Evaluated[]
  readonly updates: Updates
  readonly fidelity: Fidelity
  readonly reachedTarget: boolean
  readonly stop: DemoStop
}

export interface TrainingOptions {
  readonly demo: DemoOptions
  readonly supervisor: Supervisor
  readonly weights: TinyWeights
  readonly fault: DemoFault
  /** Its reason is why the loop shall stop. */
  readonly signal: AbortSignal
  readonly now: () => number
  /** `ended` counts the groups that are done and not trained on. */
  readonly onStep: (step: number, ended: () => number) => void
  /** What people should know of when it happens. */
  readonly say: (words: string) => void
  readonly onTrained: (steps: readonly TrainedStep[]) => void
  readonly onEvaluated: (evaluated: Evaluated) => void
}

/** Steps in a row above the target: one lucky step is not learning. */
const STEPS_IN_A_ROW = 3
/** Versions whose weights stay in memory, for the check of tokens from samples that lived through so many updates: 4 KB each. */
const KEPT_VERSIONS = 64
/** Versions whose weights stay on disk: a server that comes back is brought to the newest. */
const KEPT_FILES = 3
/** Loading takes milliseconds: longer means that a server hangs. */
const UPDATE_TIMEOUT_MS = 30_000
/** Samples of each digit in an evaluation. */
const EVALUATION_SAMPLES = 4
/** What happens in the middle of a step happens when so much of it is done: its slots are full then. */
const MIDDLE = 0.25

/** Trains until the target, the end of the steps, or the signal. Leaves nothing on disk. */
export async function train(options: TrainingOptions): Promise<Training> {
  // The servers read their weights from here, as real ones would from a shared disk.
  const folder = await mkdtemp(join(tmpdir(), 'rollout-supervisor-weights-'))
  const rollouts = createRollouts(options)
  try {
    return await loop(options, folder, rollouts)
  } finally {
    rollouts.end('the training has ended')
    await rm(folder, { recursive: true, force: true })
  }
}

async function loop(options: TrainingOptions, folder: string, rollouts: DemoRollouts): Promise<Training> {
  const { demo, supervisor, fault, signal, now } = options
  const trainer = createTrainer({ weights: options.weights })
  const fidelity = createFidelityCheck(KEPT_VERSIONS)
  const steps: TrainedStep[] = []
  const evaluations: Evaluated[] = []
  const updates = { count: 0, interrupted: 0, resumedTokens: 0, wastedTokens: 0 }
  let version = -1

  const publish = async (): Promise<void> => {
    version += 1
    const path = join(folder, `version-${version}`)
    await saveWeights(path, trainer.weights)
    fidelity.publish(version, trainer.weights)
    const update = supervisor.updateWeights({ version, mode: demo.update, path, timeoutMs: UPDATE_TIMEOUT_MS })
    const report = await orStopped(update, signal)
    if (report !== null) {
      updates.count += 1
      updates.interrupted += report.interrupted
      updates.resumedTokens += report.resumedTokens
      updates.wastedTokens += report.wastedTokens
    }
    if (version >= KEPT_FILES)
      await rm(join(folder, `version-${version - KEPT_FILES}`), { recursive: true, force: true })
  }
  const evaluate = async (step: number): Promise<void> => {
    const samples = EVALUATION_SAMPLES
    const evaluated = await evaluatePolicy({
      supervisor,
      seed: demo.seed,
      step,
      samples,
      interrupt: 'resume',
      signal,
      now,
    })
    if (evaluated === null) return
    evaluations.push(evaluated)
    options.onEvaluated(evaluated)
  }
  const isEvaluated = (step: number): boolean =>
    demo.evaluateEvery > 0 && (step === 1 || step % demo.evaluateEvery === 0)
  const reachedTarget = (): boolean =>
    steps.length >= STEPS_IN_A_ROW && steps.slice(-STEPS_IN_A_ROW).every(({ reward }) => reward > TARGET_REWARD)
  const result = (stop: DemoStop): Training => ({
    steps,
    evaluations,
    updates,
    fidelity: fidelity.result,
    reachedTarget: reachedTarget(),
    stop,
  })
  /** One step but for the update at its end; false when it was cut short. */
  const roll = async (step: number): Promise<boolean> => {
    rollouts.begin(step)
    await rollouts.middle(Math.ceil(demo.groups * MIDDLE))
    const evaluation = isEvaluated(step) && !signal.aborted ? evaluate(step) : null
    if (step === demo.killStep && !signal.aborted) {
      options.say(
        `step ${step}: ${fault.instance} is killed while it works, to come back with the weights of version 0`,
      )
      await fault.kill(step)
    }
    const groups = await rollouts.take()
    await evaluation
    if (signal.aborted) return false
    const answers = groups.map((group) => group.completions.filter(({ outcome }) => outcome === 'completed'))
    if (answers.every((list) => list.length === 0)) throw firstError(groups)
    for (const [index, list] of answers.entries()) {
      for (const answer of list) await fidelity.check([groups[index]!.meta.digit], answer, version)
    }
    const scored = groups.map((group, index) => score(group.meta.digit, answers[index]!))
    steps.push({ at: now(), ...means(scored) })
    options.onTrained(steps)
    trainer.step(scored)
    return true
  }
  signal.addEventListener('abort', () => rollouts.end(signal.reason), { once: true })

  await publish()
  for (let step = 1; !signal.aborted; step++) {
    options.onStep(step, () => rollouts.done)
    if (!(await roll(step))) break
    const isLast = demo.steps === null ? reachedTarget() : step === demo.steps
    // Nobody will train on what still runs.
    if (isLast) rollouts.end('the training has ended')
    await publish()
    await fault.restart()
    if (!isLast) continue
    if (demo.evaluateEvery > 0) await evaluate(step + 1)
    if (!signal.aborted) return result(demo.steps === null ? 'target' : 'steps')
  }
  return result(signal.reason as DemoStop)
}

/** Resolves when the work is done, or when the loop shall stop: closing the supervisor then ends what is left of it. */
async function orStopped<T>(work: Promise<T>, signal: AbortSignal): Promise<T | null> {
  // An update that fails after the stop is nobody's concern any more.
  work.catch(() => {})
  if (signal.aborted) return null
  let stop = (): void => {}
  const stopped = new Promise<null>((resolve) => {
    stop = () => resolve(null)
  })
  signal.addEventListener('abort', stop, { once: true })
  try {
    return await Promise.race([work, stopped])
  } finally {
    signal.removeEventListener('abort', stop)
  }
}

function score(digit: number, answers: readonly Completion<Prompt>[]): TrainingGroup {
  return {
    samples: answers.map(({ tokenIds, logprobs }) => ({
      prompt: [digit],
      tokens: tokenIds,
      logprobs,
      reward: countdownReward(digit, tokenIds),
    })),
  }
}

function means(groups: readonly TrainingGroup[]): { reward: number; tokens: number } {
  const samples = groups.flatMap((group) => group.samples)
  const mean = (value: (sample: (typeof samples)[number]) => number) =>
    samples.reduce((sum, sample) => sum + value(sample), 0) / samples.length
  return { reward: mean((sample) => sample.reward), tokens: mean((sample) => sample.tokens.length) }
}

function firstError(groups: readonly Group<Prompt>[]): Error {
  const error = groups.flatMap((group) => group.missing).find((missing) => missing.error !== null)?.error
  return new Error(`no sample of the step was completed; the first said: ${error?.message ?? 'nothing'}`, {
    cause: error,
  })
}
