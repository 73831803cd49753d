/**
 * A line of the OpenAI batch form, `{"custom_id", "method", "url", "body"}`. Parameters that change the answer and that we cannot honour
 * make the line unusable; those that cannot change it are passed over.
 */
import type { Prompt, Sampling } from '../rollout/task.ts'
import { isRecord, type ReadLine, type ReportProblem, readCount, readId } from './line-fields.ts'

const CHAT_URL = '/v1/chat/completions'
const TEXT_URL = '/v1/completions'

/** Parameters by the name we have for them; the last four are those that SGLang and vLLM add to the protocol. */
const SAMPLING: Readonly<Record<string, keyof Sampling>> = {
  max_tokens: 'maxTokens',
  max_completion_tokens: 'maxTokens',
  temperature: 'temperature',
  top_p: 'topP',
  seed: 'seed',
  top_k: 'topK',
  min_p: 'minP',
  min_tokens: 'minTokens',
  stop_token_ids: 'stopTokenIds',
  ignore_eos: 'ignoreEos',
}
const READ = new Set([...Object.keys(SAMPLING), 'model', 'n', 'stop', 'logprobs', 'prompt', 'messages'])
/** They say who asks or how the answer travels. */
const WITHOUT_EFFECT = new Set([
  'user',
  'metadata',
  'store',
  'service_tier',
  'stream_options',
  'prompt_cache_key',
  'safety_identifier',
])
/** They have an effect, but not with these values, which clients write out. */
const NEUTRAL: Readonly<Record<string, readonly unknown[]>> = {
  stream: [false],
  presence_penalty: [0],
  frequency_penalty: [0],
  best_of: [1],
  echo: [false],
  top_logprobs: [0],
  tools: ['[]'],
  logit_bias: ['{}'],
  response_format: ['{"type":"text"}'],
}

export function readBatchLine(value: Record<string, unknown>, report: ReportProblem): ReadLine {
  const id = readId('custom_id', value.custom_id, report)
  if (value.method !== undefined && value.method !== 'POST') report('method', '"POST"', value.method)
  const chat = value.url === CHAT_URL
  if (!chat && value.url !== TEXT_URL) report('url', `"${CHAT_URL}" or "${TEXT_URL}"`, value.url)
  const body = isRecord(value.body) ? value.body : {}
  if (!isRecord(value.body)) report('body', 'an object', value.body)
  const sampling: Record<string, unknown> = {}
  const names: Record<string, string> = { prompt: chat ? 'body.messages' : 'body.prompt', 'sampling.stop': 'body.stop' }
  for (const [key, given] of Object.entries(body)) {
    if (given === null) continue
    const name = SAMPLING[key]
    if (name !== undefined) {
      sampling[name] = given
      names[`sampling.${name}`] = `body.${key}`
    } else if (!READ.has(key) && !WITHOUT_EFFECT.has(key) && !isNeutral(key, given))
      report(`body.${key}`, 'a parameter that is supported (leave it out)', given)
  }
  if (body.stop != null) sampling.stop = typeof body.stop === 'string' ? [body.stop] : body.stop
  const prompt = chat ? readMessages(body.messages, report) : readPrompt(body.prompt, report)
  const promptTokens = Array.isArray(prompt) && typeof prompt[0] === 'number' ? prompt.length : null
  // Of the completions route: a number of alternatives; 0 and 1 both ask for the token that was chosen.
  const { logprobs, model } = body
  if (typeof logprobs === 'number' && logprobs > 1) report('body.logprobs', 'at most 1', logprobs)
  return {
    id,
    prompt,
    samples: readCount('body.n', body.n, report),
    sampling: sampling as Sampling,
    meta: null,
    names,
    batch: {
      chat,
      model: typeof model === 'string' ? model : null,
      logprobs: logprobs != null && logprobs !== false,
      promptTokens,
    },
  }
}

function isNeutral(key: string, given: unknown): boolean {
  const value = typeof given === 'object' ? JSON.stringify(given) : given
  return Object.hasOwn(NEUTRAL, key) && NEUTRAL[key]!.includes(value)
}

/** Text, token ids, or one of either in a list. */
function readPrompt(value: unknown, report: ReportProblem): Prompt {
  const one = Array.isArray(value) && value.length === 1 && typeof value[0] !== 'number' ? (value[0] as unknown) : value
  if (typeof one === 'string' || (Array.isArray(one) && one.every((id) => typeof id === 'number'))) return one
  report('body.prompt', 'one text, or one list of token ids', value)
  return ''
}

/** Content that comes in parts of text is joined. */
function readMessages(value: unknown, report: ReportProblem): Prompt {
  if (!Array.isArray(value)) {
    report('body.messages', 'an array of { role, content }', value)
    return []
  }
  return value.map((message: unknown, index) => {
    const { role, content } = isRecord(message) ? message : {}
    const text = Array.isArray(content) ? content.map(textOfPart).join('') : content
    if (typeof role === 'string' && typeof text === 'string') return { role, content: text }
    report(`body.messages[${index}]`, '{ role, content } with text', message)
    return { role: '', content: '' }

    function textOfPart(part: unknown): string {
      if (isRecord(part) && part.type === 'text' && typeof part.text === 'string') return part.text
      report(`body.messages[${index}].content`, 'parts of type text', part)
      return ''
    }
  })
}
