/**
 * One real server through the package's own driver, for tests: a generation joined, what the server counts by itself, requests that are not the
 * driver's.
 */
import { expect } from 'vitest'
import { realClock } from '../../../src/clock.ts'
import type { Chunk, EngineDriver, WireSpan } from '../../../src/engines/driver.ts'
import { engineFactory } from '../../../src/engines/index.ts'
import { RolloutError } from '../../../src/errors.ts'
import type { Supervisor } from '../../../src/index.ts'
import type { CheckedSampling, Prompt } from '../../../src/rollout/task.ts'

export interface Generated {
  readonly requestId: string
  readonly tokens: number[]
  readonly logprobs: number[]
  text: string
  chunks: number
  finishReason: Chunk['finishReason']
  versions: readonly WireSpan[] | null
}

export interface GenerateOptions {
  readonly requestId?: string
  readonly prompt?: Prompt
  readonly signal?: AbortSignal
  readonly onChunk?: (out: Generated) => void | Promise<void>
}

export const PROMPT: readonly number[] = [10, 11, 12]

const PLAIN: CheckedSampling = {
  maxTokens: 32,
  minTokens: 0,
  temperature: 1,
  topP: 1,
  topK: -1,
  minP: 0,
  stop: [],
  stopTokenIds: [],
  ignoreEos: true,
  seed: null,
}

export const driverOf = (engine: string, url: string): EngineDriver =>
  engineFactory(engine)({ id: 'real', url, apiKey: undefined, clock: realClock })

let serial = Date.now()

export async function generate(
  driver: EngineDriver,
  sampling: Partial<CheckedSampling> = {},
  {
    requestId = `e2e-${serial++}`,
    prompt = PROMPT,
    signal = new AbortController().signal,
    onChunk,
  }: GenerateOptions = {},
): Promise<Generated> {
  const out: Generated = {
    requestId,
    tokens: [],
    logprobs: [],
    text: '',
    chunks: 0,
    finishReason: null,
    versions: null,
  }
  for await (const chunk of driver.generate({ requestId, prompt, sampling: { ...PLAIN, ...sampling } }, signal)) {
    out.tokens.push(...chunk.tokenIds)
    out.logprobs.push(...chunk.logprobs)
    out.text += chunk.text ?? ''
    out.chunks++
    out.finishReason = chunk.finishReason
    out.versions = chunk.versions
    await onChunk?.(out)
  }
  expect(out.logprobs).toHaveLength(out.tokens.length)
  return out
}

/** A request that is not the driver's. */
export async function post(url: string, path: string, body: object): Promise<{ status: number; json: unknown }> {
  const headers = { 'content-type': 'application/json' }
  const response = await fetch(url + path, { method: 'POST', headers, body: JSON.stringify(body) })
  const text = await response.text()
  return { status: response.status, json: text === '' ? null : JSON.parse(text) }
}

export async function errorOf(promise: Promise<unknown>): Promise<RolloutError> {
  const error = await promise.then(
    (value) => expect.fail(`expected an error, found ${JSON.stringify(value)}`),
    (caught: unknown) => caught,
  )
  if (!RolloutError.isInstance(error)) throw error
  return error
}

/** On two cores that others use as well. */
const LOAD_MS = 1_200_000

/** Waits until the server counts so many, running and waiting; returns how long that took, in milliseconds. */
export async function loadOf(driver: EngineDriver, sequences: number): Promise<number> {
  const from = performance.now()
  for (;;) {
    const { running, waiting } = await driver.load()
    const tookMs = performance.now() - from
    if (running + waiting === sequences) return Math.round(tookMs)
    if (tookMs > LOAD_MS) expect.fail(`the server counts ${running} + ${waiting}, expected ${sequences}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

/** Waits for what no event tells. */
export async function until(words: string, holds: () => boolean | Promise<boolean>): Promise<number> {
  const from = performance.now()
  while (!(await holds())) {
    if (performance.now() - from > LOAD_MS) expect.fail(words)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  return Math.round(performance.now() - from)
}

/** Tokens that the server has generated, by its own word. */
async function counted(driver: EngineDriver): Promise<number> {
  return (await driver.load()).generatedTokens ?? 0
}

/** What hangs up, or aborts, is not generated to its end: by the server's counter of tokens, so that no time is looked at. */
export async function stopsShortOf(driver: EngineDriver, tokens: number, act: () => Promise<unknown>): Promise<void> {
  const before = await counted(driver)
  await act()
  await loadOf(driver, 0)
  expect((await counted(driver)) - before).toBeLessThan(0.9 * tokens)
}

/** F3: four samples, cancelled while the server runs them all. */
export async function cancelled(supervisor: Supervisor, driver: EngineDriver, maxTokens: number): Promise<void> {
  await stopsShortOf(driver, 4 * maxTokens, async () => {
    const long = supervisor.submit({ prompt: [...PROMPT], samples: 4, sampling: { maxTokens, ignoreEos: true } })
    await loadOf(driver, 4)
    long.cancel('seen enough')
    expect((await long.result).completions.every(({ outcome }) => outcome === 'cancelled')).toBe(true)
  })
}

/** F6 on engines that count tokens as they are sampled. */
export async function counterMoves(driver: EngineDriver, maxTokens: number): Promise<void> {
  const before = await counted(driver)
  const controller = new AbortController()
  const running = errorOf(generate(driver, { maxTokens }, { signal: controller.signal }))
  await until('the counter moves', async () => (await counted(driver)) > before)
  controller.abort()
  await running
  await loadOf(driver, 0)
  // A report may be some steps old.
  await until('the counter stands still', async () => {
    const { generatedTokens } = await driver.load()
    await new Promise((resolve) => setTimeout(resolve, 500))
    return (await driver.load()).generatedTokens === generatedTokens
  })
}
