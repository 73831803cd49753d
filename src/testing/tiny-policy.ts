/**
 * A real, tiny autoregressive policy whose log-probabilities anyone can recompute (I8, F8). The logits of the next token are
 *
 *     bigram[x_t] + (1/t) * sum over j of memory[x_j]          x_1..x_t: prompt and generated tokens
 *
 * and the distribution is softmax(logits / temperature). The running sum of `memory` rows is the sequence's KV cache: an engine that keeps it
 * across a weight change mixes weights, and so does a prefix cache that is not flushed. Rows are added in context order, so that a
 * recomputation equals the engine's own numbers bit for bit.
 */
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { messageOf, RolloutError } from '../errors.ts'
import { isRecord } from '../problems.ts'
import { createRandom, hash32 } from './random.ts'

/** Both tables are vocabularySize x vocabularySize, row by row. */
export interface TinyWeights {
  readonly vocabularySize: number
  readonly bigram: Float64Array
  readonly memory: Float64Array
}

/** Token id of end-of-sequence. 0 to 9 are the digits, 11 and up are letters. */
export const EOS = 10
/** Tokens of the tiny policy: ten digits, end of sequence, five letters. */
export const VOCABULARY_SIZE = 16

/** Larger tables are no longer tiny: 1024 squared twice is 16 MB. */
const MAX_VOCABULARY_SIZE = 1024
const FILE = 'tiny-policy.json'
const FORMAT = 'rollout-supervisor.tiny-policy.1'

/**
 * Random normal tables. At the default scale of 0.3 every token has about the same probability, so the end comes with about 1/V per
 * token and lengths are long-tailed.
 */
export function createTinyWeights(
  options: { vocabularySize?: number; seed?: number; scale?: number } = {},
): TinyWeights {
  const { vocabularySize = VOCABULARY_SIZE, seed = 1, scale = 0.3 } = options
  if (!Number.isInteger(vocabularySize) || vocabularySize <= EOS || vocabularySize > MAX_VOCABULARY_SIZE) {
    const expected = `an integer from ${EOS + 1} to ${MAX_VOCABULARY_SIZE}`
    throw new RolloutError(
      'INVALID_OPTIONS',
      `createTinyWeights: vocabularySize must be ${expected}, found ${vocabularySize}`,
      {
        problems: [{ path: 'vocabularySize', expected, found: String(vocabularySize) }],
      },
    )
  }
  const random = createRandom(seed)
  const table = () => Float64Array.from({ length: vocabularySize * vocabularySize }, () => random.normal() * scale)
  return { vocabularySize, bigram: table(), memory: table() }
}

/** The text of one token; end-of-sequence has none. */
export function textOfToken(tokenId: number): string {
  if (tokenId < EOS) return String(tokenId)
  if (tokenId === EOS) return ''
  // a..z, then U+0100 and up: one character a token, none of which JSON escapes.
  const letter = tokenId - EOS - 1
  return letter < 26 ? String.fromCharCode(97 + letter) : String.fromCharCode(0x100 + letter)
}

/** Text of token ids. */
export function textOf(tokenIds: Iterable<number>): string {
  let text = ''
  for (const tokenId of tokenIds) text += textOfToken(tokenId)
  return text
}

/** One token a character. Characters outside the vocabulary fall on some letter, so that any text is a prompt. */
export function tokensOf(text: string, vocabularySize: number = VOCABULARY_SIZE): number[] {
  return Array.from(text, (character) => {
    const code = character.codePointAt(0) ?? 0
    if (code >= 48 && code <= 57) return code - 48
    const letters = vocabularySize - EOS - 1
    const letter = code >= 97 && code < 123 ? code - 97 : code >= 0x100 ? code - 0x100 : code
    return letters === 0 ? code % EOS : EOS + 1 + (letter % letters)
  })
}

/** Adds the memory row of one token: the token enters the KV cache. */
export function remember(weights: TinyWeights, tokenId: number, memorySum: Float64Array): void {
  const { vocabularySize, memory } = weights
  const row = tokenId * vocabularySize
  for (let i = 0; i < vocabularySize; i++) memorySum[i]! += memory[row + i]!
}

/**
 * Log-softmax of the next token after `lastTokenId`, into `out`. `memorySum` holds the rows of all `count` tokens of the context.
 * Temperature 0 is read as 1: greedy choice changes the choice, not the distribution that is reported (as SGLang does it).
 */
export function logSoftmax(
  weights: TinyWeights,
  memorySum: Float64Array,
  count: number,
  lastTokenId: number,
  temperature: number,
  out: Float64Array,
): void {
  const { vocabularySize, bigram } = weights
  const row = lastTokenId * vocabularySize
  const divisor = temperature > 0 ? temperature : 1
  let max = Number.NEGATIVE_INFINITY
  for (let i = 0; i < vocabularySize; i++) {
    const logit = (bigram[row + i]! + memorySum[i]! / count) / divisor
    out[i] = logit
    if (logit > max) max = logit
  }
  let sum = 0
  for (let i = 0; i < vocabularySize; i++) sum += Math.exp(out[i]! - max)
  const logSum = max + Math.log(sum)
  for (let i = 0; i < vocabularySize; i++) out[i]! -= logSum
}

/** The log-probability of every generated token under these weights, recomputed from nothing. O((prompt + tokens) x V). */
export function scoreTokens(
  weights: TinyWeights,
  promptTokenIds: ArrayLike<number>,
  tokenIds: ArrayLike<number>,
  temperature = 1,
): Float64Array {
  const { vocabularySize } = weights
  const memorySum = new Float64Array(vocabularySize)
  const distribution = new Float64Array(vocabularySize)
  const scores = new Float64Array(tokenIds.length)
  let last = enter(weights, promptTokenIds, memorySum)
  for (let i = 0; i < tokenIds.length; i++) {
    logSoftmax(weights, memorySum, promptTokenIds.length + i, last, temperature, distribution)
    last = checked(tokenIds[i]!, vocabularySize)
    scores[i] = distribution[last]!
    remember(weights, last, memorySum)
  }
  return scores
}

/** Log-softmax over the vocabulary of the token after `contextTokenIds`. */
export function tokenDistribution(
  weights: TinyWeights,
  contextTokenIds: ArrayLike<number>,
  temperature = 1,
): Float64Array {
  const memorySum = new Float64Array(weights.vocabularySize)
  const distribution = new Float64Array(weights.vocabularySize)
  const last = enter(weights, contextTokenIds, memorySum)
  logSoftmax(weights, memorySum, contextTokenIds.length, last, temperature, distribution)
  return distribution
}

/** Writes the weights into a folder (made if missing), whole or not at all. */
export async function saveWeights(folder: string, weights: TinyWeights): Promise<void> {
  await mkdir(folder, { recursive: true })
  const { vocabularySize, bigram, memory } = weights
  const content = {
    format: FORMAT,
    vocabularySize,
    checksum: checksum(bigram, memory),
    bigram: encode(bigram),
    memory: encode(memory),
  }
  const temporary = join(folder, `${FILE}.${process.pid}.${Math.random().toString(36).slice(2)}.tmp`)
  await writeFile(temporary, JSON.stringify(content))
  await rename(temporary, join(folder, FILE))
}

/** Reads what saveWeights wrote. Throws RolloutError INVALID_OPTIONS when it is missing or damaged. */
export async function loadWeights(folder: string): Promise<TinyWeights> {
  const file = join(folder, FILE)
  const refuse = (expected: string, found: string, cause?: unknown) =>
    new RolloutError(
      'INVALID_OPTIONS',
      `${file}: expected ${expected}, found ${found}; write the folder with saveWeights`,
      {
        problems: [{ path: file, expected, found }],
        cause,
      },
    )
  let content: unknown
  try {
    content = JSON.parse(await readFile(file, 'utf8'))
  } catch (error) {
    throw refuse('a file of weights', messageOf(error), error)
  }
  if (!isRecord(content) || content.format !== FORMAT) throw refuse(`format ${FORMAT}`, 'another format')
  const { vocabularySize } = content
  if (
    typeof vocabularySize !== 'number' ||
    !Number.isInteger(vocabularySize) ||
    vocabularySize <= EOS ||
    vocabularySize > MAX_VOCABULARY_SIZE
  ) {
    throw refuse(`vocabularySize from ${EOS + 1} to ${MAX_VOCABULARY_SIZE}`, String(vocabularySize))
  }
  const bigram = decode(content.bigram)
  const memory = decode(content.memory)
  const size = vocabularySize * vocabularySize
  if (bigram?.length !== size || memory?.length !== size)
    throw refuse(`two tables of ${size} numbers`, 'damaged tables')
  if (content.checksum !== checksum(bigram, memory)) throw refuse('tables that match their checksum', 'damaged tables')
  return { vocabularySize, bigram, memory }
}

/** Puts a whole context into an empty memory; returns its last token. */
function enter(weights: TinyWeights, context: ArrayLike<number>, memorySum: Float64Array): number {
  if (context.length === 0)
    throw new RangeError('the context is empty: the policy needs at least one token to start from')
  let last = 0
  for (let i = 0; i < context.length; i++) {
    last = checked(context[i]!, weights.vocabularySize)
    remember(weights, last, memorySum)
  }
  return last
}

function checked(tokenId: number, vocabularySize: number): number {
  if (Number.isInteger(tokenId) && tokenId >= 0 && tokenId < vocabularySize) return tokenId
  throw new RangeError(`token id ${tokenId} is outside the vocabulary of ${vocabularySize}`)
}

function encode(table: Float64Array): string {
  return Buffer.from(table.buffer, table.byteOffset, table.byteLength).toString('base64')
}

function decode(text: unknown): Float64Array | null {
  if (typeof text !== 'string') return null
  const bytes = new Uint8Array(Buffer.from(text, 'base64'))
  return bytes.byteLength % 8 === 0 ? new Float64Array(bytes.buffer) : null
}

function checksum(...tables: Float64Array[]): number {
  let hash = 0
  for (const table of tables) {
    for (const word of new Int32Array(table.buffer, table.byteOffset, table.length * 2)) hash = hash32(hash, word)
  }
  return hash
}
