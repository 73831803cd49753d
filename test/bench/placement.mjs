/**
 * Choose a slot and release one, by policy and ledger alone: no machines, no HTTP. One decision is pick + grant + release,
 * with the policy told of both changes.
 *
 *     half full   half of all slots are held; each decision gives back a random one and grants one
 *     full        no slot is free but the one just given back, as in a saturated run
 *     + queue     full, and the sample comes from the head of a queue of 1,000,000 and returns to its tail
 *
 * usage: node test/bench/placement.mjs [--quick]
 */
import { Bench } from 'tinybench'
import { createLedger } from '../../dist/src/rollout/ledger.js'
import { leastRequest } from '../../dist/src/scheduling/least-request.js'
import { createQueue } from '../../dist/src/scheduling/queue.js'
import { roundRobin } from '../../dist/src/scheduling/round-robin.js'
import { describeMachine, format, quick, save, spread, table } from './harness.mjs'

/** @typedef {import('../../dist/src/scheduling/policy.js').PlacementPolicy} PlacementPolicy */
/** @typedef {import('../../dist/src/rollout/waiter.js').Waiter} Waiter */
/** @typedef {import('../../dist/src/scheduling/queue.js').Queue<Waiter>} WaiterQueue */

const FLEETS = [8, 64, 1_024, 10_000]
const SLOTS = 8
const QUEUED = 1_000_000
/** Decisions between two readings of the clock. */
const BATCH = 2_000
const ROUNDS = quick ? 1 : 7
/** Tasks a second of the predecessor (Python, asyncio) by instances: issue 3, section Numbers. */
const PREDECESSOR = new Map([
  [8, 21_800],
  [64, 9_900],
  [1_024, 3_300],
])
/** @type {import('../../dist/src/scheduling/policy.js').Placeable} */
const SAMPLE = { taskId: 'task', sample: 0, kind: 'rollout', priority: 0, resumedTokens: 0, preferred: null }

/**
 * Makes BATCH decisions on a fleet of its own. Slots are given back at random, but in order of granting for the strict order, which
 * would otherwise wait for one server: that is what it does.
 * @param {PlacementPolicy} policy
 * @param {number} instances
 * @param {{ share: number, inOrder?: boolean, queue?: WaiterQueue }} load
 */
function decisions(policy, instances, { share, inOrder = false, queue }) {
  const ledger = createLedger((account) => policy.changed(account))
  for (let index = 0; index < instances; index++) {
    policy.add(ledger.add(`instance-${index}`, 1))
    ledger.setLimit(`instance-${index}`, SLOTS)
  }
  const grant = () => ledger.grant(policy.pick(SAMPLE) ?? '').id
  const held = Array.from({ length: Math.floor(instances * SLOTS * share) }, grant)
  let random = 1
  let next = -1
  return () => {
    for (let count = 0; count < BATCH; count++) {
      random = (Math.imul(random, 1_664_525) + 1_013_904_223) >>> 0
      next = next + 1 === held.length ? 0 : next + 1
      const at = inOrder ? next : random % held.length
      ledger.release(held[at] ?? -1)
      const waiter = queue?.peek(false) ?? null
      if (waiter !== null) queue?.remove(waiter)
      held[at] = grant()
      if (waiter !== null) queue?.add(waiter, 'fresh')
    }
  }
}

const queue = /** @type {WaiterQueue} */ (createQueue())
for (let index = 0; index < QUEUED; index++)
  queue.add({ priority: 0, order: 0, track: 0, lane: null, before: null, after: null }, 'fresh')

const cases = FLEETS.flatMap((instances) => [
  { instances, load: 'half full', run: decisions(leastRequest(), instances, { share: 0.5 }) },
  { instances, load: 'full', run: decisions(leastRequest(), instances, { share: 1 }) },
  { instances, load: 'full, + queue', run: decisions(leastRequest(), instances, { share: 1, queue }) },
  { instances, load: 'round-robin, full', run: decisions(roundRobin(), instances, { share: 1 }) },
  {
    instances,
    load: 'strict round-robin, full',
    run: decisions(roundRobin({ strict: true }), instances, { share: 1, inOrder: true }),
  },
])

/** @type {number[][]} */
const medians = cases.map(() => [])
/** @type {number[]} */
const best = cases.map(() => 0)
for (let round = 0; round <= ROUNDS; round++) {
  const bench = new Bench({ time: quick ? 20 : 150, warmupTime: round === 0 ? 100 : 10 })
  for (const [index, { run }] of cases.entries()) bench.add(String(index), run)
  await bench.run()
  if (round === 0) continue
  for (const { name, result } of bench.tasks) {
    if (!('latency' in result)) throw new Error(`case ${name} failed`)
    const index = Number(name)
    medians[index]?.push((BATCH / result.latency.p50) * 1000)
    best[index] = Math.max(best[index] ?? 0, (BATCH / result.latency.min) * 1000)
  }
}

const rows = cases.map(({ instances, load }, index) => ({
  instances,
  load: load.includes('round-robin') ? load : `least-request, ${load}`,
  ...spread(medians[index] ?? []),
  best: best[index] ?? 0,
}))
console.log(describeMachine())
table(
  `placement: decisions a second; median batch of each of ${ROUNDS} interleaved rounds (target: at least 1,000,000)`,
  ['instances', 'policy and load', 'median', 'slowest round', 'fastest round', 'fastest batch', 'predecessor (Python)'],
  rows.map((row) => [
    format(row.instances, 0),
    row.load,
    format(row.median, 0),
    format(row.min, 0),
    format(row.max, 0),
    format(row.best, 0),
    PREDECESSOR.has(row.instances) ? format(PREDECESSOR.get(row.instances) ?? 0, 0) : '-',
  ]),
)
save('placement', { unit: 'decisions per second', target: 1_000_000, predecessor: [...PREDECESSOR], rows })
