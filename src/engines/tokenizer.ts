/**
 * The tokenizer routes of servers. How long an answer takes grows with the text: a server with a slow tokenizer is not one that is gone.
 */
import type { ChatMessage } from '../rollout/task.ts'
import { fault } from './faults.ts'
import { asRecord } from './json.ts'
import { DEADLINE_MS, jsonOf, type Transport } from './transport.ts'

/** Tokenizers in plain Python, which are the slowest, do several times as much. */
const CHARS_PER_MS = 20

export function tokenizeDeadlineMs(prompt: string | readonly ChatMessage[]): number {
  const chars =
    typeof prompt === 'string' ? prompt.length : prompt.reduce((sum, { content }) => sum + content.length, 0)
  return DEADLINE_MS + Math.ceil(chars / CHARS_PER_MS)
}

/** `POST /tokenize` as SGLang and vLLM have it: text, or messages by the model's own template. */
export async function tokenize(
  transport: Transport,
  prompt: string | readonly ChatMessage[],
  signal: AbortSignal | undefined,
): Promise<number[]> {
  const body = typeof prompt === 'string' ? { prompt } : { messages: prompt }
  const deadlineMs = tokenizeDeadlineMs(prompt)
  const reply = await transport.call({ method: 'POST', path: '/tokenize', body, signal, deadlineMs })
  const { tokens } = asRecord(jsonOf(transport.peer, reply))
  if (Array.isArray(tokens) && tokens.every((id) => Number.isInteger(id))) return tokens
  throw fault(
    'WRONG_PROTOCOL',
    transport.peer,
    `POST /tokenize: expected a list of token ids, found ${typeof tokens}; update the server, or send token ids`,
  )
}
