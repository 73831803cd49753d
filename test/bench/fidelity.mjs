/**
 * Is training data exact under fire? Embedded engines of every dialect run samples of 100 to 500 tokens, and the whole fleet is interrupted every
 * 100 to 300 tokens of a sample, in every way there is: updates (abort, keep, restart, drain, rolling), evaluations (resume, restart) and
 * pauses (abort, keep). Every token is then recomputed under the version stamped on it. In the tiny policy a token's probability depends on
 * all tokens before it, so one that was lost or repeated shows in those that follow.
 *
 *     mismatch         a log-probability that is not that of the stamped version (nor of another)
 *     wrong version    that of another version; a version nobody published; one that goes back; an evaluation of two
 *     lost, repeated   samples without a completion or with fewer tokens than asked for; with two, or with more
 *
 * The dialect without token ids begins interrupted samples again: there it is counted that each ends exactly once.
 *
 * usage: node test/bench/fidelity.mjs [--tokens=1000000] [--dialect=sglang] [--quick]
 *        tokens in the dialects with ids together, a third each; one dialect alone makes its third, so that each can have a process
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createSupervisor } from '../../dist/src/index.js'
import { createTinyWeights, EOS, saveWeights, scoreTokens, startEmbeddedEngine } from '../../dist/src/testing/index.js'
import { describeMachine, format, quick, save, table } from './harness.mjs'

/** @typedef {import('../../dist/src/index.js').Completion<{ readonly tokens: number, readonly since: number | null }>} Completion */
/** @typedef {import('../../dist/src/index.js').Task<{ readonly tokens: number, readonly since: number | null }>} Task */
/** @typedef {import('../../dist/src/testing/index.js').TinyWeights} TinyWeights */

/** @param {string} name */
const option = (name) => process.argv.find((argument) => argument.startsWith(`--${name}=`))?.slice(name.length + 3)
const TOKENS = Number(option('tokens') ?? (quick ? 60_000 : 1_000_000))
const only = option('dialect')
/** Between two lines that say how far it is. */
const PROGRESS_MS = 30_000
const ENGINES = 2
const SLOTS = 32
const PROMPT = [7, 1, 12, 3]
/** 32-bit floats, half a unit in the last place, and room for the sums. */
const TOLERANCE = 1e-5
const EVALUATION_TOKENS = 40

const DIALECTS = /** @type {const} */ ([
  { profile: 'sglang', ids: true, loads: true },
  { profile: 'vllm', ids: true, loads: true },
  { profile: 'llama-server', ids: true, loads: false },
  { profile: 'openai', ids: false, loads: false },
])
const UPDATES = /** @type {const} */ (['abort', 'keep', 'restart', 'drain', 'rolling'])
const OTHERS = /** @type {const} */ (['evaluate resume', 'evaluate restart', 'pause abort', 'pause keep'])

let state = 12_345
/** @param {number} from @param {number} to */
function between(from, to) {
  state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
  return from + Math.floor((state / 2 ** 32) * (to - from + 1))
}

/** Never ends by itself, so that every length is the one asked for. @param {number} seed @returns {TinyWeights} */
function weightsOf(seed) {
  const weights = createTinyWeights({ seed: 1_000 + seed })
  const bigram = weights.bigram.map((value, index) => (index % weights.vocabularySize === EOS ? -100 : value))
  return { ...weights, bigram }
}

/** @param {(typeof DIALECTS)[number]} dialect @param {number} wanted @param {string} folder */
async function run({ profile, ids, loads }, wanted, folder) {
  const first = weightsOf(0)
  const engines = await Promise.all(
    Array.from({ length: ENGINES }, (_, seed) =>
      startEmbeddedEngine({
        profile,
        capacity: SLOTS,
        stepMs: 1,
        perSequenceMs: 0,
        seed,
        weights: first,
        incremental: true,
        weightVersion: loads ? '0' : 'default',
      }),
    ),
  )
  const supervisor = createSupervisor({
    instances: engines.map(({ url, weights }) => ({
      url,
      engine: profile,
      capacity: SLOTS,
      ...(ids ? { vocabularySize: weights.vocabularySize } : {}),
    })),
  })
  /** @type {Map<number | null, TinyWeights>} */
  const published = new Map([
    [null, first],
    [0, first],
  ])
  const found = {
    tokens: 0,
    samples: 0,
    interruptions: 0,
    mismatches: 0,
    wrongVersions: 0,
    lost: 0,
    repeated: 0,
    largest: 0,
  }
  const operations = /** @type {Record<string, number>} */ ({})
  const submitted = new Map()
  let [version, generatedBefore, isOver, unstamped] = [/** @type {number | null} */ (null), 0, false, 0]

  /** @param {Completion} completion */
  function check(completion) {
    const { id, kind, outcome, tokenIds, logprobs, versions, text, meta, segments } = completion
    const ended = (submitted.get(id) ?? 0) + 1
    submitted.set(id, ended)
    if (ended > 1) found.repeated += 1
    if (outcome !== 'completed') {
      if (!isOver) found.lost += 1
      return
    }
    found.samples += 1
    found.interruptions += segments.filter(({ reason }) => reason === 'interrupted').length
    const length = ids ? tokenIds.length : (text ?? '').length
    found.tokens += length
    found.lost += Math.max(0, meta.tokens - length)
    found.repeated += Math.max(0, length - meta.tokens)
    if (!ids) return
    if (logprobs.length !== length) found.mismatches += Math.abs(length - logprobs.length)
    if ((versions.at(-1)?.end ?? 0) !== length) unstamped += 1
    if (kind === 'evaluation' && new Set(versions.map(({ version }) => version)).size > 1) found.wrongVersions += 1
    let last = meta.since ?? -1
    for (const span of versions) {
      const weights = published.get(span.version)
      if (weights === undefined || span.mixed === true || (span.version ?? -1) < last) {
        found.wrongVersions += span.end - span.start
        continue
      }
      last = span.version ?? -1
      const scores = scoreTokens(weights, PROMPT, tokenIds)
      for (let at = span.start; at < span.end; at++) {
        const difference = Math.abs((scores[at] ?? 0) - (logprobs[at] ?? Number.NaN))
        if (difference <= TOLERANCE) found.largest = Math.max(found.largest, difference)
        else if (isOfAnother(tokenIds, at, logprobs[at] ?? Number.NaN)) found.wrongVersions += 1
        else found.mismatches += 1
      }
    }
  }
  /** @param {Int32Array} tokenIds @param {number} at @param {number} logprob */
  function isOfAnother(tokenIds, at, logprob) {
    return [...published.values()].some((weights) => {
      return Math.abs((scoreTokens(weights, PROMPT, tokenIds)[at] ?? 0) - logprob) <= TOLERANCE
    })
  }
  /** @param {number} samples @param {number} tokens @returns {Task} */
  const task = (samples, tokens) => ({
    prompt: ids ? PROMPT : 'count with me',
    samples,
    sampling: { maxTokens: tokens },
    meta: { tokens, since: version },
  })
  const refill = () => {
    while (!isOver && supervisor.getSnapshot().conservation.waiting < SLOTS) {
      const { id } = supervisor.submit(task(4, between(100, 500)))
      for (let sample = 0; sample < 4; sample++) submitted.set(`${id}/${sample}`, 0)
    }
  }
  const generated = () => engines.reduce((sum, { counters }) => sum + counters.tokensGenerated, 0)
  /** @param {(typeof UPDATES)[number] | (typeof OTHERS)[number]} name */
  async function interrupt(name) {
    operations[name] = (operations[name] ?? 0) + 1
    const [what, how] = name.split(' ')
    if (what === 'evaluate') {
      await supervisor.evaluate([task(8, EVALUATION_TOKENS)], { interrupt: how === 'restart' ? 'restart' : 'resume' })
    } else if (what === 'pause') {
      await supervisor.pause({ mode: how === 'keep' ? 'keep' : 'abort' })
      await supervisor.resume()
    } else {
      const next = (version ?? 0) + 1
      const path = join(folder, `${profile}-${next}`)
      const weights = weightsOf(next)
      await saveWeights(path, weights)
      published.set(next, weights)
      const rolling = name === 'rolling' ? { rolling: 1 } : {}
      const mode = name === 'rolling' ? 'abort' : name
      await supervisor.updateWeights({ version: next, mode: /** @type {'abort'} */ (mode), path, ...rolling })
      version = next
      await rm(join(folder, `${profile}-${next - 2}`), { recursive: true, force: true })
    }
  }

  await supervisor.start()
  supervisor.completions$.subscribe((completion) => check(/** @type {Completion} */ (completion)))
  const ways = loads ? [...UPDATES, ...OTHERS] : OTHERS
  const progress = setInterval(() => console.error(profile, found), PROGRESS_MS)
  for (let turn = 0; found.tokens < wanted; turn++) {
    const until = generatedBefore + between(100, 300) * ENGINES * SLOTS
    while (generated() < until) {
      refill()
      await new Promise((resolve) => setTimeout(resolve, 2))
    }
    await interrupt(/** @type {(typeof UPDATES)[number]} */ (ways[turn % ways.length]))
    generatedBefore = generated()
  }
  await supervisor.drainAll()
  clearInterval(progress)
  isOver = true
  found.lost += [...submitted.values()].filter((ended) => ended === 0).length
  const { submitted: all, ended } = supervisor.getSnapshot().conservation
  if (all !== Object.values(ended).reduce((sum, each) => sum + each, 0)) throw new Error('samples are missing')
  await supervisor.close()
  await Promise.all(engines.map((engine) => engine.close()))
  return { profile, ...found, unstamped, versions: published.size - 2, operations, sampled: generated() }
}

const folder = await mkdtemp(join(tmpdir(), 'rollout-supervisor-bench-'))
const results = []
const began = performance.now()
try {
  for (const dialect of DIALECTS.filter(({ profile }) => only === undefined || only === profile)) {
    const share = dialect.ids ? TOKENS / 3 : Math.min(TOKENS / 3, 100_000)
    results.push(await run(dialect, share, folder))
    console.error(results.at(-1))
  }
} finally {
  await rm(folder, { recursive: true, force: true })
}
console.log(describeMachine())
table(
  `interrupted every 100 to 300 tokens of a sample, ${format((performance.now() - began) / 1_000, 0)} s`,
  [
    'dialect',
    'tokens',
    'samples',
    'interruptions',
    'versions',
    'mismatches',
    'wrong versions',
    'lost',
    'repeated',
    'largest difference',
  ],
  results.map((row) => [
    row.profile,
    format(row.tokens, 0),
    format(row.samples, 0),
    format(row.interruptions, 0),
    format(row.versions, 0),
    row.profile === 'openai' ? '-' : format(row.mismatches, 0),
    row.profile === 'openai' ? '-' : format(row.wrongVersions + row.unstamped, 0),
    format(row.lost, 0),
    format(row.repeated, 0),
    row.profile === 'openai' ? '-' : row.largest.toExponential(1),
  ]),
)
save('fidelity', { tokens: TOKENS, engines: ENGINES, slots: SLOTS, results })
const wrong = results.some((row) => row.mismatches + row.wrongVersions + row.lost + row.repeated + row.unstamped > 0)
process.exitCode = wrong ? 1 : 0
