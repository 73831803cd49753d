/**
 * The demo's training loop: get the step's groups, reward, one GRPO step, save the weights, bring the fleet to them.
 * The loop stops at its target, after its steps, or when it is told to; a step that is cut short is not trained on.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Completion, Group, Supervisor } from '../index.ts'
import { saveWeights, type TinyWeights } from '../testing/index.ts'
import { countdownReward } from './countdown.ts'
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

export interface Training {
  readonly steps: readonly TrainedStep[]
  readonly fidelity: Fidelity
  readonly reachedTarget: boolean
  readonly stop: DemoStop
}

export interface TrainingOptions {
  readonly demo: DemoOptions
  readonly supervisor: Supervisor
  readonly weights: TinyWeights
  /** Its reason is why the loop shall stop. */
  readonly signal: AbortSignal
  readonly now: () => number
  readonly onStep: (step: number) => void
  readonly onTrained: (steps: readonly TrainedStep[]) => void
}

/** Steps in a row above the target: one lucky step is not learning. */
const STEPS_IN_A_ROW = 3
/** Versions whose weights stay at hand, in memory and on disk. */
const KEPT_VERSIONS = 3
/** Loading takes milliseconds, and the longest answer a second: longer means that a server hangs. */
const UPDATE_TIMEOUT_MS = 30_000

/** Trains until the target, the end of the steps, or the signal. Leaves nothing on disk. */
export async function train(options: TrainingOptions): Promise<Training> {
  // The servers read their weights from here, as real ones would from a shared disk.
  const folder = await mkdtemp(join(tmpdir(), 'rollout-supervisor-weights-'))
  const rollouts = createRollouts(options)
  try {
    return await loop(options, folder, rollouts)
  } finally {
    await rollouts.end()
    await rm(folder, { recursive: true, force: true })
  }
}

async function loop(options: TrainingOptions, folder: string, rollouts: DemoRollouts): Promise<Training> {
  const { demo, supervisor, signal, now } = options
  const trainer = createTrainer({ weights: options.weights })
  const fidelity = createFidelityCheck(KEPT_VERSIONS)
  const steps: TrainedStep[] = []
  let version = -1

  const publish = async (): Promise<void> => {
    version += 1
    const path = join(folder, `version-${version}`)
    await saveWeights(path, trainer.weights)
    fidelity.publish(version, trainer.weights)
    // On-policy nothing runs between steps; off-policy what runs goes on under the new weights.
    const mode = demo.mode === 'on-policy' ? ({ mode: 'drain' } as const) : {}
    await orStopped(supervisor.updateWeights({ version, path, timeoutMs: UPDATE_TIMEOUT_MS, ...mode }), signal)
    if (version >= KEPT_VERSIONS)
      await rm(join(folder, `version-${version - KEPT_VERSIONS}`), { recursive: true, force: true })
  }
  const reachedTarget = (): boolean =>
    steps.length >= STEPS_IN_A_ROW && steps.slice(-STEPS_IN_A_ROW).every(({ reward }) => reward > TARGET_REWARD)
  const result = (stop: DemoStop): Training => ({
    steps,
    fidelity: fidelity.result,
    reachedTarget: reachedTarget(),
    stop,
  })

  await publish()
  for (let step = 1; !signal.aborted; step++) {
    options.onStep(step)
    const groups = await rollouts.next(step)
    if (signal.aborted) break
    const answers = groups.map((group) => group.completions.filter(({ outcome }) => outcome === 'completed'))
    if (answers.every((list) => list.length === 0)) throw firstError(groups)
    for (const [index, list] of answers.entries()) {
      for (const answer of list) await fidelity.check([groups[index]!.meta.digit], answer, version)
    }
    const scored = groups.map((group, index) => score(group.meta.digit, answers[index]!))
    steps.push({ at: now(), ...means(scored) })
    options.onTrained(steps)
    trainer.step(scored)
    await publish()
    if (demo.steps === null ? reachedTarget() : step === demo.steps)
      return result(demo.steps === null ? 'target' : 'steps')
  }
  return result(signal.reason as DemoStop)
}

/** Resolves when the work is done, or when the loop shall stop: closing the supervisor then ends what is left of it. */
async function orStopped(work: Promise<unknown>, signal: AbortSignal): Promise<void> {
  // An update that fails after the stop is nobody's concern any more.
  work.catch(() => {})
  if (signal.aborted) return
  let stop = (): void => {}
  const stopped = new Promise<void>((resolve) => {
    stop = resolve
  })
  signal.addEventListener('abort', stop, { once: true })
  try {
    await Promise.race([work, stopped])
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
