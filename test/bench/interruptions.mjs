/**
 * What interruptions take and waste, on 8 embedded engines of 16 slots that are all full, in this process:
 *
 *     evaluation    evaluate() to the first evaluation token
 *     abort         pause({ mode: 'abort' }) to the servers' own counts at 0
 *     reopen        resume() to all slots full, by the servers' own counts
 *     waste         tokens that the servers sampled and no sample has, for each way to interrupt
 *
 * The engines step at their own times, as servers do: their steps take 79 to 100 ms, and each operation is asked for at any moment of them. The goal for
 * each p99 is 50 ms and one engine step of 100 ms. The delays that real servers add by themselves are off (real-engines.md measures them). `timer`
 * is how late a timer of 1 ms came meanwhile: what a loaded machine adds to everything here.
 *
 * usage: node test/bench/interruptions.mjs [--quick]
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createSupervisor } from '../../dist/src/index.js'
import { createTinyWeights, EOS, saveWeights, startEmbeddedEngine } from '../../dist/src/testing/index.js'
import { describeMachine, format, quick, save, table } from './harness.mjs'

const ENGINES = 8
const SLOTS = 16
const STEP_MS = 100
/** A step of each engine is so much shorter than that of the one before. */
const SHORTER_MS = 3
const ROUNDS = quick ? 5 : 100
/** Compile, and are not counted. */
const WARM_UP = 3
const GOAL_MS = 50
const TOKENS = 4_000
const PROMPT = [7, 1, 12, 3]

const base = createTinyWeights({ seed: 1 })
const weights = {
  ...base,
  bigram: base.bigram.map((value, index) => (index % base.vocabularySize === EOS ? -100 : value)),
}

async function fleet(stepMs = STEP_MS) {
  const engines = await Promise.all(
    Array.from({ length: ENGINES }, (_, seed) =>
      startEmbeddedEngine({
        profile: 'sglang',
        capacity: SLOTS,
        stepMs: stepMs - (stepMs === STEP_MS ? SHORTER_MS * seed : 0),
        perSequenceMs: 0,
        seed,
        weights,
        incremental: true,
        weightVersion: '0',
      }),
    ),
  )
  const supervisor = createSupervisor({
    instances: engines.map(({ url }) => ({ url, engine: 'sglang', vocabularySize: weights.vocabularySize })),
  })
  await supervisor.start()
  return {
    engines,
    supervisor,
    running: () => engines.reduce((sum, { counters }) => sum + counters.running + counters.waiting, 0),
    generated: () => engines.reduce((sum, { counters }) => sum + counters.tokensGenerated, 0),
    async close() {
      await supervisor.close()
      await Promise.all(engines.map((engine) => engine.close()))
    },
  }
}

/** @param {number} ms */
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
let state = 12_345
/** After some steps, by which the engines are apart. */
function anyMoment() {
  state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
  return STEP_MS * (4 + state / 2 ** 32)
}
/** @param {() => boolean} isTrue */
async function until(isTrue) {
  while (!isTrue()) await sleep(1)
}

/** @param {readonly number[]} values @param {number} share */
function percentile(values, share) {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN
}

async function latencies() {
  const { supervisor, running, close } = await fleet()
  /** @type {{ evaluation: number[], abort: number[], reopen: number[], timer: number[] }} */
  const found = { evaluation: [], abort: [], reopen: [], timer: [] }
  let isOver = false
  const timing = (async () => {
    while (!isOver) {
      const before = performance.now()
      await sleep(1)
      found.timer.push(performance.now() - before - 1)
    }
  })()
  const fill = () => {
    while (supervisor.getSnapshot().conservation.waiting < ENGINES * SLOTS)
      supervisor.submit({ prompt: PROMPT, samples: 16, sampling: { maxTokens: TOKENS } })
  }
  for (let round = 0; round < WARM_UP + ROUNDS; round++) {
    if (round === WARM_UP) for (const list of Object.values(found)) list.length = 0
    fill()
    await until(() => running() === ENGINES * SLOTS)
    await sleep(anyMoment())
    let before = performance.now()
    const groups = await supervisor.evaluate([{ prompt: PROMPT, samples: 16, sampling: { maxTokens: 2 } }])
    const firsts = groups.flatMap(({ completions }) => completions.flatMap(({ segments }) => segments))
    found.evaluation.push(
      Math.min(...firsts.map(({ firstTokenAt }) => firstTokenAt ?? Number.POSITIVE_INFINITY)) - before,
    )

    await until(() => running() === ENGINES * SLOTS)
    await sleep(anyMoment())
    before = performance.now()
    const paused = supervisor.pause({ mode: 'abort' })
    await until(() => running() === 0)
    found.abort.push(performance.now() - before)
    await paused
    before = performance.now()
    const resumed = supervisor.resume()
    await until(() => running() === ENGINES * SLOTS)
    found.reopen.push(performance.now() - before)
    await resumed
  }
  isOver = true
  await timing
  await close()
  return found
}

/** @typedef {Awaited<ReturnType<typeof fleet>>} Fleet */
/** @param {string} folder */
function ways(folder) {
  /** @param {'abort' | 'restart' | 'keep' | 'drain'} mode @param {object} [rest] */
  const update =
    (mode, rest = {}) =>
    async (/** @type {Fleet} */ { supervisor }) =>
      supervisor.updateWeights({ version: 1, mode, path: folder, ...rest })
  /** @param {'resume' | 'restart'} interrupt */
  const evaluation =
    (interrupt) =>
    async (/** @type {Fleet} */ { supervisor }) =>
      supervisor.evaluate([{ prompt: PROMPT, samples: 64, sampling: { maxTokens: 4 } }], { interrupt })
  /** @param {'abort' | 'keep'} mode */
  const pause =
    (mode) =>
    async (/** @type {Fleet} */ { supervisor }) => {
      await supervisor.pause({ mode })
      await supervisor.resume()
    }
  return {
    'update abort': update('abort'),
    'update abort, 2 at a time': update('abort', { rolling: 2 }),
    'update keep': update('keep'),
    'update restart': update('restart'),
    'update drain': update('drain'),
    'evaluation resume': evaluation('resume'),
    'evaluation restart': evaluation('restart'),
    'pause abort': pause('abort'),
    'pause keep': pause('keep'),
  }
}

/** One interruption of a full fleet in the middle of samples of 60 tokens. @param {(fleet: Fleet) => Promise<unknown>} interrupt */
async function waste(interrupt) {
  const all = await fleet(10)
  const { supervisor, running, generated, close } = all
  let [kept, interrupted, dropped] = [0, 0, 0]
  supervisor.completions$.subscribe(({ tokenIds, segments }) => {
    kept += tokenIds.length
    for (const segment of segments) {
      if (segment.reason !== 'interrupted') continue
      interrupted += 1
      dropped += segment.dropped ?? 0
    }
  })
  for (let index = 0; index < ENGINES; index++)
    supervisor.submit({ prompt: PROMPT, samples: SLOTS, sampling: { maxTokens: 60 } })
  await until(() => running() === ENGINES * SLOTS && generated() > ENGINES * SLOTS * 30)
  await interrupt(all)
  await supervisor.drainAll()
  const wasted = generated() - kept
  await close()
  return { interrupted, dropped, wasted, beyond: wasted - dropped, tokens: kept }
}

const folder = await mkdtemp(join(tmpdir(), 'rollout-supervisor-bench-'))
await saveWeights(folder, weights)
const found = await latencies()
/** @type {Record<string, Awaited<ReturnType<typeof waste>>>} */
const wastes = {}
for (const [name, interrupt] of Object.entries(ways(folder))) wastes[name] = await waste(interrupt)
await rm(folder, { recursive: true, force: true })

console.log(describeMachine())
const labels = {
  evaluation: 'evaluation asked for to its first token',
  abort: 'abort to the servers at 0',
  reopen: 'reopened to all slots full',
  timer: 'timer of 1 ms, how late',
}
const rows = Object.entries(labels).map(([name, label]) => {
  const values = found[/** @type {keyof typeof found} */ (name)]
  return {
    name,
    label,
    count: values.length,
    p50: percentile(values, 0.5),
    p90: percentile(values, 0.9),
    p99: percentile(values, 0.99),
  }
})
table(
  `${ENGINES} full engines of ${SLOTS} slots, a step of ${STEP_MS} ms, ms; the goal is a p99 of ${GOAL_MS + STEP_MS}`,
  ['what', 'times', 'p50', 'p90', 'p99'],
  rows.map(({ label, count, p50, p90, p99 }) => [label, format(count, 0), format(p50), format(p90), format(p99)]),
)
table(
  `waste of one interruption of ${ENGINES * SLOTS} samples`,
  ['way', 'interrupted', 'tokens thrown away', 'of them again from the start', 'others, a sample'],
  Object.entries(wastes).map(([name, { interrupted, wasted, dropped, beyond }]) => [
    name,
    format(interrupted, 0),
    format(wasted, 0),
    format(dropped, 0),
    interrupted === 0 ? '-' : format(beyond / interrupted, 2),
  ]),
)
save('interruptions', {
  engines: ENGINES,
  slots: SLOTS,
  stepMs: STEP_MS,
  rounds: ROUNDS,
  goalMs: GOAL_MS + STEP_MS,
  latencies: rows,
  wastes,
})
