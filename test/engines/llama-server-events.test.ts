/**
 * llama-server's driver against what a real one said (fixtures, recorded by test/e2e/engines/record-llama-server.mjs).
 */
import { describe, expect, onTestFinished, test } from 'vitest'
import { createLlamaServerDriver } from '../../src/engines/llama-server.ts'
import { createOpenaiDriver } from '../../src/engines/openai.ts'
import { join, never, options, type Recorded, recorded, replay, sampling, serve } from './fake-server.ts'

const said = recorded('llama-server')

/** A server that says this to whatever it is asked to generate. */
async function saying(name: string) {
  const answers: Record<string, Recorded> = {
    'GET /props': said('props'),
    'GET /v1/models': said('models'),
    'GET /metrics': said('metrics'),
    'GET /slots': said('slots'),
    'POST /tokenize': said('tokenize'),
    'POST /apply-template': said('template'),
  }
  const server = await serve((request, response) => {
    replay(response, answers[`${request.method} ${request.url}`] ?? said(name))
  })
  return server.url
}

async function generate(name: string, more = {}) {
  const driver = createLlamaServerDriver(options(await saying(name)))
  onTestFinished(() => driver.close())
  return join(driver.generate({ requestId: 'r-1', prompt: [1, 2], sampling: { ...sampling, ...more } }, never))
}

/** The events of a recorded stream, read the slow way. */
const eventsOf = (name: string) =>
  said(name)
    .body.split('\n\n')
    .filter((each) => each.startsWith('data: {'))
    .map((each) => JSON.parse(each.slice(6)))

describe('a stream', () => {
  test.each([
    ['complete', 'length'],
    ['completeWarm', 'length'],
    ['completeWord', 'stop'],
    ['completeEos', 'stop'],
  ])('%s yields every token once, with its log-probability (I8, F12)', async (name, finishReason) => {
    const out = await generate(name)
    expect(out).toMatchObject({ error: null, last: { finishReason } })
    const list = eventsOf(name)
    const entries = list.flatMap((event) => event.completion_probabilities ?? [])
    expect(out.tokenIds).toEqual(list.flatMap((event) => event.tokens))
    expect(out.tokenIds).toHaveLength(list.at(-1).tokens_predicted)
    expect(out.logprobs).toEqual(entries.map(({ logprob, prob }) => logprob ?? Math.log(prob)))
    expect(out.text).toBe(list.map((event) => event.content).join('') + list.at(-1).stopping_word)
  })

  test('with a character of several tokens is interrupted before it (I8)', async () => {
    const list = eventsOf('completeWide')
    const gap = list.findIndex((event, i) => event.tokens_predicted > i + 1)
    const out = await generate('completeWide')
    expect(gap).toBeGreaterThanOrEqual(0)
    expect(out).toMatchObject({ error: null, last: { finishReason: 'abort' } })
    expect(out.tokenIds).toEqual(list.slice(0, gap).flatMap((event) => event.tokens))
  })
})

test.each(['completeTooLong', 'completeBadId', 'completeEmpty', 'completeNothing', 'completeNegative'])(
  '%s is REQUEST_REJECTED with what the server said (F4)',
  async (name) => {
    const { error: refused } = JSON.parse(said(name).body)
    expect((await generate(name)).error).toMatchObject({
      code: 'REQUEST_REJECTED',
      status: 400,
      message: expect.stringContaining(refused.message.slice(0, 60)),
    })
  },
)

test('a probe finds slots, context, vocabulary and load', async () => {
  const driver = createLlamaServerDriver(options(await saying('complete')))
  onTestFinished(() => driver.close())
  expect(await driver.probe()).toMatchObject({
    capacity: 4,
    contextLength: 1024,
    vocabularySize: 49152,
    capabilities: { tokenIds: true, loadReport: true },
    advice: [],
  })
  // As many as its own count of tokens says, now that nothing runs.
  expect(said('metrics').body).toContain('tokens_predicted_total 1140')
  expect(await driver.load()).toEqual({ running: 0, waiting: 0, generatedTokens: 1140 })
  const { tokens } = JSON.parse(said('tokenize').body)
  expect(await driver.tokenize!([{ role: 'user', content: 'Say hi.' }])).toEqual(tokens)
})

test.each([
  ['openaiText', 'The capital'],
  ['openaiChat', [{ role: 'user', content: 'Say hi.' }]],
] as const)('its OpenAI routes, %s, yield text', async (name, prompt) => {
  const driver = createOpenaiDriver(options(await saying(name)))
  onTestFinished(() => driver.close())
  const out = await join(driver.generate({ requestId: 'r-1', prompt, sampling }, never))
  const choices = eventsOf(name).flatMap((event) => event.choices)
  const text = choices.map((choice) => choice.text ?? choice.delta.content ?? '').join('')
  expect(out).toMatchObject({ error: null, text, tokenIds: [], last: { finishReason: 'length' } })
  expect(text).not.toBe('')
})
