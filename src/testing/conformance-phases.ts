/**
 * Conformance of what an update is made of: holding a server, new weights with nothing of the old ones left, memory given away, a restart.
 * Only what is allowed is run; whatever happens, the server is open afterwards.
 */
import type { PauseMode, Probe } from '../engines/driver.ts'
import type { Check, CheckedConformance, Unfit } from './conformance.ts'
import { noIds } from './conformance-generate.ts'
import { expectThat, type Generated, GREEDY, Mismatch, type Started, type Tools } from './conformance-tools.ts'

/** Tokens of a prompt that a prefix cache keeps, in whole blocks: of 16 tokens mostly, of 128 in a vLLM without a GPU. */
const CACHED_TOKENS = 320
/** Generated after it. */
const COMPARED_TOKENS = 8
/** Of one float32 model, computed twice; what is cached of other weights is far from it. */
const EXACT_NATS = 1e-4
/** A held server is looked at for so long. */
const HELD_MS = 200
const OPEN_MS = 10_000

const notAllowed = (what: string): Unfit => ({ outcome: 'skipped', found: `not allowed: ${what}` })

const noPause =
  (mode: PauseMode | null) =>
  (probe: Probe, { allow }: CheckedConformance): Unfit | null => {
    const { pause } = probe.capabilities
    if (mode === null ? pause.length === 0 : !pause.includes(mode))
      return { outcome: 'not offered', found: 'no such route' }
    return noIds(probe) ?? (allow.pause === true ? null : notAllowed('pause'))
  }

const noUpdate = (probe: Probe, { allow }: CheckedConformance): Unfit | null =>
  probe.capabilities.updateWeights
    ? allow.weights === undefined
      ? notAllowed('two checkpoints to load')
      : null
    : { outcome: 'not offered', found: 'new weights need a restart' }

export const PHASE_CHECKS: readonly Check[] = [
  {
    name: 'pause and abort',
    works: 'everything that runs ends at once, with its tokens, and nothing begins before the weights are new',
    without: 'requests are aborted one by one; those of others run on',
    unfit: noPause('abort'),
    run: (tools) =>
      held(tools, 'abort', async (running, held) => {
        const out = await running.done
        expectThat(out.finishReason === 'abort', `expected the end 'abort', found '${out.finishReason}'`)
        await stands(tools, held)
        return `a request that ran ended with ${out.tokens.length} tokens; one that came was held`
      }),
  },
  {
    name: 'pause and keep',
    works: 'samples stay on the server over an update, and are computed anew',
    without: 'samples are interrupted by an update, and resume from their tokens',
    unfit: noPause('keep'),
    run: (tools) =>
      held(tools, 'keep', async (running, held) => {
        // What was on the wire may still come.
        await tools.sleep(HELD_MS)
        await stands(tools, held)
        await stands(tools, running)
        return `a request stood still at ${running.tokens} tokens; one that came was held`
      }),
  },
  {
    name: 'resume an open server',
    works: 'a supervisor that begins can open whatever an earlier one left',
    without: 'a server that an earlier trainer paused must be opened by hand',
    unfit: (probe, options) => noPause(null)(probe, options),
    async run({ driver, signal, generate }) {
      await driver.resume(signal)
      const { tokens } = await generate({ maxTokens: 4 })
      expectThat(tokens.length === 4, `expected 4 tokens, found ${tokens.length}`)
      return 'no harm'
    },
  },
  {
    name: 'weight change',
    works: 'after an update nothing is sampled from old weights or from what was cached of them',
    without: 'training data is poisoned: stamped as new, and of neither weights',
    unfit: noUpdate,
    async run(tools) {
      const [a, b] = tools.options.allow.weights!
      // One prompt for all, so that it is cached when the weights change.
      const length = Math.min(CACHED_TOKENS, (tools.probe.contextLength ?? Number.POSITIVE_INFINITY) - COMPARED_TOKENS)
      const prompt = Array.from({ length }, (_, i) => tools.options.prompt[i % tools.options.prompt.length]!)
      const samples: Generated[] = []
      let largest = 0
      for (const weights of [a, b, a]) {
        const version = await update(tools, weights)
        const sample = await tools.generate({ ...GREEDY, maxTokens: COMPARED_TOKENS }, { prompt })
        labelled(tools, sample, version)
        largest = Math.max(largest, await differenceFrom(tools, weights, prompt, sample, 0, sample.tokens.length))
        samples.push(sample)
      }
      const [first, second] = samples.map(({ tokens, logprobs }) => `${tokens} ${logprobs}`)
      expectThat(first !== second, 'the second checkpoint samples as the first: it was not loaded, or is the same')
      return proven(tools, largest)
    },
  },
  {
    name: 'weight change over frozen requests',
    works: 'kept samples go on under new weights, computed anew',
    without: 'kept samples would mix two weights: they are interrupted instead',
    unfit: (probe, options) => noPause('keep')(probe, options) ?? noUpdate(probe, options),
    async run(tools) {
      const [a, b] = tools.options.allow.weights!
      const before = await update(tools, a)
      const running = await tools.startLong()
      await opened(tools, async () => {
        await tools.driver.pause?.('keep', tools.signal)
        await update(tools, b, true)
      })
      const at = running.tokens
      await tools.until('expected tokens after the update, found none', () => running.tokens > at + 8 || running.ended)
      await end(tools, running)
      const out = await running.done
      await update(tools, a)
      const spans = out.versions ?? []
      if (tools.probe.capabilities.versions !== 'spans') return 'it went on'
      const said = spans.map(({ version, start, end }) => `${version}: ${start}-${end}`).join(', ')
      expectThat(spans.length === 2 && spans[1]!.version === `${before + 1}`, `expected two spans, found ${said}`)
      let largest = 0
      for (const [i, { start, end }] of spans.entries())
        largest = Math.max(largest, await differenceFrom(tools, i === 0 ? a : b, tools.options.prompt, out, start, end))
      return `versions ${said}; ${proven(tools, largest)}`
    },
  },
  {
    name: 'weight change from nowhere',
    works: 'a failed update is a fault, and no version is claimed for it',
    without: 'tokens are stamped with weights that were never loaded',
    unfit: noUpdate,
    async run(tools) {
      const [a] = tools.options.allow.weights!
      const version = (await update(tools, a)) + 1
      const nowhere = { version, path: `${a}-that-is-not-there`, frozen: false }
      const error = await quietly(tools, () => tools.driver.updateWeights(nowhere, tools.signal)).then(
        () => null,
        (caught: unknown) => caught,
      )
      const label = await tools.driver.weightVersion(tools.signal)
      await update(tools, a)
      expectThat(error !== null, 'expected a fault, found none')
      expectThat(label !== `${version}`, `it failed, and the server calls its weights ${label}`)
      return `the server called its weights ${JSON.stringify(label)} until the next update`
    },
  },
  {
    name: 'release and reclaim',
    works: 'a trainer on the same accelerators has the memory while it trains',
    without: 'trainer and server need accelerators of their own',
    unfit: ({ capabilities }, { allow }) =>
      capabilities.release
        ? allow.release === true
          ? null
          : notAllowed('release')
        : { outcome: 'not offered', found: 'no such route' },
    async run({ driver, signal, generate }) {
      if (driver.release === undefined || driver.reclaim === undefined) throw new Mismatch('the driver cannot')
      await driver.release(signal)
      const { weightsKept } = await driver.reclaim(signal)
      if (weightsKept) await generate({ maxTokens: 4 })
      return weightsKept ? 'weights were kept' : 'weights are gone until the next update'
    },
  },
  {
    name: 'restart',
    works: 'a server that came back is found, without a lost request of ours',
    without: 'samples fail after a restart, until connections are made anew',
    unfit: (probe, { allow }) => noIds(probe) ?? (allow.restart === undefined ? notAllowed('restart') : null),
    async run(tools) {
      const long = await tools.startLong()
      await tools.options.allow.restart!()
      const cut = await long.done.then(
        ({ finishReason }) => `ended with '${finishReason}'`,
        (error: Error & { code?: string }) => `was cut (${error.code ?? error.name})`,
      )
      const { tokens } = await tools.generate({ maxTokens: 4 })
      expectThat(tokens.length === 4, `expected 4 tokens, found ${tokens.length}`)
      const label = await tools.driver.weightVersion(tools.signal)
      return `its stream ${cut}; then it generated, weights ${JSON.stringify(label)}`
    },
  },
]

/** Pauses under one running request, sends another, lets `look` look, and opens: both must come to their end, or go on. */
async function held(
  tools: Tools,
  mode: PauseMode,
  look: (running: Started, held: Started) => Promise<string>,
): Promise<string> {
  const running = await tools.startLong()
  let came: Started | null = null
  const found = await opened(tools, async () => {
    await tools.driver.pause?.(mode, tools.signal)
    const { paused } = await tools.driver.probe(tools.signal)
    expectThat(paused, 'the server does not say that it is paused')
    came = tools.start({ maxTokens: 4 })
    return look(running, came)
  })
  const { tokens } = await (came as Started | null)!.done
  expectThat(tokens.length === 4, `expected the held request to run, found ${tokens.length} tokens`)
  const { paused } = await tools.driver.probe(tools.signal)
  expectThat(!paused, 'it is still paused after resume')
  if (mode === 'keep') {
    const at = running.tokens
    await tools.until(
      'expected the frozen request to go on, found it still',
      () => running.tokens > at || running.ended,
    )
    await end(tools, running)
  }
  return found
}

/** No token comes for a while. */
async function stands(tools: Tools, started: Started): Promise<void> {
  const at = started.tokens
  await tools.sleep(HELD_MS)
  expectThat(
    started.tokens === at && !started.ended,
    `expected no token of a held request, found ${started.tokens - at}`,
  )
}

/** Never leaves the server paused, also when the check's time is over. */
async function opened<T>(tools: Tools, run: () => Promise<T>): Promise<T> {
  try {
    return await run()
  } finally {
    if (tools.driver.pause !== undefined) await tools.driver.resume(AbortSignal.timeout(OPEN_MS))
  }
}

async function end(tools: Tools, started: Started): Promise<void> {
  if (tools.probe.capabilities.abortById) await tools.driver.abort(started.requestId, tools.signal)
  else started.leave()
  await started.done.catch(() => {})
}

/** As the supervisor does it: held where the server can be. */
async function quietly(tools: Tools, run: () => Promise<void>): Promise<void> {
  await tools.loadOf(0)
  await opened(tools, async () => {
    if (tools.probe.capabilities.pause.includes('abort')) await tools.driver.pause?.('abort', tools.signal)
    await run()
  })
}

/** To a version above the server's own; returns it. */
async function update(tools: Tools, path: string, frozen = false): Promise<number> {
  const { driver, signal } = tools
  const label = await driver.weightVersion(signal)
  const version = Number(/\d+$/.exec(label ?? '')?.[0] ?? 0) + 1
  const load = (): Promise<void> => driver.updateWeights({ version, path, frozen }, signal)
  await (frozen ? load() : quietly(tools, load))
  const now = await driver.weightVersion(signal)
  expectThat(now === `${version}`, `expected version "${version}" after the update, found ${JSON.stringify(now)}`)
  return version
}

function labelled({ probe }: Tools, { versions, tokens }: Generated, version: number): void {
  if (probe.capabilities.versions !== 'spans') return
  const good = versions?.length === 1 && versions[0]?.version === `${version}` && versions[0].end === tokens.length
  expectThat(good, `expected all tokens to say version ${version}, found ${JSON.stringify(versions)}`)
}

/** Of the tokens `[start, end)`, from what their weights make of them; throws where they are of others. */
async function differenceFrom(
  { options: { score } }: Tools,
  weights: string,
  prompt: readonly number[],
  { tokens, logprobs }: Generated,
  start: number,
  end: number,
): Promise<number> {
  if (score === null) return 0
  const scores = await score(weights, prompt, tokens)
  let largest = 0
  for (let i = start; i < end; i++) largest = Math.max(largest, Math.abs(scores[i]! - logprobs[i]!))
  const words = `log-probabilities up to ${largest.toPrecision(2)} nats off those of ${weights}: caches of older weights were used`
  expectThat(largest <= EXACT_NATS, words)
  return largest
}

function proven({ options: { score } }: Tools, largest: number): string {
  return score === null
    ? 'weights and labels change; whether caches were emptied was not recomputed'
    : `log-probabilities recomputed: ${largest.toExponential(0)} nats off at most`
}
