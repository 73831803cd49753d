/**
 * The whole life of a sample through the real supervisor and its machines, without HTTP and without inspector: submitted,
 * queued, placed, its tokens received, completed, its group closed, its slot given back. While it is measured 100,000
 * samples wait: each completion submits the next task. Beside it, in the same rounds, the floor: what the machine events of such a
 * life cost when they are sent to bare machines.
 *
 * Then, in runs of their own: machine events a sample, counted by an inspector, and the heap of a waiting sample.
 *
 * usage: node --expose-gc test/bench/sample-life.mjs [--quick]
 */
import { createActor } from 'xstate'
import { supervisorMachine } from '../../dist/machines/index.js'
import { createSupervisor } from '../../dist/src/index.js'
import { describeMachine, format, formatSpread, interleave, quick, save, spread, table } from './harness.mjs'
import { instantFleet } from './instant-driver.mjs'

const WAITING = quick ? 10_000 : 100_000
const LIVES = quick ? 5_000 : 30_000
const ROUNDS = quick ? 1 : 5
const TOKENS = 100
const prompt = Array.from({ length: 256 }, (_, index) => index)
const task = { prompt, sampling: { maxTokens: TOKENS } }

function reading() {
  const { user, system } = process.cpuUsage()
  return { cpuUs: user + system, wallUs: performance.now() * 1000 }
}

/** @param {ReturnType<typeof reading>} from @param {number} count */
function since(from, count) {
  const to = reading()
  return { cpuUs: (to.cpuUs - from.cpuUs) / count, wallUs: (to.wallUs - from.wallUs) / count }
}

/**
 * Fills the fleet and the queue, then submits one task for each completion; answers what a sample took.
 * @param {number} instances
 */
async function lives(instances) {
  const supervisor = createSupervisor({ instances: instantFleet(instances, TOKENS) })
  await supervisor.start()
  const warmUp = LIVES / 5
  let ended = 0
  let before = reading()
  /** @type {ReturnType<typeof since> | null} */
  let found = null
  await new Promise((resolve) => {
    supervisor.completions$.subscribe(() => {
      if (++ended === warmUp) before = reading()
      if (ended < warmUp + LIVES) supervisor.submit(task)
      else if (found === null) {
        found = since(before, LIVES)
        resolve(null)
      }
    })
    for (let index = 0; index < WAITING + instances * 8; index++) supervisor.submit(task)
  })
  await supervisor.close()
  return /** @type {ReturnType<typeof since>} */ (/** @type {unknown} */ (found))
}

/** slot.freed and lease.passed, sent to machines with nothing around them. */
function bareEvents() {
  const run = createActor(supervisorMachine).start()
  const breaker = { failures: 3, resetMs: 1_000, maxResetMs: 60_000 }
  const ids = Array.from({ length: 64 }, (_, index) => `instance-${index}`)
  run.send({ type: 'instances.added', instances: ids.map((id) => ({ id, capacity: 8, breaker })) })
  run.send({ type: 'fleet.ready' })
  const { children } = run.getSnapshot()
  const servers = ids.flatMap((id) => children[id] ?? [])
  for (const server of servers) {
    server.send({ type: 'probe.succeeded', capacity: 8, weightVersion: null, expected: null })
    for (let slot = 0; slot < 8; slot++) server.send({ type: 'lease.granted' })
  }
  const send = (/** @type {number} */ count) => {
    for (let index = 0; index < count; index++) {
      const server = servers[index % servers.length]
      run.send({ type: 'slot.freed' })
      if (server?.getSnapshot().can({ type: 'lease.passed' })) server.send({ type: 'lease.passed' })
    }
  }
  send(LIVES / 5)
  const before = reading()
  send(LIVES)
  return since(before, LIVES)
}

/** Machine events a sample: one sample at a time in an idle fleet, and many waiting. */
async function eventsPerSample() {
  /** @type {Map<string, number>} */
  const byType = new Map()
  const supervisor = createSupervisor({
    instances: instantFleet(64, TOKENS),
    inspect(event) {
      if (event.type === '@xstate.event') byType.set(event.event.type, (byType.get(event.event.type) ?? 0) + 1)
    },
  })
  await supervisor.start()
  const found = []
  for (const { load, atOnce, rounds } of [
    { load: 'one at a time', atOnce: 1, rounds: 100 },
    { load: '10,000 at once', atOnce: 10_000, rounds: 1 },
  ]) {
    byType.clear()
    for (let round = 0; round < rounds; round++) {
      for (let index = 0; index < atOnce; index++) supervisor.submit(task)
      await supervisor.drainAll()
    }
    const events = [...byType.values()].reduce((sum, count) => sum + count, 0)
    found.push({ load, perSample: events / (atOnce * rounds), byType: Object.fromEntries(byType) })
  }
  await supervisor.close()
  return found
}

/**
 * Bytes of heap and buffers that a waiting sample adds, its prompt array being shared by all.
 * @param {boolean} keepHandles
 */
async function bytesPerSample(keepHandles) {
  const { gc } = globalThis
  if (gc === undefined) throw new Error('run it with node --expose-gc')
  const count = 100_000
  const supervisor = createSupervisor({ instances: instantFleet(1, TOKENS) })
  const handles = keepHandles ? new Array(count) : null
  const used = () => {
    gc()
    gc()
    const { heapUsed, arrayBuffers } = process.memoryUsage()
    return heapUsed + arrayBuffers
  }
  for (let index = 0; index < 1_000; index++) supervisor.submit(task)
  const before = used()
  for (let index = 0; index < count; index++) {
    const rollout = supervisor.submit(task)
    if (handles !== null) handles[index] = rollout
  }
  const bytes = (used() - before) / count
  await supervisor.close()
  return bytes
}

const bytes = { handleDropped: await bytesPerSample(false), handleKept: await bytesPerSample(true) }
const found = await interleave(
  {
    'supervisor, 64 instances': () => lives(64),
    'supervisor, 1,000 instances': () => lives(1_000),
    'floor: its events to bare machines': bareEvents,
  },
  ROUNDS,
)
const rows = Object.entries(found).map(([what, rounds]) => ({
  what,
  cpuUs: spread(rounds.map(({ value }) => value.cpuUs)),
  wallUs: spread(rounds.map(({ value }) => value.wallUs)),
}))
const events = await eventsPerSample()

console.log(describeMachine())
table(
  `sample-life: ${format(WAITING, 0)} waiting, ${TOKENS} tokens a sample; microseconds a sample, median (min to max) of ${ROUNDS} interleaved rounds (target: at most 40)`,
  ['what', 'CPU', 'wall'],
  rows.map((row) => [row.what, formatSpread(row.cpuUs), formatSpread(row.wallUs)]),
)
table(
  'machine events a sample (target: at most 4)',
  ['load', 'events', 'which'],
  events.map(({ load, perSample, byType }) => [
    load,
    format(perSample, 2),
    Object.entries(byType)
      .map(([type, count]) => `${type} ${format(count, 0)}`)
      .join(', '),
  ]),
)
table(
  'heap of a waiting sample beside its prompt (target: under 1,000 bytes)',
  ['what', 'bytes'],
  [
    ['task of one sample, handle dropped', format(bytes.handleDropped, 0)],
    ['task of one sample, handle kept', format(bytes.handleKept, 0)],
  ],
)
save('sample-life', { target: { cpuUs: 40, events: 4, bytes: 1_000 }, rows, events, bytes })
