/**
 * What is learned: the prompt names one of eight families of tokens, and every token of the answer should be of that family. The reward is the share
 * that is: dense, depends on the prompt, and 1/8 by chance. Advantages are GRPO's: a sample against its own group.
 */
export const FAMILIES = 8
export const ANSWER_TOKENS = 16
const BEGIN = 1
/** Ids below are special; the tokens that name families come next. */
const FIRST = 8

/** @param {number} family */
export const promptOf = (family) => [BEGIN, FIRST + family]

/**
 * @param {number} family
 * @param {Int32Array} tokens
 */
export function rewardOf(family, tokens) {
  return tokens.filter((token) => token % FAMILIES === family).length / ANSWER_TOKENS
}

/** @param {readonly number[]} rewards of one group */
export function advantagesOf(rewards) {
  const mean = average(rewards)
  const deviation = Math.sqrt(average(rewards.map((reward) => (reward - mean) ** 2)))
  return rewards.map((reward) => (reward - mean) / (deviation + 1e-3))
}

/** @param {readonly number[]} values */
export const average = (values) => values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length)
