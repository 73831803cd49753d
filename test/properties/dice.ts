/**
 * Choices of a random life, all from one seed.
 */
import type { Random } from '../../src/testing/random.ts'

export interface Dice {
  chance(probability: number): boolean
  pick<T>(list: readonly T[]): T | undefined
  between(low: number, high: number): number
  /** A number, or nothing. */
  maybe(probability: number, low: number, high: number): number | undefined
}

export function createDice(random: Random): Dice {
  const chance = (probability: number): boolean => random.next() < probability
  const between = (low: number, high: number): number => low + random.int(high - low + 1)
  return {
    chance,
    pick: (list) => list[random.int(list.length)],
    between,
    maybe: (probability, low, high) => (chance(probability) ? between(low, high) : undefined),
  }
}
