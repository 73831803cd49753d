/**
 * Health, and the end of membership: instances are probed, open and close, and leave, while the run goes on (D9). Listens to what
 * the instance machines emit; the machines decide, this does the I/O they ask for and keeps the ledger in step.
 */
import { askDriver, type Probe } from '../engines/driver.ts'
import { messageOf, RolloutError, toRolloutError } from '../errors.ts'
import { waitAgain } from './again.ts'
import { bringUpToDate, isBehind } from './bring.ts'
import { detach } from './detach.ts'
import { expectedLabel } from './expected-label.ts'
import { isGateClosed } from './gate.ts'
import { blame, forgetRefusal } from './health.ts'
import { isOpenToProbes, lacksMemory, leaveOpen, takeMemoryBack } from './hold.ts'
import { type Instance, isMember, type Run } from './run.ts'
import { leftFault } from './steps.ts'
import { askNext } from './tokenize.ts'
import { forget, learn } from './tracks.ts'
import { wake } from './wake.ts'
import { moveOn } from './watch.ts'

/** Documented default for servers that report no limit (D1, decision 12): the common default of SGLang and vLLM fleets. */
const DEFAULT_CAPACITY: Readonly<Record<string, number>> = { sglang: 256, vllm: 256 }
/** For engines that are usually started with few slots. */
const DEFAULT_CAPACITY_OTHERS = 4

/** Does what its machine asks for, and keeps the books in step with it. */
export function listen(run: Run, instance: Instance): void {
  const { actor, id } = instance
  instance.driver.onHangUp?.(() => {
    instance.heardAt = Number.NEGATIVE_INFINITY
  })
  actor.on('opened', ({ limit }) => {
    forgetRefusal(run, instance)
    tellState(run, instance)
    if (isGateClosed(run, instance)) {
      actor.send({ type: 'gate.closed' })
      return
    }
    run.ledger.setLimit(id, limit)
    // Back with the weights of before an update that it was away for.
    if (isBehind(instance)) actor.send({ type: 'weights.lost' })
    // The machine is in the middle of its transition: asked now whether it takes work, it would answer only later.
    queueMicrotask(() => {
      wake(run, 'instance.opened')
      askNext(run)
      run.line.look()
    })
  })
  actor.on('closed', () => {
    forgetRefusal(run, instance)
    run.ledger.setLimit(id, 0)
    tellState(run, instance)
    // Prompts that it might have made into token ids may have to do without.
    queueMicrotask(() => askNext(run))
  })
  actor.on('probing', () => void probe(run, instance))
  actor.on('staled', () => {
    tellState(run, instance)
    void bringUpToDate(run, instance)
  })
  actor.on('left', () => left(run, instance))
}

function tellState(run: Run, instance: Instance): void {
  run.hub.changed()
  // The machine is in the middle of its transition: what it emits comes before its new snapshot.
  if (run.hub.listens(null)) {
    queueMicrotask(() => {
      if (run.hub.listens(null))
        run.hub.tell(
          { type: 'instance.state', at: run.clock.now(), instance: instance.id, state: stateOf(instance) },
          null,
        )
    })
  }
}

/** The state of its machine, joined by dots. */
export function stateOf(instance: Instance): string {
  let value: unknown = instance.actor.getSnapshot().value
  const path: string[] = []
  while (typeof value === 'object' && value !== null) {
    const [key, inner] = Object.entries(value)[0]!
    path.push(key)
    value = inner
  }
  path.push(String(value))
  return path.join('.')
}

/** Asks a server what it is, and tells its machine. Never rejects. */
export async function probe(run: Run, instance: Instance): Promise<void> {
  const { driver, spec, actor } = instance
  try {
    if (lacksMemory(run, instance)) await takeMemoryBack(instance)
    const found = await driver.probe()
    if (!isMember(run, instance)) return
    // What somebody here holds stays held.
    if (isOpenToProbes(run, instance)) {
      if (found.paused) {
        run.log.warn({ instance: instance.id }, 'the server was left paused; it is resumed')
        await driver.resume()
      }
      instance.held = null
      moveOn(run, instance)
      if (!isMember(run, instance)) return
    }
    instance.probe = found
    instance.heardAt = run.clock.now()
    instance.fault = null
    learn(run, instance)
    const capacity = spec.capacity ?? slotsOf(found)
    const expected = expectedLabel(instance)
    run.log.info(
      {
        instance: instance.id,
        engine: found.engine,
        engineVersion: found.engineVersion,
        capacity,
        weightVersion: found.weightVersion,
      },
      'instance answers',
    )
    actor.send({ type: 'probe.succeeded', capacity, weightVersion: found.weightVersion, expected })
  } catch (cause) {
    if (!isMember(run, instance)) return
    const error = toRolloutError(cause, 'UNREACHABLE', `instance ${instance.id} cannot be probed`, instance.id)
    blame(run, instance, error)
    actor.send({ type: 'probe.failed' })
    tellState(run, instance)
    askNext(run)
  }
}

/** What the server says, where that is a number of slots. */
function slotsOf({ capacity, engine }: Probe): number {
  if (Number.isSafeInteger(capacity) && capacity! > 0) return capacity!
  return DEFAULT_CAPACITY[engine] ?? DEFAULT_CAPACITY_OTHERS
}

/**
 * No new work; leases run out; at the deadline the samples resume elsewhere (decision 24). Resolves when it has left.
 */
export function drain(run: Run, id: string, deadlineMs: number | null): Promise<void> {
  const instance = run.instances.get(id)
  if (instance === undefined) {
    const known = [...run.instances.keys()].join(', ') || 'none'
    throw new RolloutError(
      'UNKNOWN_INSTANCE',
      `expected the id of an instance of the fleet (${known}), found ${JSON.stringify(id)}`,
      { instance: id },
    )
  }
  return new Promise((resolve) => {
    instance.onLeft.push(resolve)
    instance.actor.send({ type: 'instance.drain', deadlineMs })
    if (run.instances.has(id)) tellState(run, instance)
  })
}

/** Its machine threw, which only one of the user's own does: nobody can say any more whether its server takes work, so it leaves (F17). */
export function lose(run: Run, id: string, cause: unknown): void {
  const instance = run.instances.get(id)
  if (instance === undefined || instance.actor.getSnapshot().status !== 'error') return
  const text = `the machine of instance ${id} threw, and the instance has left: ${messageOf(cause)}`
  blame(run, instance, new RolloutError('MACHINE_FAILED', text, { instance: id, cause }))
  left(run, instance)
}

/** The machine has stopped: samples that still run there resume elsewhere, and the books of the instance are closed. */
function left(run: Run, instance: Instance): void {
  if (run.closing) return
  run.instances.delete(instance.id)
  run.leaving.add(instance)
  for (const end of [...instance.onLeaving]) end(leftFault(instance))
  run.clock.clearTimeout(instance.bringing.timer)
  run.policy.remove(instance.id)
  forgetRefusal(run, instance)
  run.ledger.remove(instance.id)
  forget(run)
  for (const attempt of [...instance.attempts]) {
    const { sample } = attempt
    if (sample === null) continue
    detach(run, attempt, 'interrupted', 'neutral')
    instance.totals.interrupted++
    waitAgain(run, attempt, sample, 'interrupted')
  }
  if (run.hub.listens(null)) run.hub.tell({ type: 'instance.left', at: run.clock.now(), instance: instance.id }, null)
  run.hub.changed()
  wake(run, 'queue.changed')
  askNext(run)
  // Whoever was at work there opens the server, before its sockets go.
  leaveOpen(run, instance)
    .then(() => (instance.attempts.size === 0 ? instance.driver.close() : closeWhenQuiet(run, instance)))
    .catch((cause: unknown) => run.log.warn({ instance: instance.id }, `the driver did not close: ${messageOf(cause)}`))
    .finally(() => {
      run.leaving.delete(instance)
      for (const resolve of instance.onLeft) resolve()
    })
}

/** Lets the aborts of the last attempts reach the server before its sockets are closed. */
function closeWhenQuiet(run: Run, instance: Instance): Promise<void> {
  return new Promise((resolve, reject) => {
    const check = (): void => {
      if (instance.attempts.size > 0) return
      run.onReleased.delete(check)
      askDriver(() => instance.driver.close()).then(resolve, reject)
    }
    run.onReleased.add(check)
  })
}
