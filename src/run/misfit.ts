/**
 * Which instances can run a sample, whatever their load: token ids within the vocabulary (R8), log-probabilities of the distribution that
 * was sampled from (decision 20), and a prompt and options that the engine knows. Learnt with each probe, compared as bits.
 */
import { RolloutError } from '../errors.ts'
import { DEFAULT_SAMPLING } from '../rollout/check-task.ts'
import type { LogprobBasis } from '../rollout/completion.ts'
import { NEED, type PromptKind } from '../rollout/needs.ts'
import type { LiveTask, Sample } from '../rollout/sample.ts'
import { type CheckedSampling, isTokenIds, type Prompt } from '../rollout/task.ts'
import { can, type Instance, type Run } from './run.ts'

/** What an instance cannot do with a prompt of each kind, as bits of NEED. */
export type Lacks = Readonly<Record<PromptKind, number>>

/** Before it was probed an instance gets no work, so nothing is known against it. */
export const LACKS_NOTHING: Lacks = { ids: 0, text: 0, chat: 0 }

const PROMPTS: Readonly<Record<PromptKind, Prompt>> = { ids: [0], text: '0', chat: [{ role: 'user', content: '0' }] }

const OPTIONS: readonly (readonly [number, Partial<CheckedSampling>])[] = [
  [NEED.any, {}],
  [NEED.minTokens, { minTokens: 1 }],
  [NEED.topK, { topK: 1 }],
  [NEED.minP, { minP: 0.5 }],
  [NEED.stopTokenIds, { stopTokenIds: [0] }],
  [NEED.ignoreEos, { ignoreEos: true }],
]

/** Asks the driver what its server would refuse. */
export function lacksOf(instance: Instance): Lacks {
  const { driver, spec } = instance
  const raw = can(instance).logprobs === 'raw' && spec.logprobBasis !== 'raw' ? NEED.temperature : 0
  const refuses = (kind: PromptKind, option: Partial<CheckedSampling>): boolean =>
    driver.refuses !== undefined &&
    driver.refuses({ prompt: PROMPTS[kind], sampling: { ...DEFAULT_SAMPLING, ...option } }) !== null
  const of = (kind: PromptKind): number =>
    OPTIONS.reduce((lacks, [bit, option]) => (refuses(kind, option) ? lacks | bit : lacks), raw)
  return { ids: of('ids'), text: of('text'), chat: of('chat') }
}

export function kindOf(prompt: Prompt): PromptKind {
  if (typeof prompt === 'string') return 'text'
  return isTokenIds(prompt) ? 'ids' : 'chat'
}

/** In which form the instance can take the prompt: token ids where there are some, else as it was given; null where in none. */
export function formFor({ needs, spec, promptTokenIds, maxTokenId }: LiveTask, instance: Instance): PromptKind | null {
  const given = kindOf(spec.prompt)
  const hasIds = given === 'ids' || promptTokenIds !== null
  if (hasIds && (needs & instance.lacks.ids) === 0 && maxTokenId < instance.vocabulary) return 'ids'
  return given !== 'ids' && (needs & instance.lacks[given]) === 0 ? given : null
}

/** Of which distribution the instance's log-probabilities are. At temperature 1 there is only one; at 0 all engines report that one. */
export function basisOf(sample: Sample, instance: Instance): LogprobBasis {
  const { temperature } = sample.task.spec.sampling
  if (temperature === 0) return 'raw'
  return can(instance).logprobs === 'raw' && temperature !== 1 ? 'raw' : 'sampled'
}

/** Why no instance of the fleet can run the task: what each of them lacks, said once. */
export function misfitOf(run: Run, task: LiveTask): RolloutError {
  const probed = [...run.instances.values()].filter(({ probe }) => probe !== null)
  const errors = [...new Map(probed.map((instance) => [instance.kind, misfitOn(task, instance)])).values()]
  if (errors.length === 1) return errors[0]!
  const lines = errors.map(({ message }) => `\n  ${message}`).join('')
  const code = errors.every((error) => error.code === 'INVALID_TASK') ? 'INVALID_TASK' : 'REQUEST_REJECTED'
  return new RolloutError(code, `no instance of the fleet can run task ${task.id}:${lines}`, { errors })
}

function misfitOn(task: LiveTask, instance: Instance): RolloutError {
  const { needs, spec, maxTokenId } = task
  const { id } = instance
  const given = kindOf(spec.prompt)
  const invalid = (found: string): RolloutError =>
    new RolloutError('INVALID_TASK', `task ${task.id} has ${found}`, { instance: id })
  if (given === 'ids' && maxTokenId >= instance.vocabulary) {
    const found = `token id ${maxTokenId}, which is outside the vocabulary of instance ${id}`
    return invalid(`${found}; check that prompt and model belong together`)
  }
  if ((needs & instance.lacks[given] & NEED.temperature) !== 0) {
    const found = `temperature ${spec.sampling.temperature}, but instance ${id} reports log-probabilities before temperature`
    const advice =
      "start vLLM with --logprobs-mode processed_logprobs, or accept them with logprobBasis: 'raw' in the instance's options"
    return invalid(`${found}; ${advice}`)
  }
  const refusal =
    instance.driver.refuses?.({ prompt: spec.prompt, sampling: spec.sampling }) ?? 'expected another prompt'
  return new RolloutError('REQUEST_REJECTED', `instance ${id} (${instance.spec.url}): ${refusal}`, { instance: id })
}
