/**
 * The tiny policy: sampling, scores that anyone can recompute, and weights on disk.
 */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createRandom, hash32 } from '../../src/testing/random.ts'
import {
  createTinyWeights,
  EOS,
  loadWeights,
  saveWeights,
  scoreTokens,
  textOf,
  tokenDistribution,
  tokensOf,
  VOCABULARY_SIZE,
} from '../../src/testing/tiny-policy.ts'

let folder = ''
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tiny-policy-'))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

describe('the tiny policy', () => {
  test('scores tokens by the formula of its documentation, written out naively', () => {
    const weights = createTinyWeights({ seed: 7 })
    const context = [1, 2, 3, 15, EOS, 4]
    const logits = Array.from({ length: VOCABULARY_SIZE }, (_, v) => {
      const last = context.at(-1)!
      const mean =
        context.reduce((sum, token) => sum + weights.memory[token * VOCABULARY_SIZE + v]!, 0) / context.length
      return (weights.bigram[last * VOCABULARY_SIZE + v]! + mean) / 0.7
    })
    const logSum = Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit), 0))
    const scores = scoreTokens(weights, context, [5], 0.7)
    expect(scores[0]).toBeCloseTo(logits[5]! - logSum, 12)
  })

  test('scores a sequence as the distribution of each of its steps says', () => {
    const weights = createTinyWeights({ seed: 3, vocabularySize: 24 })
    const tokens = [4, 5, 23, EOS, 0]
    const scores = scoreTokens(weights, [9, 1], tokens)
    tokens.forEach((token, i) => {
      const distribution = tokenDistribution(weights, [9, 1, ...tokens.slice(0, i)], 1)
      expect(scores[i]).toBe(distribution[token])
      expect(distribution.reduce((sum, value) => sum + Math.exp(value), 0)).toBeCloseTo(1, 12)
    })
  })

  test('ends a sequence with a probability of about one in the vocabulary', () => {
    const weights = createTinyWeights()
    let sum = 0
    for (let digit = 0; digit < 10; digit++) sum += Math.exp(tokenDistribution(weights, [digit], 1)[EOS]!)
    expect(sum / 10).toBeGreaterThan(0.5 / VOCABULARY_SIZE)
    expect(sum / 10).toBeLessThan(2 / VOCABULARY_SIZE)
  })

  test('refuses tokens it does not have, and an empty context', () => {
    const weights = createTinyWeights()
    expect(() => scoreTokens(weights, [1], [16])).toThrow(/16 is outside the vocabulary of 16/)
    expect(() => tokenDistribution(weights, [], 1)).toThrow(/context is empty/)
    expect(() => createTinyWeights({ vocabularySize: 4 })).toThrow(/vocabularySize/)
  })

  test('turns text into tokens and back, one character a token', () => {
    expect(tokensOf('0123456789abcde')).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15])
    expect(textOf([3, 2, 1, 0, EOS, 11])).toBe('3210a')
    for (const vocabularySize of [11, 16, 40, 300]) {
      const all = Array.from({ length: vocabularySize }, (_, i) => i).filter((token) => token !== EOS)
      expect(tokensOf(textOf(all), vocabularySize)).toEqual(all)
      for (const token of tokensOf('What is it? ä€😀', vocabularySize)) expect(token).toBeLessThan(vocabularySize)
    }
  })
})

describe('weights in a folder', () => {
  test('come back bit for bit', async () => {
    const weights = createTinyWeights({ seed: 11, vocabularySize: 20 })
    await saveWeights(join(folder, 'new', 'one'), weights)
    expect(await loadWeights(join(folder, 'new', 'one'))).toEqual(weights)
  })

  test('that are missing or damaged are refused by name', async () => {
    await expect(loadWeights(join(folder, 'nowhere'))).rejects.toThrow(/nowhere.*ENOENT/)
    const file = join(folder, 'damaged', 'tiny-policy.json')
    await saveWeights(join(folder, 'damaged'), createTinyWeights())
    const content = JSON.parse(await readFile(file, 'utf8')) as { bigram: string }
    const bytes = Buffer.from(content.bigram, 'base64')
    bytes[100]! ^= 1
    await writeFile(file, JSON.stringify({ ...content, bigram: bytes.toString('base64') }))
    await expect(loadWeights(join(folder, 'damaged'))).rejects.toThrow(/checksum/)
    await writeFile(file, '{"format":')
    await expect(loadWeights(join(folder, 'damaged'))).rejects.toMatchObject({ code: 'INVALID_OPTIONS' })
  })
})

describe('seeded random numbers', () => {
  test('are the same for the same seed, and look like what they say', () => {
    const a = createRandom(5)
    const b = createRandom(5)
    const other = createRandom(6)
    let sum = 0
    let squares = 0
    let same = 0
    for (let i = 0; i < 20_000; i++) {
      const value = a.next()
      expect(value).toBe(b.next())
      if (value === other.next()) same++
      const normal = a.normal()
      b.normal()
      sum += normal
      squares += normal * normal
    }
    expect(same).toBeLessThan(3)
    expect(Math.abs(sum / 20_000)).toBeLessThan(0.03)
    expect(Math.abs(squares / 20_000 - 1)).toBeLessThan(0.05)
    expect(hash32(1, 2)).toBe(hash32(1, 2))
    expect(hash32(1, 2)).not.toBe(hash32(2, 1))
    expect(hash32(2 ** 40)).not.toBe(hash32(0))
  })
})
