/**
 * The task that the demo's policy learns: count down from the prompt's digit to 0, then stop.
 * `3` wants `2 1 0 <end>`; `0` wants `<end>` at once.
 * The reward is checkable, dense enough to learn from, and 1 for the right answer only.
 */
import { EOS } from '../testing/index.ts'

/** Digits are their own token ids, 0 to 9. */
export const DIGITS = 10

/** Long enough for the tail of an untrained policy, which stops with a chance of one in sixteen at every token. */
export const MAX_TOKENS = 64

export function wantedTokens(digit: number): number[] {
  return [...Array.from({ length: digit }, (_, index) => digit - 1 - index), EOS]
}

/** The share of the wanted tokens that the answer begins with: 1 only for all of them, and nothing follows the end. */
export function countdownReward(digit: number, tokens: ArrayLike<number>): number {
  const wanted = wantedTokens(digit)
  let right = 0
  while (right < wanted.length && tokens[right] === wanted[right]) right += 1
  const overrun = right === wanted.length && tokens.length > right
  return overrun ? (right - 1) / wanted.length : right / wanted.length
}

/** The digits of one step's prompts: every digit as often as any other, then in random order. */
export function drawDigits(count: number, random: () => number): number[] {
  const digits = Array.from({ length: count }, (_, index) => index % DIGITS)
  for (let last = digits.length - 1; last > 0; last--) {
    const other = Math.floor(random() * (last + 1))
    ;[digits[last], digits[other]] = [digits[other]!, digits[last]!]
  }
  return digits
}
