/**
 * What a task asks of a server beyond its load, as bits: one comparison says whether an instance can run it.
 */
import type { CheckedSampling, TaskKind } from './task.ts'

/** Every task needs `any`; an instance that lacks it takes no prompt of that kind at all. */
export const NEED = {
  any: 1,
  minTokens: 2,
  topK: 4,
  minP: 8,
  stopTokenIds: 16,
  ignoreEos: 32,
  /** Log-probabilities after temperature, where that changes them and somebody may train on them (decision 20). */
  temperature: 64,
} as const

/** The forms in which a prompt can be sent. */
export type PromptKind = 'ids' | 'text' | 'chat'

export function needsOf(sampling: CheckedSampling, kind: TaskKind): number {
  const { minTokens, topK, minP, stopTokenIds, ignoreEos, temperature } = sampling
  // Greedy tokens are not sampled: every engine reports the same of them, the log-probabilities of temperature 1.
  const isTempered = kind === 'rollout' && temperature !== 1 && temperature !== 0
  return (
    NEED.any |
    (minTokens > 0 ? NEED.minTokens : 0) |
    (topK > 0 ? NEED.topK : 0) |
    (minP > 0 ? NEED.minP : 0) |
    (stopTokenIds.length > 0 ? NEED.stopTokenIds : 0) |
    (ignoreEos ? NEED.ignoreEos : 0) |
    (isTempered ? NEED.temperature : 0)
  )
}
