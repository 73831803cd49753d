/**
 * A random life of a run: tasks come and are cancelled, servers die, freeze and return, instances join and leave, phases
 * change, readers are slow, all from one seed. Every choice is made before the supervisor is asked, so the same seed asks
 * the same things.
 */
import type { Completion } from '../../src/index.ts'
import type { Rollout } from '../../src/run/rollout.ts'
import type { Run } from '../../src/run/run.ts'
import { createSupervisor, type Supervisor } from '../../src/supervisor.ts'
import { createRandom } from '../../src/testing/random.ts'
import { type SimulatedServer, simulateServer } from '../../src/testing/simulated-fleet.ts'
import { createDice } from './dice.ts'
import { closingEngine, faultyEngine, faultyPolicy, gatedEngine, moodyMachine, wordyEngine } from './faults.ts'
import { gateOf, type Invariants, watchInvariants } from './invariants.ts'
import { phaseCommands } from './phases.ts'
import { createRestingClock } from './resting-clock.ts'

export interface Life {
  readonly broken: readonly string[]
  /** Every event of the run as JSON, one a line. */
  readonly log: readonly string[]
}

const COMMANDS = 30
/** Simulated time within which a healed fleet must have ended everything. */
const PATIENCE_MS = 600_000

export async function live(seed: number, runOf: (supervisor: Supervisor) => Run): Promise<Life> {
  const random = createRandom(seed)
  const dice = createDice(random)
  const { chance, pick, between, maybe } = dice

  let atRest = (): void => {}
  const clock = createRestingClock(() => atRest())

  let run!: Run
  let invariants!: Invariants
  const servers = new Map<string, SimulatedServer>()
  const chunky = chance(0.7)
  const hasFaults = chance(0.4)
  const unlucky = chance(0.3) ? 0.1 : 0
  /** Prompts that are text, and instances that differ in what they take. */
  const mixed = chance(0.3)
  function server() {
    const id = `s${servers.size}`
    const made = simulateServer(clock, {
      id,
      capacity: between(1, 4),
      tokenMs: pick([1, 3, 10])!,
      loadMs: pick([0, 0, 5, 40])!,
      keepsWeights: chance(0.8),
      capabilities: {
        pause: pick([['abort', 'keep'], ['abort', 'keep'], ['abort'], []] as const)!,
        versions: pick(['spans', 'spans', 'label'] as const)!,
        release: chance(0.8),
      },
      ...(chunky ? { chunkTokens: between(1, 6) } : {}),
    })
    servers.set(id, made)
    const wordy = !mixed
      ? made.engine
      : wordyEngine(made.engine, clock, random, { plain: chance(0.4), mute: chance(0.2) })
    const inner = unlucky === 0 ? wordy : faultyEngine(wordy, random, unlucky)
    const onRequest = (): void => {
      const gate = gateOf(run, id)
      if (gate !== null) invariants.broken.push(`I10: a request reached ${id}, ${gate}`)
    }
    // Draws numbers of its own: the rest of a seed's life is as it was.
    const closing = seed % 4 === 3 ? closingEngine(inner, clock, createRandom(seed), onRequest) : inner
    const engine = gatedEngine(closing, onRequest)
    return { id, url: made.url, engine, weight: pick([1, 1, 2])! }
  }
  const timeouts = Object.fromEntries(
    Object.entries({
      waitMs: maybe(0.3, 50, 800),
      firstTokenMs: maybe(0.3, 20, 200),
      progressMs: maybe(0.3, 40, 200),
      totalMs: maybe(0.2, 50, 600),
    }).filter(([, ms]) => ms !== undefined),
  )
  /** What the user's own code does the next time that it is asked, in the middle of a step. */
  let inside: (() => void) | null = null
  function meddled(): void {
    const act = inside
    inside = null
    act?.()
  }
  const supervisor = createSupervisor({
    instances: Array.from({ length: between(1, 4) }, server),
    policy: chance(0.1)
      ? faultyPolicy(random, meddled)
      : pick(['least-request', 'least-request', 'round-robin', { name: 'round-robin', strict: true }] as const)!,
    ...(chance(0.1) ? { instanceMachine: moodyMachine(random, meddled) } : {}),
    ...(chance(0.05) ? { inspect: meddled } : {}),
    timeouts,
    breaker: { failures: between(1, 3), resetMs: 50, maxResetMs: 400 },
    retry: { attempts: between(2, 6) },
    minInstances: 0,
    clock,
    runId: 'property',
  })
  run = runOf(supervisor)
  invariants = watchInvariants(supervisor, run, servers)
  atRest = invariants.atRest

  let healing = false
  /** Servers that died over running work. */
  const missed = new Set<string>()
  let submitted = 0
  let version = between(0, 3)
  const rollouts: Rollout[] = []
  const background: Promise<unknown>[] = []
  const readers: { iterator: AsyncIterableIterator<Completion>; controller: AbortController }[] = []
  const quietly = (work: Promise<unknown>): void => void background.push(work.catch(() => {}))
  const members = (): string[] => [...run.instances.keys()]

  function task(only?: 'evaluation') {
    const order = submitted++
    const length = chance(0.1) ? between(40, 80) : between(1, 20)
    const maxTokens = chance(0.3) ? between(1, 40) : 200
    const text = mixed && chance(0.3)
    const minTokens = mixed && chance(0.3) ? 1 : 0
    const expected = {
      id: `t${order}`,
      order,
      key: between(0, 40_000),
      length: Math.min(length, maxTokens),
      samples: between(1, pick([1, 1, 4, 4, 16])!),
      priority: pick([0, 0, 0, 5, -1.5])!,
      kind: only !== undefined || chance(0.2) ? ('evaluation' as const) : ('rollout' as const),
      minVersion: chance(0.1) ? between(0, version + 2) : null,
      text,
      picky: text || minTokens > 0,
    }
    const { id, key, samples, priority, kind, minVersion } = expected
    const prompt = text ? `${key} ${length}` : [key, length]
    const given = { id, prompt, samples, priority, kind, sampling: { maxTokens, minTokens } }
    return { expected, given: minVersion === null ? given : { ...given, minVersion } }
  }
  function submit(): void {
    const { expected, given } = task()
    const controller = chance(0.2) ? new AbortController() : null
    invariants.expect(expected)
    const rollout = supervisor.submit(controller === null ? given : { ...given, signal: controller.signal })
    if (controller !== null) void rollout.result.then(() => controller.abort())
    rollouts.push(rollout)
  }
  function trySubmit(): void {
    const { expected, given } = task()
    invariants.expect(expected)
    const rollout = supervisor.trySubmit(given)
    if (rollout === null) invariants.forget(expected)
    else rollouts.push(rollout)
  }
  function cancel(): void {
    const rollout = pick(rollouts)
    if (rollout === undefined) return
    rollout.cancel('changed my mind')
    if (run.tasks.has(rollout.id)) invariants.broken.push(`I11: ${rollout.id} lives on after its cancel`)
    if (invariants.completed(`${rollout.id}/0`) !== 1) invariants.broken.push(`I11: ${rollout.id} has no completion`)
  }
  async function advance(ms: number): Promise<void> {
    await clock.advance(ms)
  }
  /** Acts from inside events, as a user's subscriber may, or from where the user's policy, guard or inspector is called. */
  function meddle(): void {
    const action = pick([
      () => pick(rollouts)?.cancel(),
      submit,
      trySubmit,
      () => quietly(supervisor.resume()),
      () => leave(() => null),
    ])!
    const which = pick(['sample.placed', 'sample.ended', 'sample.released', 'sample.queued', 'instance.left', 'inside'])
    const act = (): void => {
      if (!run.closing && !healing) action()
    }
    if (which === 'inside') {
      inside = act
      return
    }
    const subscription = supervisor.events$.subscribe((event) => {
      if (event.type !== which) return
      subscription.unsubscribe()
      act()
    })
  }
  function leave(deadline: () => { timeoutMs?: number } | null): void {
    const id = pick(members())
    if (id === undefined) return
    const options = deadline()
    quietly(options === null ? supervisor.remove(id) : supervisor.drain(id, options))
  }
  function read(): void {
    const reader = pick(readers)
    if (reader === undefined || chance(0.2)) {
      const controller = new AbortController()
      const iterator = supervisor.completions({ highWaterMark: between(1, 8), signal: controller.signal })
      readers.push({ iterator, controller })
      quietly(iterator.next())
    } else {
      for (let count = between(1, 12); count > 0; count--) quietly(reader.iterator.next())
    }
  }
  function stopReading(): void {
    const reader = readers.splice(random.int(readers.length), 1)[0]
    if (reader === undefined) return
    if (chance(0.5)) reader.controller.abort(new Error('enough'))
    else quietly(reader.iterator.return!())
  }
  const phases = phaseCommands({
    dice,
    supervisor,
    servers,
    invariants,
    quietly,
    evaluationTask: () => task('evaluation'),
    nextVersion: () => (version += between(1, 2)),
  })
  const commands: readonly (readonly [number, () => unknown])[] = [
    [10, submit],
    [3, trySubmit],
    [4, cancel],
    [10, () => advance(between(0, 40))],
    [4, () => advance(between(40, 400))],
    [1, phases.pause],
    [2, () => quietly(supervisor.resume())],
    [1, () => leave(() => (chance(0.5) ? {} : { timeoutMs: between(0, 200) }))],
    [1, () => leave(() => null)],
    [1, () => void (servers.size < 8 && supervisor.add(server()))],
    [2, () => die(pick([...servers.values()])!)],
    [2, () => revive(pick([...servers.values()])!)],
    [1, () => pick([...servers.values()])!.freeze()],
    [2, () => pick([...servers.values()])!.thaw()],
    [2, phases.update],
    [2, phases.evaluate],
    [1, phases.stopEvaluation],
    [3, () => hasFaults && phases.misbehave()],
    [2, meddle],
    [2, read],
    [1, stopReading],
  ]
  function die(each: SimulatedServer): void {
    if (each.running > 0) missed.add(each.id)
    each.die()
  }
  /** Restarts with the weights of its beginning, where somebody can have noticed; else nobody could know of it. */
  function revive(each: SimulatedServer): void {
    if (missed.delete(each.id)) each.revive()
    else each.revive(each.weightVersion)
  }
  const weights = commands.reduce((sum, [weight]) => sum + weight, 0)
  function command(): () => unknown {
    let at = random.int(weights)
    for (const [weight, action] of commands) {
      at -= weight
      if (at < 0) return action
    }
    return submit
  }

  if (chance(0.9)) await clock.run(supervisor.start())
  else quietly(supervisor.start())
  for (let step = 0; step < COMMANDS && invariants.broken.length === 0; step++) {
    const action = command()
    await action()
    invariants.now()
    await clock.settle()
    invariants.atRest()
  }
  if (invariants.broken.length === 0 && chance(0.8)) await heal()
  await end()
  return { broken: invariants.broken, log: invariants.log.map(line) }

  /** Lets everything end by itself on a fleet that works again. */
  async function heal(): Promise<void> {
    healing = true
    for (const each of servers.values()) {
      each.heal()
      revive(each)
      each.thaw()
    }
    for (const { iterator } of readers.splice(0)) quietly(iterator.return!())
    quietly(supervisor.start())
    quietly(supervisor.resume())
    supervisor.add(server())
    await advance(3_000)
    const giveUpAt = clock.now() + PATIENCE_MS
    const busy = (): number => run.counts.waiting + run.counts.running + run.ledger.held
    while (busy() > 0 && clock.now() < giveUpAt && invariants.broken.length === 0) {
      for (const rollout of rollouts) if ([...rollout.waitingFor.values()].includes('version')) rollout.cancel()
      // Where the very first update failed, or the weights of the beginning were discarded, there is nothing to bring an instance up to.
      if (run.lastUpdate === null && supervisor.getSnapshot().instances.some(({ state }) => state === 'stale')) {
        quietly(supervisor.updateWeights({ version: ++version, path: '/w/healing' }))
        // Those that can run only there keep the version that they began with (F10).
        phases.stopEvaluations()
      }
      await advance(1_000)
    }
    if (busy() > 0) {
      const { waiting, instances } = supervisor.getSnapshot()
      const states = instances.map(({ id, state, running }) => `${id} ${state} ${running}`)
      invariants.broken.push(`I6: ${busy()} never ended: ${JSON.stringify(waiting)} on ${states.join(', ')}`)
      return
    }
    invariants.atRest()
    invariants.whenIdle()
  }

  async function end(): Promise<void> {
    const closed = supervisor.close()
    if (run.counts.waiting + run.counts.running > 0) invariants.broken.push('I11: close() left samples alive')
    await clock.run(closed)
    await clock.run(Promise.all(background))
    invariants.now()
    invariants.whenIdle()
    if (clock.pending > 0) invariants.broken.push(`I12: ${clock.pending} timers are left after close`)
  }
}

function line(event: unknown): string {
  return JSON.stringify(event, (_, value: unknown) => (value instanceof Error ? value.message : value))
}
