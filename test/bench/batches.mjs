/**
 * Streams of batches under the virtual clock: 100,000 groups of 16 through `batches()`, with the time and the memory they take; and a trainer
 * that is much slower than the fleet, for an hour, with what is buffered meanwhile.
 *
 * The servers answer every request that they have at once, each 10 ms, so that the clock costs next to nothing and what is measured is
 * the supervisor.
 *
 * usage: node --expose-gc test/bench/batches.mjs [--quick]
 */
import { createSupervisor } from '../../dist/src/index.js'
import { createVirtualClock } from '../../dist/src/testing/index.js'
import { describeMachine, format, quick, save, table } from './harness.mjs'
import { instantEngine } from './instant-driver.mjs'

/** @typedef {import('../../dist/src/index.js').Batch<number>} NumberedBatch */

const GROUPS = quick ? 5_000 : 100_000
const SAMPLES = 16
const SIZE = 64
const INSTANCES = 64
const TOKENS = 32
const WAVE_MS = 10
const prompt = Array.from({ length: 64 }, (_, index) => index)
const sampling = { maxTokens: TOKENS }

/** Instances whose requests are all answered by the next wave. @param {import('../../dist/src/testing/index.js').VirtualClock} clock */
function waveFleet(clock) {
  const instant = instantEngine(TOKENS)
  /** @type {(() => void)[]} */
  let waiting = []
  const wave = () => {
    const answered = waiting
    waiting = []
    for (const answer of answered) answer()
  }
  /** @returns {import('../../dist/src/engines/driver.js').EngineDriver} */
  const engine = () => {
    const driver = /** @type {import('../../dist/src/engines/driver.js').EngineDriver} */ (
      /** @type {unknown} */ (instant())
    )
    return {
      ...driver,
      generate(request, signal) {
        const answers = driver.generate(request, signal)[Symbol.asyncIterator]()
        let isFirst = true
        return {
          [Symbol.asyncIterator]: () => ({
            next() {
              if (!isFirst) return answers.next()
              isFirst = false
              if (waiting.length === 0) clock.setTimeout(wave, WAVE_MS)
              return new Promise((resolve) => waiting.push(() => resolve(answers.next())))
            },
          }),
        }
      },
    }
  }
  return Array.from({ length: INSTANCES }, (_, index) => ({
    id: `instance-${index}`,
    url: `http://wave-${index}`,
    engine,
  }))
}

function* numbered(count = Number.POSITIVE_INFINITY) {
  for (let meta = 0; meta < count; meta++) yield { prompt, samples: SAMPLES, sampling, meta }
}

function heapMiB() {
  globalThis.gc?.()
  globalThis.gc?.()
  const { heapUsed, arrayBuffers } = process.memoryUsage()
  return (heapUsed + arrayBuffers) / 2 ** 20
}

async function many() {
  const clock = createVirtualClock()
  const supervisor = createSupervisor({ clock, instances: waveFleet(clock) })
  await clock.run(supervisor.start())
  const looks = 10
  const every = Math.ceil(GROUPS / SIZE / looks)
  /** @type {number[]} */
  const memory = []
  let groups = 0
  const cpu = process.cpuUsage()
  const startedAt = performance.now()
  let lookedMs = 0
  const read = async () => {
    for await (const batch of supervisor.batches(numbered(GROUPS), {
      size: SIZE,
      maxStaleness: 1,
      accept: () => true,
    })) {
      groups += batch.groups.length
      if (batch.index % every !== every - 1) continue
      const before = performance.now()
      memory.push(heapMiB())
      lookedMs += performance.now() - before
    }
  }
  await clock.run(read())
  const { user, system } = process.cpuUsage(cpu)
  const wallMs = performance.now() - startedAt
  await clock.run(supervisor.close())
  if (groups !== GROUPS) throw new Error(`${groups} of ${GROUPS} groups came out`)
  const samples = GROUPS * SAMPLES
  return {
    groups,
    samples,
    cpuUsPerSample: ((user + system) / 1000 - lookedMs) * (1000 / samples),
    wallUsPerSample: ((wallMs - lookedMs) * 1000) / samples,
    memoryMiB: memory,
  }
}

async function slowTrainer() {
  const clock = createVirtualClock()
  const supervisor = createSupervisor({ clock, instances: waveFleet(clock) })
  await clock.run(supervisor.start())
  const maxStaleness = 2
  const stepMs = 60_000
  let drawn = 0
  let mostBuffered = 0
  let expected = 0
  const source = (function* () {
    for (const task of numbered()) {
      drawn++
      yield task
    }
  })()
  const look = () => {
    for (const { groups } of supervisor.getSnapshot().batches)
      mostBuffered = Math.max(mostBuffered, groups.ready + groups.deciding + groups.running + groups.waiting)
  }
  supervisor.groups$.subscribe(look)
  const train = async () => {
    const options = /** @type {const} */ ({ size: SIZE, maxStaleness, order: 'source' })
    for await (const batch of supervisor.batches(source, options)) {
      for (const { meta } of batch.groups) if (meta !== expected++) throw new Error(`group ${meta} came out of turn`)
      await new Promise((resolve) => void clock.setTimeout(() => resolve(null), stepMs))
      if (clock.now() >= 3_600_000) break
    }
  }
  await clock.run(train())
  const hours = clock.now() / 3_600_000
  await clock.run(supervisor.close())
  return { hours, batches: expected / SIZE, delivered: expected, drawn, mostBuffered, bound: (maxStaleness + 1) * SIZE }
}

const throughput = await many()
const slow = await slowTrainer()
const { memoryMiB } = throughput
console.log(describeMachine())
table(
  `batches: ${format(GROUPS, 0)} groups of ${SAMPLES} in batches of ${SIZE}, ${INSTANCES} instances of 8 slots, ${TOKENS} tokens a sample, virtual time (target: under 60 us a sample, flat memory)`,
  ['CPU us a sample', 'wall us a sample', 'MiB after each tenth'],
  [
    [
      format(throughput.cpuUsPerSample),
      format(throughput.wallUsPerSample),
      memoryMiB.map((mib) => format(mib)).join(', '),
    ],
  ],
)
table(
  `a trainer of 60 s a batch before a fleet that needs 0.03 s, staleness 2, ${format(slow.hours)} h of virtual time`,
  ['batches', 'groups handed out, in order', 'drawn from the source', 'buffered or running at most', 'bound'],
  [[slow.batches, slow.delivered, slow.drawn, slow.mostBuffered, slow.bound].map((value) => format(value, 0))],
)
save('batches', { target: { cpuUs: 60 }, throughput, slow })
if (slow.mostBuffered > slow.bound || slow.drawn - slow.delivered > slow.bound) process.exitCode = 1
