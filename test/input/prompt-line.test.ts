/**
 * Input lines in both forms: what they mean, and everything that is wrong with one said at once.
 */
import { describe, expect, it } from 'vitest'
import { parseLine } from '../../src/input/prompt-line.ts'

const DEFAULTS = { samples: 2, sampling: { maxTokens: 64, temperature: 0.5 } }
const parse = (value: unknown) => parseLine(JSON.stringify(value), DEFAULTS)
const chat = (body: object) => ({ custom_id: 'a', method: 'POST', url: '/v1/chat/completions', body })
const text = (body: object) => ({ custom_id: 'a', method: 'POST', url: '/v1/completions', body })
const messages = [{ role: 'user', content: 'hi' }]

describe('our own form', () => {
  it('takes text, messages and token ids; flags speak where the line does not', () => {
    expect(parse({ id: 'a', prompt: 'hi' })).toMatchObject({
      id: 'a',
      prompt: 'hi',
      samples: 2,
      meta: null,
      batch: null,
    })
    expect(parse({ id: 7, messages })).toMatchObject({ id: 7, prompt: messages })
    const line = parse({ id: 'a', promptTokenIds: [1, 2], samples: 8, sampling: { maxTokens: 9 }, meta: { x: 1 } })
    expect(line).toMatchObject({ prompt: [1, 2], samples: 8, meta: { x: 1 } })
    expect(line.sampling).toEqual({ maxTokens: 9, temperature: 0.5 })
    expect(parse({ id: 'a', prompt: 'hi', samples: null, sampling: null, meta: null, messages: null })).toMatchObject({
      samples: 2,
    })
  })

  it('gives every line its own seed out of one', () => {
    const seedOf = (id: string, sampling?: object) =>
      parseLine(JSON.stringify({ id, prompt: 'hi', sampling }), { samples: 1, sampling: { seed: 1 } }).sampling.seed
    expect(seedOf('a')).toBe(seedOf('a'))
    expect(seedOf('a')).not.toBe(seedOf('b'))
    expect(seedOf('a', { seed: 5 })).toBe(5)
  })

  it.each([
    ['{"id":"a","prompt":', 'expected a JSON object, found: Unexpected end'],
    ['[1]', 'expected a JSON object, found [1]'],
    ['null', 'expected a JSON object, found null'],
    ['{}', 'prompt | messages | promptTokenIds: expected one of them, found nothing; id: expected text'],
    ['{"id":"","prompt":"x"}', 'id: expected text that is not empty, or an integer, found ""'],
    ['{"id":1.5,"prompt":"x"}', 'id: expected text that is not empty, or an integer, found 1.5'],
    ['{"id":"a","prompt":[1]}', 'prompt: expected text (token ids belong into promptTokenIds'],
    ['{"id":"a","promptTokenIds":"x"}', 'promptTokenIds: expected an array of token ids, found "x"'],
    ['{"id":"a","messages":{}}', 'messages: expected an array of { role, content }, found {}'],
    ['{"id":"a","prompt":"x","messages":[]}', 'expected one of them, found "prompt and messages"'],
    ['{"id":"a","prompt":"x","samples":0}', 'samples: expected an integer from 1 to 1024, found 0'],
    ['{"id":"a","prompt":"x","sampling":3}', 'sampling: expected an object, found 3'],
    ['{"id":"a","prompt":"x","answer":3}', 'answer: expected one of id, prompt'],
    ['{"id":"a","prompt":"x","__proto__":3}', '__proto__: expected one of id, prompt'],
  ])('%s is refused in words', (line, words) => {
    expect(() => parseLine(line, DEFAULTS)).toThrow(words)
  })
})

describe('the OpenAI batch form', () => {
  it('takes chat and text, n, and the parameters we have', () => {
    const sampling = { max_completion_tokens: 5, temperature: 0, top_p: 0.9, stop: 'x', seed: 3, top_k: 4 }
    const line = parse(chat({ model: 'm', messages, n: 4, user: 'u', stream: false, logprobs: true, ...sampling }))
    expect(line).toMatchObject({
      id: 'a',
      prompt: messages,
      samples: 4,
      batch: { chat: true, model: 'm', logprobs: true, promptTokens: null },
    })
    expect(line.sampling).toEqual({ maxTokens: 5, temperature: 0, topP: 0.9, stop: ['x'], seed: 3, topK: 4 })
    expect(parse(text({ prompt: [1, 2] }))).toMatchObject({ prompt: [1, 2], samples: 2, batch: { promptTokens: 2 } })
    expect(parse(text({ prompt: ['hi'] })).prompt).toBe('hi')
    const content = [
      { type: 'text', text: 'a' },
      { type: 'text', text: 'b' },
    ]
    expect(parse(chat({ messages: [{ role: 'user', content }] })).prompt).toEqual([{ role: 'user', content: 'ab' }])
    expect(parse(chat({ messages, temperature: null, tools: [], presence_penalty: 0 })).sampling.temperature).toBe(0.5)
  })

  it.each([
    [{ ...chat({ messages }), custom_id: null }, 'custom_id: expected text'],
    [{ ...chat({ messages }), method: 'GET' }, 'method: expected "POST", found "GET"'],
    [{ ...chat({ messages }), url: '/v1/embeddings' }, 'url: expected "/v1/chat/completions" or "/v1/completions"'],
    [{ custom_id: 'a', url: '/v1/completions' }, 'body: expected an object, found nothing; body.prompt'],
    [chat({ prompt: 'x' }), 'body.messages: expected an array'],
    [chat({ messages: [{ role: 'user', content: [{ type: 'image_url' }] }] }), 'content: expected parts of type text'],
    [chat({ messages, presence_penalty: 1 }), 'body.presence_penalty: expected a parameter that is supported'],
    [chat({ messages, stream: true }), 'body.stream: expected a parameter that is supported'],
    [chat({ messages, tools: [{}] }), 'body.tools: expected a parameter that is supported'],
    [chat({ messages, n: 0 }), 'body.n: expected an integer from 1 to 1024'],
    [text({ prompt: ['a', 'b'] }), 'body.prompt: expected one text, or one list of token ids'],
    [text({ prompt: 'a', logprobs: 5 }), 'body.logprobs: expected at most 1, found 5'],
  ])('%j is refused in words', (line, words) => {
    expect(() => parse(line)).toThrow(words)
  })
})
