/**
 * Under frozen weights and greedy choice, interruptions at any place change nothing of a sample: not its tokens, its text or its end, whether
 * that is a stop string over one seam or several, a stop id, or its budget (I8; engines.md 7 a, b, j). On embedded engines, over HTTP.
 */
import { describe, expect, test } from 'vitest'
import { type Completion, createSupervisor, type EngineName, type Rollout, type Task } from '../../src/index.ts'
import { type EmbeddedEngineOptions, startEmbeddedEngine } from '../../src/testing/index.ts'
import { createRandom } from '../../src/testing/random.ts'

const SEED = Number(process.env.SEED ?? 20_261_125)
const SAMPLES = Number(process.env.SEAM_SAMPLES ?? 16)
const LENGTH = 60

const dialects: readonly (readonly [string, EngineName, EmbeddedEngineOptions])[] = [
  ['SGLang with deltas', 'sglang', { profile: 'sglang', incremental: true }],
  ['SGLang with deltas of several tokens', 'sglang', { profile: 'sglang', incremental: true, streamInterval: 3 }],
  ['SGLang, cumulative', 'sglang', { profile: 'sglang' }],
  ['vLLM with spans', 'vllm', { profile: 'vllm' }],
  ['vLLM with spans, several tokens an event', 'vllm', { profile: 'vllm', streamInterval: 3 }],
  ['vLLM without spans', 'vllm', { profile: 'vllm', scaleOut: false }],
  ['llama-server', 'llama-server', { profile: 'llama-server' }],
]

describe.each(dialects)('%s', (name, engine, options) => {
  test(`a sample is the same with and without interruptions (seed ${SEED})`, async () => {
    const random = createRandom(SEED)
    const whole = (from: number, to: number) => from + Math.floor(random.next() * (to - from + 1))
    const server = await startEmbeddedEngine({ ...options, stepMs: 2, perSequenceMs: 0, capacity: 8 })
    const vocabularySize = server.weights.vocabularySize
    const supervisor = createSupervisor({
      instances: [{ url: server.url, engine, capacity: 8, vocabularySize, logprobBasis: 'raw' }],
    })
    await supervisor.start()
    const greedy = { temperature: 0, ignoreEos: true, maxTokens: LENGTH }
    const one = async (task: Task): Promise<Completion> => (await supervisor.submit(task).result).completions[0]!

    const prompts = Array.from({ length: SAMPLES }, () =>
      Array.from({ length: whole(1, 6) }, () => whole(0, vocabularySize - 1)),
    )
    const free = await Promise.all(prompts.map((prompt) => one({ prompt, sampling: greedy })))
    const tasks = free.map(({ text, tokenIds }, index): Task => {
      // Anywhere in what it will say, or nowhere.
      const stops = Array.from({ length: whole(0, 2) }, () => {
        const at = whole(0, text!.length - 1)
        return text!.slice(at, at + whole(1, 8))
      })
      const minTokens = engine === 'llama-server' || random.next() < 0.7 ? 0 : whole(1, LENGTH / 2)
      const byId = random.next() < 0.3 ? { ignoreEos: false, stopTokenIds: [tokenIds[whole(0, LENGTH - 1)]!] } : {}
      const maxTokens = whole(Math.max(1, minTokens), LENGTH)
      return {
        prompt: prompts[index]!,
        sampling: { ...greedy, ...byId, maxTokens, minTokens, stop: stops.filter((stop) => stop !== '') },
      }
    })

    const expected = await Promise.all(tasks.map(one))
    const rollouts = tasks.map((task) => supervisor.submit(task))
    await interruptOften(supervisor, rollouts, () => whole(1, 12))
    let seams = 0
    for (const [index, { result }] of rollouts.entries()) {
      const found = (await result).completions[0]!
      seams += found.segments.length - 1
      const say = ({ outcome, finishReason, text, tokenIds }: Completion) => ({
        outcome,
        finishReason,
        text,
        tokenIds: [...tokenIds],
      })
      expect({ ...tasks[index], ...say(found) }).toEqual({ ...tasks[index], ...say(expected[index]!) })
      for (const [at, logprob] of found.logprobs.entries())
        expect(logprob).toBeCloseTo(expected[index]!.logprobs[at]!, 4)
      expect(found.versions.at(-1)?.end ?? 0).toBe(found.tokenIds.length)
    }
    expect(seams, `seams on ${name}`).toBeGreaterThan(0)
    await supervisor.close()
    await server.close()
  })
})

/** Ends everything that runs each time so many more tokens have come. */
async function interruptOften(
  supervisor: ReturnType<typeof createSupervisor>,
  rollouts: readonly Rollout[],
  until: () => number,
): Promise<void> {
  let left = until()
  let interrupting: Promise<unknown> | null = null
  const watch = async ({ events }: Rollout): Promise<void> => {
    for await (const event of events) {
      if (event.type !== 'sample.tokens' || interrupting !== null || --left > 0) continue
      left = until()
      interrupting = supervisor
        .pause({ mode: 'abort' })
        .then(() => supervisor.resume())
        .finally(() => {
          interrupting = null
        })
    }
  }
  await Promise.all(rollouts.map(watch))
  await interrupting
}
