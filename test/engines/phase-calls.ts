/**
 * The calls of pauses, updates, flushes and given-away memory, in order, with what a server answers to each and what becomes of the streams
 * that it runs: one script an engine (phase-scripts.ts), played against the real server (test/e2e/engines/phases.test.ts) and against the embedded one
 * (test/testing/embedded-phases.test.ts). Both must answer as `fixtures/*-phases.json`, which the real one wrote, so that they cannot drift apart.
 * Plain node:http, no driver: a transcript must not depend on what it is to test.
 */
import http from 'node:http'
import { isRecord } from '../../src/problems.ts'
import { type Checkpoints, type PhaseEngine, SCRIPTS, type Talk } from './phase-scripts.ts'

/** One line of a transcript: a call with its answer, or a stream with its end. */
export type Said =
  | { readonly call: string; readonly status: number; readonly body: unknown }
  | { readonly stream: string; readonly end: unknown; readonly versions: readonly string[] }

interface Live {
  readonly id: string
  tokens: number
  last: unknown
  readonly ended: Promise<void>
}

const PROMPT = [10, 11, 12]
/** More than are generated while a script is at it. */
const LONG = 1_900
const SOME_TOKENS = 5
const HELD_MS = 300
const GIVE_UP_MS = 300_000

/** Plays the engine's script and returns its transcript. */
export async function playPhases(engine: PhaseEngine, url: string, checkpoints: Checkpoints): Promise<Said[]> {
  const said: Said[] = []
  const live = new Map<string, Live>()
  let serial = Date.now()
  const dialect = DIALECTS[engine]

  async function until(words: string, holds: () => boolean): Promise<void> {
    const from = performance.now()
    while (!holds()) {
      if (performance.now() - from > GIVE_UP_MS) throw new Error(`expected ${words} within ${GIVE_UP_MS} ms`)
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
  }

  function stream(name: string, maxTokens: number): Live {
    const id = `phase-${serial++}`
    let rest = ''
    const { path, body } = dialect.generate(id, maxTokens)
    const ended = send(url, 'POST', path, body, (text) => {
      const events = (rest + text).split('\n\n')
      rest = events.pop() ?? ''
      for (const event of events) {
        const data = event.replace(/^data: /, '')
        if (!data.startsWith('{')) continue
        const choice: unknown = JSON.parse(data)
        each.tokens = Math.max(each.tokens, dialect.tokensIn(choice, each.tokens))
        each.last = choice
      }
    }).then(() => {})
    const each: Live = { id, tokens: 0, last: null, ended }
    live.set(name, each)
    return each
  }

  const talk: Talk = {
    async call(line, body) {
      const [method = '', path = ''] = line.split(' ')
      const { status, text } = await send(url, method, path, body)
      const shown = body === undefined ? line : `${line} ${JSON.stringify(body)}`
      said.push({ call: hide(shown, checkpoints), status, body: plain(hide(text, checkpoints)) })
    },
    async begin(name, maxTokens = LONG) {
      const each = stream(name, maxTokens)
      await until(`tokens of ${name}`, () => each.tokens >= Math.min(SOME_TOKENS, maxTokens))
    },
    async beginHeld(name, maxTokens) {
      const each = stream(name, maxTokens)
      await new Promise((resolve) => setTimeout(resolve, HELD_MS))
      if (each.tokens > 0) throw new Error(`expected no token of ${name} while held, found ${each.tokens}`)
    },
    async more(name) {
      const each = live.get(name)!
      const before = each.tokens
      await until(`more tokens of ${name}`, () => each.tokens >= before + SOME_TOKENS)
    },
    async abort(name) {
      const { path, body } = dialect.abort(live.get(name)!.id)
      await send(url, 'POST', path, body)
    },
    async end(name) {
      const each = live.get(name)!
      await each.ended
      said.push({ stream: name, ...dialect.endOf(each.last) })
    },
  }
  await SCRIPTS[engine](talk, checkpoints)
  return said
}

/** As it is kept. */
export const transcript = (said: readonly Said[]): string =>
  `[\n${said.map((one) => JSON.stringify(one)).join(',\n')}\n]\n`

interface PhaseDialect {
  generate(id: string, maxTokens: number): { readonly path: string; readonly body: object }
  abort(id: string): { readonly path: string; readonly body: object }
  /** Tokens so far, after an event. */
  tokensIn(event: unknown, before: number): number
  endOf(event: unknown): { readonly end: unknown; readonly versions: readonly string[] }
}

const DIALECTS: Readonly<Record<PhaseEngine, PhaseDialect>> = {
  sglang: {
    generate(rid, max_new_tokens) {
      const sampling_params = { max_new_tokens, temperature: 1, ignore_eos: true, stream_interval: 1 }
      return { path: '/generate', body: { rid, input_ids: PROMPT, stream: true, sampling_params } }
    },
    abort: (rid) => ({ path: '/abort_request', body: { rid } }),
    tokensIn: (event) => Number(of(of(event, 'meta_info'), 'completion_tokens')),
    endOf(event) {
      const info = of(event, 'meta_info')
      return { end: of(info, 'finish_reason'), versions: versionsIn(of(info, 'weight_versions')) }
    },
  },
  vllm: {
    generate(request_id, max_tokens) {
      const sampling_params = { max_tokens, temperature: 1, ignore_eos: true }
      return { path: '/inference/v1/generate', body: { request_id, token_ids: PROMPT, stream: true, sampling_params } }
    },
    abort: (id) => ({ path: '/abort_requests', body: { request_ids: [`generate-tokens-${id}`] } }),
    tokensIn: (event, before) => before + (of(choiceIn(event), 'token_ids') as unknown[]).length,
    endOf(event) {
      const choice = choiceIn(event)
      return { end: of(choice, 'finish_reason'), versions: versionsIn(of(choice, 'weight_versions')) }
    },
  },
}

const of = (value: unknown, key: string): unknown => (isRecord(value) ? value[key] : undefined)
const choiceIn = (event: unknown): unknown => (of(event, 'choices') as unknown[] | undefined)?.[0]

/** Of spans that hold a token. */
function versionsIn(spans: unknown): string[] {
  const list = Array.isArray(spans) ? spans : []
  return list.filter((span) => Number(of(span, 'end')) > Number(of(span, 'start'))).map((s) => String(of(s, 'version')))
}

/** Where the checkpoints are is nobody's business. */
function hide(text: string, checkpoints: Checkpoints): string {
  return Object.entries(checkpoints).reduce((said, [name, path]) => said.replaceAll(path, `<${name}>`), text)
}

/** A body to compare: of what describes the model the weights alone, and without the words of Python's libraries. */
function plain(text: string): unknown {
  if (!text.startsWith('{')) return text
  const body = JSON.parse(text.replace(LIBRARY_WORDS, '$<before>...$<after>')) as Record<string, unknown>
  if ('weight_version' in body) return { weight_version: body.weight_version }
  const error = isRecord(body.error) ? body.error : body
  if (error.type === 'Bad Request') error.message = '...'
  return body
}

/** Why a folder is no checkpoint, and what a worker cannot do. */
const LIBRARY_WORDS = /(?<before>Failed to get weights iterator: |Worker failed with error ').*?(?<after>"|', please)/

function send(
  url: string,
  method: string,
  path: string,
  body?: object,
  onText?: (text: string) => void,
): Promise<{ readonly status: number; readonly text: string }> {
  return new Promise((resolve, reject) => {
    const headers = body === undefined ? {} : { 'content-type': 'application/json' }
    const request = http.request(url + path, { method, headers, agent: false }, (response) => {
      let text = ''
      response.setEncoding('utf8')
      response.on('data', (part: string) => {
        text += part
        onText?.(part)
      })
      response.on('end', () => resolve({ status: response.statusCode ?? 0, text }))
      response.on('error', reject)
    })
    request.on('error', reject)
    request.end(body === undefined ? undefined : JSON.stringify(body))
  })
}
