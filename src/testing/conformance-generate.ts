/**
 * Conformance of one generation at a time: what a server says of itself, tokens and log-probabilities as they stream, ends, resuming.
 */
import type { Probe } from '../engines/driver.ts'
import { RolloutError } from '../errors.ts'
import { begunStop } from '../rollout/stop-text.ts'
import type { Check, Unfit } from './conformance.ts'
import { expectThat, type Generated, GREEDY, Mismatch, NotOffered, type Tools } from './conformance-tools.ts'

/** Two computations of one float32 model in different batches. llama-server in a quantized model was seen to differ by 0.01. */
const SAME_LOGPROB = 0.02
/** More than a driver lets a server gather before it sends. */
const STREAMED = 400
/** Characters that any text has soon. */
const STOPS = 'aeiot12345'
/** Longest text of one token that a stop text may be in. */
const LAST_TOKEN = 24
/** Tries to sample the likeliest token at a low temperature. */
const TRIES = 40
const LOW_TEMPERATURE = 0.1
/** Among so many greedy ones, after so many prompts, there is a text to stop at. */
const SEAM_TOKENS = 24
const SEAM_PROMPTS = 8
const TEXT = 'The capital of France is'

export const noIds = ({ capabilities }: Probe): Unfit | null =>
  capabilities.tokenIds ? null : { outcome: 'not offered', found: 'the server shows no token ids' }

const noLogprobs = (probe: Probe): Unfit | null =>
  noIds(probe) ??
  (probe.capabilities.logprobs === 'none' ? { outcome: 'not offered', found: 'the server reports none' } : null)

export const GENERATION_CHECKS: readonly Check[] = [
  {
    name: 'probe',
    works: 'no limit of the server has to be guessed',
    without:
      'set capacity and vocabularySize yourself: a guess runs the server over or under, and some die of a token id beyond it',
    async run({ probe: { capacity, vocabularySize, contextLength, weightVersion } }) {
      const said = (value: number | string | null): string => (value === null ? 'unknown' : `${value}`)
      const limits = `capacity ${said(capacity)}, vocabulary ${said(vocabularySize)}, context ${said(contextLength)}, weights ${said(weightVersion)}`
      if (capacity === null || vocabularySize === null || contextLength === null) throw new NotOffered(limits)
      return limits
    },
  },
  {
    name: 'text',
    works: 'text and chat prompts become token ids once, by the server itself',
    without: 'send token ids: a text prompt begins again when it is interrupted',
    unfit: (probe) =>
      probe.capabilities.tokenIds ? null : { outcome: 'not offered', found: 'text goes in and comes out, without ids' },
    async run({ driver, signal, generate }) {
      if (driver.tokenize === undefined) throw new Mismatch('the driver has no tokenizer')
      const ids = await driver.tokenize(TEXT, signal)
      const chat = await driver.tokenize([{ role: 'user', content: TEXT }], signal)
      expectThat(ids.length > 0 && chat.length > 0, `expected token ids, found ${ids.length} and ${chat.length}`)
      const out = await generate(GREEDY, { prompt: ids })
      expectThat(out.tokens.length > 0, 'expected tokens after the ids of a text, found none')
      return `${ids.length} ids of a text, ${chat.length} of a chat`
    },
  },
  {
    name: 'stream',
    works: 'tokens are kept as they come: an interruption loses none',
    without: 'an interrupted sample loses what it had',
    async run(tools) {
      const several = (chunks: number): void => expectThat(chunks > 1, 'expected several chunks, found one')
      if (tools.probe.capabilities.tokenIds) {
        const chunks = await goesOnFor(tools, STREAMED)
        several(chunks)
        return `${STREAMED} tokens in ${chunks} chunks`
      }
      const once = (): Promise<Generated> => tools.generate({ maxTokens: STREAMED }, { prompt: TEXT })
      let out = await once()
      // What the model ends soon may come in one piece.
      for (let tries = 1; tries < TRIES && out.chunks < 2; tries++) out = await once()
      expectThat(out.text !== '', 'expected text, found none')
      several(out.chunks)
      return `${out.text.length} characters in ${out.chunks} chunks`
    },
  },
  {
    name: 'log-probabilities',
    works: 'every token has the log-probability it was sampled with',
    without: 'no importance ratios: train on-policy only, or recompute them',
    unfit: noLogprobs,
    async run({ generate }) {
      const out = await generate({ maxTokens: 48 })
      const good = out.logprobs.filter((value) => Number.isFinite(value) && value <= 0)
      expectThat(
        out.logprobs.length === out.tokens.length,
        `${out.tokens.length} tokens, ${out.logprobs.length} of them`,
      )
      expectThat(good.length === out.tokens.length, 'expected finite numbers of at most 0')
      return `${good.length} of ${out.tokens.length} tokens`
    },
  },
  {
    name: 'log-probability basis',
    works: 'the log-probabilities are of the distribution that the driver says',
    without: 'importance ratios are wrong at every temperature but 1',
    unfit: noLogprobs,
    async run(tools) {
      const likeliest = await tools.generate({ ...GREEDY, maxTokens: 1 })
      for (let tries = 0; tries < TRIES; tries++) {
        const low = await tools.generate({ temperature: LOW_TEMPERATURE, maxTokens: 1 })
        if (low.tokens[0] !== likeliest.tokens[0]) continue
        // Cold, the likeliest token is likelier still.
        const raised = low.logprobs[0]! - likeliest.logprobs[0]!
        const found = raised > SAME_LOGPROB ? 'sampled' : 'raw'
        const { logprobs } = tools.probe.capabilities
        expectThat(found === logprobs, `the driver says '${logprobs}', and the server's own are '${found}'`)
        return `${found === 'raw' ? 'before' : 'after'} temperature: ${raised.toFixed(3)} nats more at ${LOW_TEMPERATURE}`
      }
      throw new Mismatch(`expected the likeliest token at temperature ${LOW_TEMPERATURE}, not found in ${TRIES} tries`)
    },
  },
  {
    name: 'resume',
    works: 'an interrupted sample goes on exactly where it was, also on another server',
    without: 'resumed samples are not of the policy',
    unfit: noIds,
    async run({ generate, options: { prompt } }) {
      const whole = await generate({ ...GREEDY, maxTokens: 24 })
      const rest = await generate({ ...GREEDY, maxTokens: 15 }, { prompt: [...prompt, ...whole.tokens.slice(0, 9)] })
      sameTokens(rest.tokens, whole.tokens.slice(9))
      const differences = rest.logprobs.map((value, i) => Math.abs(value - whole.logprobs[i + 9]!))
      const largest = Math.max(0, ...differences)
      expectThat(largest <= SAME_LOGPROB, `log-probabilities ${largest} nats apart`)
      return `15 tokens after 9; log-probabilities at most ${largest.toExponential(0)} apart`
    },
  },
  {
    name: 'versions',
    works: 'every token says which weights it was sampled from',
    without: 'tokens are stamped by what the supervisor loaded; around an update they are marked mixed',
    unfit: ({ capabilities: { versions } }) =>
      versions === 'spans'
        ? null
        : { outcome: 'not offered', found: versions === 'label' ? 'one label for all' : 'none' },
    async run({ generate, driver, signal }) {
      const { versions, tokens } = await generate()
      const label = await driver.weightVersion(signal)
      const all = versions ?? []
      expectThat(all.at(-1)?.end === tokens.length, `${tokens.length} tokens, spans ${JSON.stringify(all)}`)
      expectThat(
        all.every(({ version }) => version === label),
        `label ${label}, spans ${JSON.stringify(all)}`,
      )
      return `version ${JSON.stringify(label)}`
    },
  },
  {
    name: 'stop ids',
    works: 'a sample ends at its stop token, which is the last of it',
    without: 'samples run on past their end',
    unfit: noIds,
    async run({ generate }) {
      const { tokens } = await generate({ ...GREEDY, maxTokens: 16 })
      const stop = tokens[7]!
      const out = await generate({ ...GREEDY, maxTokens: 64, stopTokenIds: [stop], ignoreEos: false })
      ended(out, tokens, tokens.indexOf(stop) + 1)
      return `after ${out.tokens.length} tokens`
    },
  },
  {
    name: 'stop strings',
    works: 'a sample ends with its stop text, and keeps it',
    without: 'cut the text yourself; tokens beyond it are in the sample',
    unfit: noIds,
    run: (tools) =>
      refusable(async () => {
        const out = await tools.generate({ maxTokens: STREAMED, stop: [...STOPS] })
        expectThat(out.finishReason === 'stop', `expected the end 'stop', found '${out.finishReason}'`)
        const at = [...out.text].findIndex((character) => STOPS.includes(character))
        expectThat(at >= 0, `expected the stop text at the end, found ${JSON.stringify(out.text.slice(-LAST_TOKEN))}`)
        expectThat(at >= out.text.length - LAST_TOKEN, `${out.text.length - at} characters beyond the stop text`)
        return `after ${out.tokens.length} tokens`
      }),
  },
  {
    name: 'stop strings over a seam',
    works: 'interrupted in the middle of its stop text, a sample ends with it all the same',
    without: 'interrupted samples run on past their stop text',
    unfit: noIds,
    run: (tools) => refusable(() => stopOverSeam(tools)),
  },
  {
    name: 'ignore eos',
    works: 'samples of a fixed length are possible',
    without: 'a sample ends where the model ends it',
    unfit: noIds,
    async run(tools) {
      await Promise.all([1, 2, 3].map(() => goesOnFor(tools, 150)))
      return '3 times 150 tokens'
    },
  },
  {
    name: 'least tokens',
    works: 'minTokens is kept',
    without: 'samples may end before minTokens',
    unfit: noIds,
    run: (tools) =>
      refusable(async () => {
        const { tokens } = await tools.generate({ ...GREEDY, maxTokens: 4 })
        const early = { ...GREEDY, stopTokenIds: [tokens[1]!], ignoreEos: false, minTokens: 12, maxTokens: 12 }
        const out = await tools.generate(early)
        length(out, 12)
        return '12 tokens, a stop token forbidden before'
      }),
  },
  {
    name: 'seed',
    works: 'one seed gives one sample',
    without: 'runs cannot be repeated token by token; training does not suffer',
    unfit: noIds,
    async run({ generate }) {
      const [one, two, other] = [await generate({ seed: 5 }), await generate({ seed: 5 }), await generate({ seed: 6 })]
      if (String(two.tokens) !== String(one.tokens)) throw new NotOffered('seeds are ignored: one gave two samples')
      expectThat(String(other.tokens) !== String(one.tokens), 'another seed gave the same tokens')
      return 'twice the same tokens'
    },
  },
]

/** A driver that knows what its engine cannot do says so, and runs nothing. */
async function refusable(run: () => Promise<string>): Promise<string> {
  try {
    return await run()
  } catch (error) {
    if (RolloutError.isInstance(error) && error.code === 'REQUEST_REJECTED') throw new NotOffered(error.message)
    throw error
  }
}

function length({ tokens }: Generated, expected: number): void {
  expectThat(tokens.length === expected, `expected ${expected} tokens, found ${tokens.length}`)
}

/**
 * A driver may interrupt, where it could not tell the tokens of what comes: then the sample goes on from them, as under the supervisor.
 * @returns the chunks of the part that came in most
 */
async function goesOnFor({ generate, options: { prompt } }: Tools, count: number): Promise<number> {
  const tokens: number[] = []
  let chunks = 0
  for (let tries = 0; tokens.length < count && tries < count; tries++) {
    const out = await generate({ maxTokens: count - tokens.length }, { prompt: [...prompt, ...tokens] })
    tokens.push(...out.tokens)
    chunks = Math.max(chunks, out.chunks)
    expectThat(
      out.finishReason === (tokens.length < count ? 'abort' : 'length'),
      `expected ${count} tokens, found the end '${out.finishReason}' after ${tokens.length}`,
    )
  }
  expectThat(tokens.length === count, `expected ${count} tokens, found ${tokens.length} in ${count} tries`)
  return chunks
}

function sameTokens(found: readonly number[], expected: readonly number[]): void {
  expectThat(String(found) === String(expected), `expected the tokens ${expected}, found ${found}`)
}

function ended(out: Generated, tokens: readonly number[], at: number): void {
  expectThat(out.finishReason === 'stop', `expected the end 'stop', found '${out.finishReason}'`)
  sameTokens(out.tokens, tokens.slice(0, at))
}

/** Interrupts between two tokens whose text, joined, is the stop text. */
async function stopOverSeam(tools: Tools): Promise<string> {
  for (let times = 1; times <= SEAM_PROMPTS; times++) {
    const found = await stopOverSeamAfter(tools, Array(times).fill(tools.options.prompt).flat())
    if (found !== null) return found
  }
  throw new NotOffered(`no text of ${SEAM_TOKENS} tokens that could be told apart, after ${SEAM_PROMPTS} prompts`)
}

/** Null where nothing that is generated after this prompt can be told apart. */
async function stopOverSeamAfter({ generate }: Tools, prompt: readonly number[]): Promise<string | null> {
  const whole = await generate({ ...GREEDY, maxTokens: SEAM_TOKENS }, { prompt })
  for (let seam = 2; seam < SEAM_TOKENS; seam++) {
    const { tokens, text: before } = await generate({ ...GREEDY, maxTokens: seam }, { prompt })
    sameTokens(tokens, whole.tokens.slice(0, seam))
    for (const stop of stopsOver(whole.text, before)) {
      const sampling = { ...GREEDY, stop: [stop] }
      const expected = await generate({ ...sampling, maxTokens: 2 * SEAM_TOKENS }, { prompt })
      // SGLang looks at as many tokens as its own tokenizer makes of a stop text, and misses one that came in more, until it comes again.
      const oneLess = await generate({ ...GREEDY, maxTokens: Math.max(1, expected.tokens.length - 1) }, { prompt })
      if (!expected.text.endsWith(stop) || oneLess.text.includes(stop)) continue
      const how = { prompt: [...prompt, ...tokens], textBefore: begunStop(before, [stop]) }
      const rest = await generate({ ...sampling, maxTokens: 2 * SEAM_TOKENS - seam }, how)
      const found = `${JSON.stringify(stop)} over ${seam} tokens and the rest`
      expectThat(rest.finishReason === 'stop', `${found}: expected the end 'stop', found '${rest.finishReason}'`)
      sameTokens([...tokens, ...rest.tokens], expected.tokens)
      const text = before + rest.text
      expectThat(
        text === expected.text,
        `${found}: expected ${JSON.stringify(expected.text)}, found ${JSON.stringify(text)}`,
      )
      return `${found}, after ${expected.tokens.length} tokens`
    }
  }
  return null
}

/** Texts that begin before the seam, end after it, and are nowhere before. */
function stopsOver(whole: string, before: string): string[] {
  if (before === '' || before.endsWith('\ufffd') || !whole.startsWith(before)) return []
  const stops: string[] = []
  for (const end of [before.length + 2, before.length + 1]) {
    if (end > whole.length) continue
    for (let start = before.length - 1; start >= Math.max(0, before.length - LAST_TOKEN); start--) {
      const stop = whole.slice(start, end)
      if (stop.includes('\ufffd') || whole.indexOf(stop) !== start) continue
      stops.push(stop)
      break
    }
  }
  return stops
}
