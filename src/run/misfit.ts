/**
 * Why a sample cannot run on an instance, whatever its load: token ids outside the vocabulary (R8), or log-probabilities of another
 * distribution than the one sampled from (decision 20). Both are mistakes in a configuration, so the sample fails and says what to change.
 */
import { RolloutError } from '../errors.ts'
import type { LogprobBasis } from '../rollout/completion.ts'
import type { Sample } from '../rollout/sample.ts'
import { can, type Instance } from './run.ts'

export function misfitOf(sample: Sample, instance: Instance): RolloutError | null {
  const { maxTokenId, sampling } = sample.task.spec
  const size = instance.spec.vocabularySize ?? instance.probe?.vocabularySize ?? null
  if (size !== null && maxTokenId >= size) {
    const found = `token id ${maxTokenId}, which is outside the vocabulary of instance ${instance.id}`
    return misfit(sample, instance, `${found}; check that prompt and model belong together`)
  }
  if (basisOf(sample, instance) === 'sampled' || instance.spec.logprobBasis === 'raw') return null
  const found = `temperature ${sampling.temperature}, but instance ${instance.id} reports log-probabilities before temperature`
  const advice =
    "start vLLM with --logprobs-mode processed_logprobs, or accept them with logprobBasis: 'raw' in the instance's options"
  return misfit(sample, instance, `${found}; ${advice}`)
}

/** Of which distribution the instance's log-probabilities are. At temperature 1 there is only one. */
export function basisOf(sample: Sample, instance: Instance): LogprobBasis {
  return can(instance).logprobs === 'raw' && sample.task.spec.sampling.temperature !== 1 ? 'raw' : 'sampled'
}

function misfit(sample: Sample, instance: Instance, found: string): RolloutError {
  return new RolloutError('INVALID_TASK', `task ${sample.task.id} has ${found}`, { instance: instance.id })
}
