/**
 * What waking costs, and how long a large fleet takes to start and to close: the real supervisor on simulated servers.
 *
 *     wake    200 samples over 2 slots: placement steps a sample
 *     fleet   1,000 instances: from start() to ready, and close() with every slot of the fleet in use
 *
 * usage: node test/bench/fleet.mjs [--quick]
 */
import { createSupervisor } from '../../dist/src/index.js'
import { createVirtualClock, simulateServer } from '../../dist/src/testing/index.js'
import { describeMachine, format, formatSpread, interleave, quick, save, spread, table } from './harness.mjs'

const ROUNDS = quick ? 1 : 5
const INSTANCES = 1_000
const SLOTS = 8

/** @param {number} instances @param {number} capacity */
function build(instances, capacity) {
  const clock = createVirtualClock()
  const servers = Array.from({ length: instances }, (_, index) =>
    simulateServer(clock, { id: `instance-${index}`, capacity }),
  )
  const supervisor = createSupervisor({
    clock,
    instances: servers.map(({ id, url, engine }) => ({ id, url, engine })),
  })
  return { clock, supervisor }
}

async function wake() {
  const { clock, supervisor } = build(1, 2)
  await clock.run(supervisor.start())
  const before = supervisor.getSnapshot().placementSteps
  for (let index = 0; index < 200; index++) supervisor.submit({ prompt: [index, 10] })
  await clock.run(supervisor.drainAll())
  const steps = supervisor.getSnapshot().placementSteps - before
  await clock.run(supervisor.close())
  return steps / 200
}

async function startAndClose() {
  const times = { create: 0, start: 0, close: 0 }
  /**
   * @template T
   * @param {keyof times} name
   * @param {() => T | Promise<T>} work
   */
  const timed = async (name, work) => {
    const before = performance.now()
    const value = await work()
    times[name] = performance.now() - before
    return value
  }
  const { clock, supervisor } = await timed('create', () => build(INSTANCES, SLOTS))
  await timed('start', () => clock.run(supervisor.start()))
  for (let index = 0; index < INSTANCES * SLOTS; index++) supervisor.submit({ prompt: [index, 1_000] })
  if (supervisor.getSnapshot().conservation.running !== INSTANCES * SLOTS) throw new Error('the fleet is not full')
  await clock.advance(20)
  await timed('close', () => clock.run(supervisor.close()))
  return times
}

const steps = await wake()
const found = await interleave({ fleet: startAndClose }, ROUNDS)
const times = {
  create: spread(found.fleet.map(({ value }) => value.create)),
  start: spread(found.fleet.map(({ value }) => value.start)),
  close: spread(found.fleet.map(({ value }) => value.close)),
}
console.log(describeMachine())
table('wake: 200 samples over 2 slots', ['placement steps a sample', 'target'], [[format(steps, 2), 'at most 2']])
table(
  `fleet of ${format(INSTANCES, 0)} simulated instances, ms, median (min to max) of ${ROUNDS} rounds`,
  ['what', 'ms', 'target'],
  [
    ['createSupervisor', formatSpread(times.create), '-'],
    ['start() to ready', formatSpread(times.start), 'under 2,000'],
    [`close() with ${format(INSTANCES * SLOTS, 0)} samples running`, formatSpread(times.close), 'under 2,000'],
  ],
)
save('fleet', { target: { steps: 2, startMs: 2_000, closeMs: 2_000 }, stepsPerSample: steps, times })
