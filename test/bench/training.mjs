/**
 * Ways of training side by side, on the same lengths: synchronous, synchronous with over-issue (the rest carried over, or cancelled), and
 * off-policy with a bound on staleness. First on recorded lengths under the virtual clock, then on embedded engines over HTTP in real time.
 *
 *     tokens/s   tokens that were trained on, by the time from the first batch asked for to the last one handed out
 *     busy       share of slot time under a lease, in the steady part: from the first batch handed out to the last
 *     wasted     tokens that were generated and never trained on, of all
 *
 * The fleet has slots for less than a sixth of a batch, and the trainer is faster than it: it takes half of the time that the slots need for
 * a batch. Weights change after each batch.
 *
 * usage: node test/bench/training.mjs [--quick] [--traces FOLDER | --http]   (--http: only over HTTP)
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createSupervisor, createTimeline } from '../../dist/src/index.js'
import {
  createTinyWeights,
  createVirtualClock,
  EOS,
  saveWeights,
  startEmbeddedEngine,
} from '../../dist/src/testing/index.js'
import { describeMachine, format, quick, save, table } from './harness.mjs'
import { workloads } from './lengths.mjs'
import { traceFleet } from './trace-engine.mjs'

const SIZE = 64
const SAMPLES = 16
const FLEET = { instances: 10, capacity: 16, tokenMs: 20, loadMs: 2_000 }
const STEPS = quick ? 4 : 12
const OVER_ISSUE = 1.25

/** @typedef {import('../../dist/src/index.js').Supervisor} Supervisor */
/** @typedef {import('../../dist/src/index.js').Group} Group */
/** @typedef {import('../../dist/src/index.js').Task} Task */
/**
 * @typedef {object} Stage where a way of training runs
 * @property {Supervisor} supervisor
 * @property {() => Task} task the next one of the data set
 * @property {(version: number) => Promise<void>} train takes the trainer's time, and brings new weights
 * @property {() => number} now
 * @property {() => number} generated
 * @property {number} size groups of a batch
 * @property {number} steps
 */
/** @typedef {{ readonly staleness?: number, readonly order?: 'source', readonly overIssue?: number, readonly rest?: 'carry' | 'cancel' }} Way */

/** @type {Record<string, Way>} */
const WAYS = {
  synchronous: {},
  'over-issue 1.25, cancel': { overIssue: OVER_ISSUE, rest: 'cancel' },
  'over-issue 1.25, carry': { overIssue: OVER_ISSUE, rest: 'carry' },
  'off-policy, staleness 0': { staleness: 0 },
  'off-policy, staleness 1': { staleness: 1 },
  'off-policy, staleness 2': { staleness: 2 },
  'staleness 1, in source order': { staleness: 1, order: 'source' },
}

/** Batches one after the other, each with the tokens in it by age. @param {Stage} stage @param {Way} way */
async function* batchesOf({ supervisor, task, size }, { staleness, order, overIssue = 1, rest = 'carry' }) {
  if (staleness !== undefined) {
    const source = (function* () {
      for (;;) yield task()
    })()
    for await (const batch of supervisor.batches(source, {
      size,
      maxStaleness: staleness,
      order: order ?? 'oldest-first',
    }))
      yield batch.staleness
    return
  }
  for (let step = 0; ; step++) {
    const count = Math.round(step === 0 || rest === 'cancel' ? size * overIssue : size)
    const groups = await supervisor.rollout(Array.from({ length: count }, task), { stopAfter: size, rest })
    yield agesOf(groups, supervisor.version)
  }
}

/** @param {readonly Group[]} groups @param {number | null} version */
function agesOf(groups, version) {
  /** @type {Record<number, number>} */
  const ages = {}
  for (const { versions } of groups.flatMap((group) => group.completions)) {
    for (const span of versions) {
      const age = (version ?? 0) - (span.version ?? 0)
      ages[age] = (ages[age] ?? 0) + span.end - span.start
    }
  }
  return ages
}

/** @param {Stage} stage @param {Way} way */
async function run(stage, way) {
  const { supervisor, now } = stage
  const startedAt = now()
  const timeline = createTimeline({ view: () => supervisor.getSnapshot(), startedAt })
  const recorded = supervisor.events$.subscribe((event) => timeline.observe(event))
  /** @type {Record<number, number>} */
  const ages = {}
  let steady = timeline.slotTime(startedAt)
  let step = 0
  for await (const batch of batchesOf(stage, way)) {
    for (const [age, tokens] of Object.entries(batch)) ages[Number(age)] = (ages[Number(age)] ?? 0) + tokens
    if (step === 0) steady = timeline.slotTime(now())
    step++
    if (step === stage.steps) break
    await stage.train(step)
  }
  const seconds = (now() - startedAt) / 1000
  const end = timeline.slotTime(now())
  recorded.unsubscribe()
  const trained = Object.values(ages).reduce((sum, tokens) => sum + tokens, 0)
  await supervisor.drainAll()
  return {
    tokensPerS: trained / seconds,
    busy: (end.busyMs - steady.busyMs) / (end.capacityMs - steady.capacityMs),
    wasted: 1 - trained / stage.generated(),
    ages,
  }
}

/** @param {readonly (readonly number[])[]} groups @param {Way} way */
async function onTrace(groups, way) {
  const clock = createVirtualClock()
  const fleet = traceFleet(clock, groups, FLEET)
  const { instances } = fleet
  // Tokens come with the end of a stream only: silence is no fault here.
  const supervisor = createSupervisor({ instances, clock, minInstances: FLEET.instances, watchdogMs: 1e9 })
  const mean = groups.flat().reduce((sum, length) => sum + length, 0) / groups.flat().length
  const batchMs = (SIZE * SAMPLES * mean * FLEET.tokenMs) / (FLEET.instances * FLEET.capacity)
  let number = 0
  /** @type {Stage} */
  const stage = {
    supervisor,
    task: () => ({ prompt: [number++], samples: SAMPLES, sampling: { maxTokens: 40_000 } }),
    async train(version) {
      await new Promise((resolve) => void clock.setTimeout(() => resolve(null), batchMs / 2))
      await supervisor.updateWeights({ version, mode: 'abort', path: '/weights' })
    },
    now: () => clock.now(),
    generated: () => fleet.generated,
    size: SIZE,
    steps: STEPS,
  }
  await clock.run(supervisor.start())
  const result = await clock.run(run(stage, way))
  await clock.run(supervisor.close())
  return result
}

const ENGINES = 4
const HTTP_SIZE = 16
const HTTP_CAPACITY = 8

/** @param {Way} way */
async function onHttp(way) {
  const engines = await Promise.all(
    Array.from({ length: ENGINES }, (_, seed) =>
      startEmbeddedEngine({
        seed,
        capacity: HTTP_CAPACITY,
        stepMs: 8,
        perSequenceMs: 0,
        weights: createTinyWeights({ seed: 1 }),
      }),
    ),
  )
  const supervisor = createSupervisor({ instances: engines.map(({ url }) => ({ url, engine: 'sglang' })) })
  await supervisor.start()
  const folder = mkdtempSync(join(tmpdir(), 'rollout-supervisor-bench-'))
  // The same weights under each version: what differs is when, not what.
  await saveWeights(folder, createTinyWeights({ seed: 1 }))
  let number = 0
  /** @type {Stage} */
  const stage = {
    supervisor,
    task: () => ({
      prompt: [number++ % 10],
      samples: SAMPLES,
      sampling: { maxTokens: 400, stopTokenIds: [EOS], seed: number },
    }),
    async train(version) {
      await new Promise((resolve) => setTimeout(resolve, 200))
      await supervisor.updateWeights({ version, mode: 'abort', path: folder })
    },
    now: () => performance.now(),
    generated: () => engines.reduce((sum, { counters }) => sum + counters.tokensGenerated, 0),
    size: HTTP_SIZE,
    steps: quick ? 3 : 10,
  }
  const result = await run(stage, way)
  await supervisor.close()
  await Promise.all(engines.map((engine) => engine.close()))
  rmSync(folder, { recursive: true, force: true })
  return result
}

/** @param {string} title @param {(way: Way) => ReturnType<typeof run>} measure */
async function compare(title, measure) {
  const rows = []
  for (const [name, way] of Object.entries(WAYS)) rows.push({ name, ...(await measure(way)) })
  const base = rows[0]?.tokensPerS ?? 1
  table(
    title,
    ['way', 'trained tokens/s', 'of synchronous', 'busy', 'wasted', 'tokens by age, %'],
    rows.map(({ name, tokensPerS, busy, wasted, ages }) => {
      const sum = Object.values(ages).reduce((total, tokens) => total + tokens, 0)
      const shares = Object.entries(ages).map(([age, tokens]) => `${age}: ${format((tokens / sum) * 100)}`)
      return [
        name,
        format(tokensPerS, 0),
        format(tokensPerS / base, 2),
        `${format(busy * 100)} %`,
        `${format(wasted * 100)} %`,
        shares.join(', '),
      ]
    }),
  )
  return rows
}

console.log(describeMachine())
/** @type {Record<string, Awaited<ReturnType<typeof compare>>>} */
const results = {}
for (const { name, groups } of process.argv.includes('--http') ? [] : workloads()) {
  const slots = FLEET.instances * FLEET.capacity
  const title = `training on ${name} lengths: ${STEPS} batches of ${SIZE} groups of ${SAMPLES}, ${slots} slots, ${FLEET.tokenMs} ms a token, virtual time`
  results[name] = await compare(title, (way) => onTrace(groups, way))
}
results.http = await compare(
  `training over HTTP: batches of ${HTTP_SIZE} groups of ${SAMPLES}, ${ENGINES} embedded engines of ${HTTP_CAPACITY} slots, real time`,
  onHttp,
)
save('training', {
  target: { busyOffPolicy1: 0.95 },
  fleet: FLEET,
  size: SIZE,
  samples: SAMPLES,
  steps: STEPS,
  results,
})
