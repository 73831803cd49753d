/**
 * What a weight update costs, under the virtual clock, in the same figures on any machine: the slot time that a full fleet loses to one update, as
 * a fraction of a step, for each mode, all instances together and rolling, for short and for long samples.
 *
 *     lost = slots x time - tokens that samples keep x time of a token, over a run of steps with an update at the end of each
 *
 * so a slot that is idle counts, and so does one that computes again what a restart threw away. Servers load in 2 s. They take no time for a
 * prompt: what it costs to compute the KV of resumed samples anew is not in the table.
 *
 * usage: node test/bench/update-cost.mjs [--quick]
 */
import { createSupervisor } from '../../dist/src/index.js'
import { createVirtualClock, simulateServer } from '../../dist/src/testing/index.js'
import { describeMachine, format, quick, save, table } from './harness.mjs'

const INSTANCES = 8
const SLOTS = 16
const TOKEN_MS = 10
const LOAD_MS = 2_000
const STEPS = quick ? 1 : 4
/** A step has 30 times the median sample, and the longest samples have 16 times. */
const STEP_MEDIANS = 30
const TAIL = 16
const WORKLOADS = [
  { name: 'short', median: 200 },
  { name: 'long', median: 2_000 },
]

/** @typedef {import('../../dist/src/index.js').UpdateMode} UpdateMode */
/** @type {readonly { readonly name: string, readonly mode: UpdateMode | null, readonly rolling?: number }[]} */
const WAYS = [
  { name: 'no update', mode: null },
  { name: 'keep', mode: 'keep' },
  { name: 'abort', mode: 'abort' },
  { name: 'restart', mode: 'restart' },
  { name: 'drain', mode: 'drain' },
  { name: 'keep, 1 at a time', mode: 'keep', rolling: 1 },
  { name: 'abort, 1 at a time', mode: 'abort', rolling: 1 },
  { name: 'abort, 2 at a time', mode: 'abort', rolling: 2 },
  { name: 'restart, 1 at a time', mode: 'restart', rolling: 1 },
  { name: 'drain, 1 at a time', mode: 'drain', rolling: 1 },
]

/** A generator that anybody can write down: the same lengths for every way. @param {number} seed */
function createRandom(seed) {
  let state = seed
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32
  }
}

/** Log-normal, cut at the tail. @param {() => number} random @param {number} median */
function drawLength(random, median) {
  const normal = Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())
  return Math.max(1, Math.round(median * Math.min(TAIL, Math.exp(normal))))
}

/** @param {(typeof WAYS)[number]} way @param {number} median */
async function measure({ mode, rolling }, median) {
  const clock = createVirtualClock()
  const random = createRandom(7)
  const servers = Array.from({ length: INSTANCES }, (_, index) =>
    simulateServer(clock, { id: `instance-${index}`, capacity: SLOTS, tokenMs: TOKEN_MS, loadMs: LOAD_MS }),
  )
  const supervisor = createSupervisor({
    clock,
    instances: servers.map(({ id, url, engine }) => ({ id, url, engine })),
  })
  await clock.run(supervisor.start())
  let key = 0
  const submit = () => {
    const maxTokens = drawLength(random, median)
    supervisor.submit({ prompt: [++key, maxTokens], sampling: { maxTokens } })
  }
  supervisor.completions$.subscribe(({ outcome }) => {
    if (outcome === 'completed') submit()
  })
  // Twice the fleet, so that no slot is ever free for want of work.
  for (let index = 0; index < 2 * INSTANCES * SLOTS; index++) submit()
  const stepMs = STEP_MEDIANS * median * TOKEN_MS
  const beganAt = clock.now()
  let [interrupted, wastedTokens, tookMs] = [0, 0, 0]
  for (let step = 1; step <= STEPS; step++) {
    // One that takes longer than a step makes the next one late.
    await clock.advance(Math.max(0, beganAt + step * stepMs - clock.now()))
    if (mode === null) continue
    const askedAt = clock.now()
    const rest = rolling === undefined ? {} : { rolling }
    const done = await clock.run(supervisor.updateWeights({ version: step, mode, path: '/weights', ...rest }))
    tookMs += clock.now() - askedAt
    interrupted += done.interrupted
    wastedTokens += done.wastedTokens
  }
  await clock.advance(stepMs)
  const elapsedMs = clock.now() - beganAt
  // Ends every stream where it is, so that the servers have counted every token.
  await clock.run(supervisor.pause({ mode: 'abort' }))
  const generated = servers.reduce((sum, server) => sum + server.generated, 0)
  await clock.run(supervisor.close())
  const lostMs = INSTANCES * SLOTS * elapsedMs - (generated - wastedTokens) * TOKEN_MS
  return {
    lostShare: lostMs / STEPS / (INSTANCES * SLOTS * stepMs),
    tookMs: tookMs / STEPS,
    interrupted: interrupted / STEPS,
    wastedTokens: wastedTokens / STEPS,
  }
}

console.log(describeMachine())
const results = []
for (const { name, median } of WORKLOADS) {
  const rows = []
  for (const way of WAYS) rows.push({ way: way.name, ...(await measure(way, median)) })
  rows.sort((a, b) => a.lostShare - b.lostShare)
  results.push({ workload: name, median, stepMs: STEP_MEDIANS * median * TOKEN_MS, rows })
  table(
    `${name} samples: median ${format((median * TOKEN_MS) / 1_000, 0)} s, step ${format((STEP_MEDIANS * median * TOKEN_MS) / 1_000, 0)} s; a step's update, best first`,
    ['mode', 'slot time lost, of a step', 'update takes, s', 'interrupted', 'tokens wasted'],
    rows.map((row) => [
      row.way,
      `${format(100 * row.lostShare, 2)} %`,
      format(row.tookMs / 1_000, 1),
      format(row.interrupted, 0),
      format(row.wastedTokens, 0),
    ]),
  )
}
save('update-cost', { instances: INSTANCES, slots: SLOTS, tokenMs: TOKEN_MS, loadMs: LOAD_MS, steps: STEPS, results })
