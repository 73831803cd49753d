/**
 * A bare client of the embedded engine in its vLLM dialect: one call a reply, its events joined.
 */
import type { EmbeddedEngine } from '../../src/testing/embedded-engine.ts'
import { call } from './client.ts'

export const PROMPT = [7, 1, 12, 3, 9]
export const GENERATE = '/inference/v1/generate'
export const COMPLETIONS = '/v1/completions'

export interface Choice {
  readonly finish_reason: string | null
  readonly stop_reason: number | string | null
  readonly token_ids: number[]
  readonly text?: string
  readonly weight_versions?: { version: string; start: number; end: number }[] | null
  readonly logprobs: { content?: { logprob: number }[]; token_logprobs?: number[] } | null
}

export interface Sent {
  readonly id: string
  readonly status: number
  /** Joined over all events, or of the whole reply. */
  readonly tokenIds: number[]
  readonly logprobs: number[]
  readonly text: string
  readonly last: Choice | undefined
  readonly error: { readonly code: number; readonly message: string; readonly type: string } | null
  readonly done: boolean
}

let serial = 0

/** Asks one of the routes; resolves at the end of the reply. */
export async function ask(
  engine: EmbeddedEngine,
  route: typeof GENERATE | typeof COMPLETIONS,
  sampling: object = {},
  more: Record<string, unknown> = {},
  headers: Record<string, string> = {},
): Promise<Sent> {
  const params = { max_tokens: 2000, ignore_eos: true, logprobs: 0, ...sampling }
  const { prompt = PROMPT, ...rest } = more
  const body =
    route === GENERATE
      ? { token_ids: prompt, stream: true, sampling_params: params, ...rest }
      : { prompt, stream: true, return_token_ids: true, ...params, ...rest }
  const { status, text } = await call(engine, route, { request_id: `r${serial++}`, ...body }, headers)
  const whole = text.startsWith('{') ? [text] : text.split('\n\n').filter((event) => event.startsWith('data: {'))
  const events = whole.map((event) => JSON.parse(event.replace(/^data: /, '')))
  const choices: Choice[] = events.flatMap((event) => event.choices ?? [])
  return {
    id: events[0]?.request_id ?? events[0]?.id,
    status,
    tokenIds: choices.flatMap((choice) => choice.token_ids),
    logprobs: choices.flatMap(
      ({ logprobs }) => logprobs?.content?.map((each) => each.logprob) ?? logprobs?.token_logprobs ?? [],
    ),
    text: choices.map((choice) => choice.text ?? '').join(''),
    last: choices.at(-1),
    error: events.find((event) => event.error !== undefined)?.error ?? null,
    done: text.endsWith('data: [DONE]\n\n'),
  }
}
