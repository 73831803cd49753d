/**
 * What the checks of the conformance suite are made of: one generation joined, a long one that is under way, waiting until the server
 * counts so many sequences. Whatever a check started is ended by `leave`.
 */
import { randomUUID } from 'node:crypto'
import type { Clock } from '../clock.ts'
import type { Chunk, EngineDriver, Load, Probe, WireSpan } from '../engines/driver.ts'
import type { CheckedSampling, Prompt } from '../rollout/task.ts'
import type { CheckedConformance } from './conformance.ts'

/** A promise that was not kept. Its message says what was expected and what was found. */
export class Mismatch extends Error {
  override readonly name = 'Mismatch'
}

/** Found out while running: the driver refuses what the check asks for, and runs nothing. */
export class NotOffered extends Error {
  override readonly name = 'NotOffered'
}

export function expectThat(condition: boolean, words: string): asserts condition {
  if (!condition) throw new Mismatch(words)
}

/** One generation, its chunks joined. */
export interface Generated {
  readonly tokens: readonly number[]
  readonly logprobs: readonly number[]
  readonly text: string
  readonly chunks: number
  readonly finishReason: Chunk['finishReason']
  readonly versions: readonly WireSpan[] | null
}

export interface GenerateHow {
  readonly prompt?: Prompt
  /** As in GenerateRequest. */
  readonly textBefore?: string | undefined
}

/** A generation under way. */
export interface Started {
  readonly requestId: string
  readonly tokens: number
  readonly ended: boolean
  readonly done: Promise<Generated>
  /** Closes its connection. */
  leave(): void
}

export interface Tools {
  readonly driver: EngineDriver
  readonly probe: Probe
  readonly options: CheckedConformance
  readonly signal: AbortSignal
  /** Long enough to be met while it runs; never beyond the server's context. */
  readonly longTokens: number
  now(): number
  sleep(ms: number): Promise<void>
  generate(sampling?: Partial<CheckedSampling>, how?: GenerateHow): Promise<Generated>
  start(sampling?: Partial<CheckedSampling>, how?: GenerateHow): Started
  /** A long one that has sent its first token. */
  startLong(): Promise<Started>
  until(words: string, holds: () => boolean | Promise<boolean>): Promise<number>
  /** Waits until the server counts so many, running and waiting; returns how long that took. Where it counts none, waits a moment. */
  loadOf(sequences: number): Promise<number>
  leave(): Promise<void>
}

const PLAIN: CheckedSampling = {
  maxTokens: 16,
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

export const GREEDY: Partial<CheckedSampling> = { temperature: 0 }

/** Seconds on any server, and cheap to hold for a server whose cache is small. */
const LONG_TOKENS = 1_500
const POLL_MS = 10
/** In place of a count, on a server that has none. */
const UNCOUNTED_MS = 200

export function createTools(given: {
  readonly driver: EngineDriver
  readonly probe: Probe
  readonly options: CheckedConformance
  readonly clock: Clock
  readonly signal: AbortSignal
}): Tools {
  const { driver, probe, options, clock, signal } = given
  const open = new Set<Started>()
  // Where nobody sees token ids, nothing but the plainest sampling is understood everywhere.
  const plain: CheckedSampling = { ...PLAIN, ignoreEos: probe.capabilities.tokenIds }
  const longTokens = Math.min(LONG_TOKENS, (probe.contextLength ?? LONG_TOKENS) - options.prompt.length - 8)

  function start(sampling: Partial<CheckedSampling> = {}, how: GenerateHow = {}): Started {
    const controller = new AbortController()
    const requestId = `conf-${randomUUID()}`
    const state = { requestId, tokens: 0, ended: false, leave: () => controller.abort() }
    const end = (): void => controller.abort(signal.reason)
    signal.addEventListener('abort', end)
    const collect = async (): Promise<Generated> => {
      const tokens: number[] = []
      const logprobs: number[] = []
      let [text, chunks] = ['', 0]
      let [finishReason, versions]: [Chunk['finishReason'], Chunk['versions']] = [null, null]
      const { prompt = options.prompt, textBefore } = how
      const request = { requestId, prompt, textBefore, sampling: { ...plain, ...sampling } }
      try {
        for await (const chunk of driver.generate(request, controller.signal)) {
          tokens.push(...chunk.tokenIds)
          logprobs.push(...chunk.logprobs)
          text += chunk.text ?? ''
          chunks++
          state.tokens = tokens.length
          finishReason = chunk.finishReason
          versions = chunk.versions
        }
      } finally {
        state.ended = true
        signal.removeEventListener('abort', end)
      }
      return { tokens, logprobs, text, chunks, finishReason, versions }
    }
    const started: Started = Object.assign(state, { done: collect() })
    open.add(started)
    // Whoever awaits `done` sees the error; a check that ended before must not end the process.
    started.done.catch(() => {})
    return started
  }

  async function sleep(ms: number): Promise<void> {
    signal.throwIfAborted()
    await new Promise<void>((resolve, reject) => {
      const timer = clock.setTimeout(() => {
        signal.removeEventListener('abort', end)
        resolve()
      }, ms)
      const end = (): void => {
        clock.clearTimeout(timer)
        reject(signal.reason as Error)
      }
      signal.addEventListener('abort', end, { once: true })
    })
  }

  async function until(words: string, holds: () => boolean | Promise<boolean>): Promise<number> {
    const from = clock.now()
    while (!(await holds())) {
      if (signal.aborted) throw new Mismatch(words)
      await sleep(POLL_MS)
    }
    return Math.round(clock.now() - from)
  }

  async function loadOf(sequences: number): Promise<number> {
    const from = clock.now()
    if (!probe.capabilities.loadReport) {
      await sleep(UNCOUNTED_MS)
      return Math.round(clock.now() - from)
    }
    let last: Load = { running: 0, waiting: 0 }
    const words = (): string =>
      `expected the server to count ${sequences}, found ${last.running} running and ${last.waiting} waiting`
    for (;;) {
      last = await driver.load(signal)
      if (last.running + last.waiting === sequences) return Math.round(clock.now() - from)
      await sleep(POLL_MS).catch(() => {
        throw new Mismatch(words())
      })
    }
  }

  return {
    driver,
    probe,
    options,
    signal,
    longTokens,
    now: () => clock.now(),
    sleep,
    start,
    generate: (sampling, how) => start(sampling, how).done,
    async startLong() {
      const started = start({ maxTokens: longTokens })
      await until('expected a first token, found none', () => started.tokens > 0 || started.ended)
      return started
    },
    until,
    loadOf,
    async leave() {
      for (const started of open) started.leave()
      await Promise.allSettled([...open].map(({ done }) => done))
    },
  }
}
