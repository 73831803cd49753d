/**
 * The demo's training loop, on-policy: submit the step's groups, await them, reward, one GRPO step, save the weights, bring the fleet to them.
 * The loop stops at its target, after its steps, or when it is told to; a step that is cut short is not trained on.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Completion, Group, Supervisor } from '../index.ts'
import { createRandom, EOS, hash32, saveWeights, type TinyWeights } from '../testing/index.ts'
import { countdownReward, drawDigits, MAX_TOKENS } from './countdown.ts'
import { type DemoOptions, TARGET_REWARD } from './demo-options.ts'
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

interface Prompt {
  readonly digit: number
}

/** Steps in a row above the target: one lucky step is not learning. */
const STEPS_IN_A_ROW = 3
/** Versions whose weights stay at hand, in memory and on disk. */
const KEPT_VERSIONS = 3
/** The fleet is quiet between steps, and loading takes milliseconds: longer means that a server hangs. */
const UPDATE_TIMEOUT_MS = 30_000

/** Trains until the target, the end of the steps, or the signal. Leaves nothing on disk. */
export async function train(options: TrainingOptions): Promise<Training> {
  // The servers read their weights from here, as real ones would from a shared disk.
  const folder = await mkdtemp(join(tmpdir(), 'rollout-supervisor-weights-'))
  try {
    return await loop(options, folder)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

async function loop(options: TrainingOptions, folder: string): Promise<Training> {
  const { demo, supervisor, signal, now } = options
  const random = createRandom(demo.seed)
  const trainer = createTrainer({ weights: options.weights })
  const fidelity = createFidelityCheck(KEPT_VERSIONS)
  const steps: TrainedStep[] = []
  let version = -1

  const publish = async (): Promise<void> => {
    version += 1
    const path = join(folder, `version-${version}`)
    await saveWeights(path, trainer.weights)
    fidelity.publish(version, trainer.weights)
    await orStopped(supervisor.updateWeights({ version, mode: 'drain', path, timeoutMs: UPDATE_TIMEOUT_MS }), signal)
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
    const groups = await roll(options, step, drawDigits(demo.groups, random.next))
    if (signal.aborted) break
    const answers = groups.map((group) => group.completions.filter(({ outcome }) => outcome === 'completed'))
    if (answers.every((list) => list.length === 0)) throw firstError(groups)
    for (const [index, list] of answers.entries()) {
      for (const answer of list) fidelity.check([groups[index]!.meta.digit], answer, version)
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

/** One step's groups, in the order of its digits. When told to stop, everything ends at once, as cancelled. */
async function roll(
  { demo, supervisor, signal }: TrainingOptions,
  step: number,
  digits: readonly number[],
): Promise<Group<Prompt>[]> {
  const rollouts = digits.map((digit, index) =>
    supervisor.submit<Prompt>({
      id: `step-${step}-${index}`,
      prompt: [digit],
      sampling: { maxTokens: MAX_TOKENS, temperature: 1, stopTokenIds: [EOS], seed: hash32(demo.seed, step, index) },
      samples: demo.samples,
      meta: { digit },
    }),
  )
  const cancel = (): void => {
    for (const rollout of rollouts) rollout.cancel(signal.reason)
  }
  signal.addEventListener('abort', cancel, { once: true })
  if (signal.aborted) cancel()
  try {
    return await Promise.all(rollouts.map((rollout) => rollout.result))
  } finally {
    signal.removeEventListener('abort', cancel)
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
