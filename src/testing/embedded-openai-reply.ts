/**
 * The replies of the two OpenAI routes: text in deltas, a finish reason, usage where it was asked for, `[DONE]`; or one object. No token ids.
 */
import type { ServerResponse } from 'node:http'
import type { EngineCounters } from './embedded-engine.ts'
import { MODEL, type OpenaiBody } from './embedded-openai-request.ts'
import type { Sequence } from './embedded-sequence.ts'
import { createStopText } from './embedded-stop-text.ts'
import { textOfToken } from './tiny-policy.ts'

export interface OpenaiReply {
  token(sequence: Sequence): void
  end(sequence: Sequence): void
  /** Sends what has gathered. */
  flush(): void
}

export function createOpenaiReply(
  response: ServerResponse,
  body: OpenaiBody,
  id: string,
  counters: EngineCounters,
  onDirty: () => void,
): OpenaiReply {
  const chat = body.kind === 'chat'
  const text = createStopText(body.sampling.stop)
  const logprobs: { token: string; logprob: number }[] = []
  let read = 0
  let written = 0
  let whole = ''
  let delta = ''
  let begun = false
  let pending: string[] = []
  let ended = false

  function write(line: string): void {
    if (pending.length === 0) onDirty()
    pending.push(line)
  }

  function head(object: string): object {
    return { id, object, created: 1_790_000_000, model: MODEL }
  }

  /** One event for all that is new: clients must not count events. */
  function event(finish: string | null): void {
    const part = chat
      ? { delta: { ...(begun ? {} : { role: 'assistant' }), ...(delta === '' && begun ? {} : { content: delta }) } }
      : { text: delta }
    begun = true
    delta = ''
    const choice = { index: 0, ...part, logprobs: readLogprobs(), finish_reason: finish }
    write(
      `data: ${JSON.stringify({ ...head(chat ? 'chat.completion.chunk' : 'text_completion'), choices: [choice] })}\n\n`,
    )
  }

  function readLogprobs(): object | null {
    if (!body.logprobs) return null
    const list = logprobs.splice(0)
    return chat
      ? { content: list.map((each) => ({ ...each, bytes: [...Buffer.from(each.token)], top_logprobs: [] })) }
      : { tokens: list.map(({ token }) => token), token_logprobs: list.map(({ logprob }) => logprob) }
  }

  function readTokens(sequence: Sequence): void {
    for (; read < sequence.tokenIds.length; read++) {
      const token = textOfToken(sequence.tokenIds[read]!)
      delta += text.push(token)
      logprobs.push({ token, logprob: sequence.logprobs[read]! })
    }
  }

  return {
    token(sequence) {
      readTokens(sequence)
      if (body.stream && delta !== '') event(null)
    },
    end(sequence) {
      readTokens(sequence)
      ended = true
      const { finish, promptTokenIds, tokenIds } = sequence
      const stopped = finish?.type === 'stop'
      if (!stopped || typeof finish.matched !== 'string') delta += text.rest()
      const reason = stopped ? 'stop' : 'length'
      const usage = {
        prompt_tokens: promptTokenIds.length,
        completion_tokens: tokenIds.length,
        total_tokens: promptTokenIds.length + tokenIds.length,
      }
      if (body.stream) {
        event(reason)
        const object = chat ? 'chat.completion.chunk' : 'text_completion'
        if (body.usage) write(`data: ${JSON.stringify({ ...head(object), choices: [], usage })}\n\n`)
        write('data: [DONE]\n\n')
        return
      }
      whole = delta
      const part = chat ? { message: { role: 'assistant', content: whole } } : { text: whole }
      const choice = { index: 0, ...part, logprobs: readLogprobs(), finish_reason: reason }
      write(JSON.stringify({ ...head(chat ? 'chat.completion' : 'text_completion'), choices: [choice], usage }))
    },
    flush() {
      const lines = pending
      pending = []
      if (response.destroyed || response.writableEnded || lines.length === 0) return
      counters.tokensDelivered += read - written
      written = read
      if (!body.stream) response.writeHead(200, { 'content-type': 'application/json' }).end(lines.join(''))
      else if (ended) response.end(lines.join(''))
      else response.write(lines.join(''))
    },
  }
}
