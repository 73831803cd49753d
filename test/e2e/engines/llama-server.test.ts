/**
 * A real llama-server beyond the conformance suite: its log-probabilities against the whole distribution that the server shows, characters of several
 * tokens, and the same server as an OpenAI-compatible one.
 */
import { afterAll, beforeAll, expect, it } from 'vitest'
import type { EngineDriver } from '../../../src/engines/driver.ts'
import { createSupervisor } from '../../../src/index.ts'
import { driverOf, generate, loadOf, post, stopsShortOf } from './drive.ts'
import { describeEngine, type RealServer, startServer } from './servers.ts'

const TEXT = 'The capital of France is'
const CHAT = [{ role: 'user', content: 'Say hi.' }]
/** The model is quantized: another batch rounds otherwise. */
const SAME_NATS = 0.02

describeEngine('llama-server', 'its driver and the supervisor', () => {
  let server: RealServer
  let driver: EngineDriver
  let prompt: number[]
  beforeAll(async () => {
    server = await startServer('llama-server')
    driver = driverOf('llama-server', server.url)
    await driver.probe()
    prompt = (await driver.tokenize?.(TEXT)) ?? []
  })
  afterAll(async () => {
    await driver?.close()
    server?.stop()
  })
  const complete = async (body: object): Promise<Record<string, unknown>> =>
    (await post(server.url, '/completion', body)).json as Record<string, unknown>

  it('greedy is what the server answers when it does not stream', async () => {
    const out = await generate(driver, { temperature: 0, maxTokens: 24, ignoreEos: false }, { prompt })
    const whole = await complete({ prompt, n_predict: 24, temperature: 0, return_tokens: true })
    expect({ tokens: out.tokens, text: out.text }).toEqual({ tokens: whole.tokens, text: whole.content })
  })

  it.each([1, 0.5, 1.5])(
    'log-probabilities at temperature %d are of the distribution sampled from',
    async (temperature) => {
      const { tokens, logprobs } = await generate(driver, { temperature, maxTokens: 6, seed: 11 }, { prompt })
      for (const [i, token] of tokens.entries()) {
        const expected = (await distribution([...prompt, ...tokens.slice(0, i)], temperature)).get(token)
        expect(Math.abs(expected! - logprobs[i]!)).toBeLessThan(SAME_NATS)
      }
    },
  )

  it('the end of the sequence is a token of the sample', async () => {
    const input = (await driver.tokenize?.(CHAT)) ?? []
    const out = await generate(driver, { temperature: 0, maxTokens: 200, ignoreEos: false }, { prompt: input })
    expect(out.finishReason).toBe('stop')
    const last = await post(server.url, '/detokenize', { tokens: out.tokens.slice(-1) })
    expect(last.json).toMatchObject({ content: '<|im_end|>' })
  })

  it('a character of several tokens interrupts before it, with every token before it', async () => {
    const input = (await driver.tokenize?.(`Repeat: ${'\u{1F469} \u{10348} '.repeat(12)}`)) ?? []
    const whole = await complete({ prompt: input, n_predict: 12, temperature: 0, return_tokens: true })
    const out = await generate(driver, { temperature: 0, maxTokens: 12 }, { prompt: input })
    expect(out.tokens).toEqual((whole.tokens as number[]).slice(0, out.tokens.length))
  })

  it.each(['llama-server', 'openai'] as const)(
    'the supervisor over it as %s: text and chat, and a cancel (F3)',
    async (engine) => {
      const supervisor = createSupervisor({ instances: [{ url: server.url, engine }] })
      await supervisor.start()
      const sampling = { maxTokens: 24, temperature: 0.8 }
      const groups = await Promise.all([
        supervisor.submit({ prompt: TEXT, samples: 6, sampling }).result,
        supervisor.submit({ prompt: CHAT, samples: 6, sampling }).result,
      ])
      for (const { outcome, text, tokenIds, logprobs } of groups.flatMap((group) => group.completions)) {
        expect(outcome).toBe('completed')
        expect(text).not.toBe('')
        expect(logprobs).toHaveLength(tokenIds.length)
        if (engine === 'llama-server') expect(tokenIds.length).toBeGreaterThan(0)
      }
      // The plain protocol knows no way to forbid an early end.
      const untold = engine === 'openai' ? {} : { ignoreEos: true }
      await stopsShortOf(driver, 3 * 900, async () => {
        const long = supervisor.submit({ prompt: TEXT, samples: 3, sampling: { ...untold, maxTokens: 900 } })
        await loadOf(driver, 3)
        long.cancel()
        await long.result
      })
      await supervisor.close()
    },
  )

  /** Log-probabilities of all next tokens at this temperature, from the logits that the server shows. */
  async function distribution(input: readonly number[], temperature: number): Promise<Map<number, number>> {
    const asked = { prompt: input, n_predict: 1, temperature: 0, n_probs: 1_000_000, cache_prompt: true }
    const { completion_probabilities: entries } = await complete(asked)
    const [{ top_logprobs: top }] = entries as [{ top_logprobs: { id: number; logprob: number }[] }]
    const scaled = top.map(({ id, logprob }) => [id, logprob / temperature] as const)
    const max = Math.max(...scaled.map(([, value]) => value))
    const sum = max + Math.log(scaled.reduce((total, [, value]) => total + Math.exp(value - max), 0))
    return new Map(scaled.map(([id, value]) => [id, value - sum]))
  }
})
