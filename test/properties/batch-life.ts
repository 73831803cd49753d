/**
 * One random life of streams of batches: sources, readers, filters and options by a seed, on a fleet that dies, freezes, is paused and
 * updated meanwhile. What must hold is looked at after every event, at every batch, and at the end.
 */
import { type Batch, type BatchesOptions, type Group, RolloutError, type Task } from '../../src/index.ts'
import type { Run } from '../../src/run/run.ts'
import { createSupervisor, type Supervisor } from '../../src/supervisor.ts'
import { createRandom } from '../../src/testing/random.ts'
import { type SimulatedServer, simulateServer, tokenOf } from '../../src/testing/simulated-fleet.ts'
import { createVirtualClock } from '../../src/testing/virtual-clock.ts'
import { faultyEngine } from './faults.ts'

const COMMANDS = 14
/** Simulated time within which a reader on a healed fleet must have got its batches. */
const PATIENCE_MS = 600_000

interface Meta {
  readonly stream: number
  readonly number: number
  readonly key: number
  readonly length: number
}

export interface BatchLife {
  readonly broken: readonly string[]
  readonly batches: number
  readonly log: readonly string[]
}

export async function liveOnBatches(seed: number, runOf: () => Run): Promise<BatchLife> {
  const random = createRandom(seed)
  const chance = (probability: number): boolean => random.next() < probability
  const between = (low: number, high: number): number => low + random.int(high - low + 1)
  const pick = <T>(list: readonly T[]): T => list[random.int(list.length)]!
  const clock = createVirtualClock()
  const broken: string[] = []
  const log: string[] = []
  const must = (holds: boolean, text: () => string): void => {
    if (!holds && broken.length < 10) broken.push(`at ${clock.now()} ms: ${text()}`)
  }
  const sleep = (ms: number): Promise<void> => new Promise((resolve) => void clock.setTimeout(resolve, ms))

  const unlucky = chance(0.3) ? 0.05 : 0
  const servers: SimulatedServer[] = Array.from({ length: between(1, 3) }, (_, index) =>
    simulateServer(clock, {
      id: `s${index}`,
      capacity: between(1, 4),
      tokenMs: pick([1, 3, 10]),
      chunkTokens: between(1, 6),
    }),
  )
  const supervisor: Supervisor = createSupervisor({
    instances: servers.map(({ id, url, engine }) => ({
      id,
      url,
      engine: unlucky > 0 ? faultyEngine(engine, random, unlucky) : engine,
    })),
    ...(chance(0.2) ? { timeouts: { waitMs: between(100, 2_000) } } : {}),
    breaker: { failures: 2, resetMs: 50, maxResetMs: 400 },
    minInstances: 0,
    clock,
    runId: 'property',
  })
  const run = runOf()
  const background: Promise<unknown>[] = []
  const quietly = (work: Promise<unknown>): void => void background.push(work.catch(() => {}))
  let version = between(0, 3)
  let healing = false
  let made = 0

  supervisor.events$.subscribe((event) => {
    log.push(JSON.stringify(event, (_, value: unknown) => (value instanceof Error ? value.message : value)))
    conserved()
  })
  /** I1 for samples and for the groups of every stream. */
  function conserved(): void {
    const { conservation, batches } = supervisor.getSnapshot()
    const ended = Object.values(conservation.ended).reduce((sum, each) => sum + each, 0)
    must(conservation.submitted === conservation.waiting + conservation.running + ended, () => 'I1: samples')
    for (const { groups, size, maxStaleness, batches: handed } of batches) {
      const { drawn, waiting, running, deciding, ready, delivered } = groups
      const rejected = Object.values(groups.rejected).reduce((sum, each) => sum + each, 0)
      const now = waiting + running + deciding + ready + delivered + rejected
      // The group of this very event is in neither place for the moment: it is being drawn.
      must(drawn === now || drawn === now + 1, () => `I1: ${drawn} drawn, ${now} accounted for`)
      const begun = running + deciding + ready + delivered
      must(
        begun <= (maxStaleness + handed + 1) * size,
        () => `${begun} groups begun after ${handed} batches of ${size}`,
      )
    }
  }
  async function update(): Promise<void> {
    version += between(1, 2)
    const mode = pick(['abort', 'abort', 'restart', 'keep', 'drain'] as const)
    const timeoutMs = between(200, 2_000)
    await supervisor.updateWeights({ version, mode, path: `/w/${version}`, timeoutMs }).catch(() => {})
  }

  function plainTask(stream: number, number: number, long = 40, cycle = Number.POSITIVE_INFINITY): Task<Meta> {
    const key = between(0, 40_000)
    const length = chance(0.2) ? long : between(1, 12)
    const id = `b${stream}-${number % cycle}`
    return { id, prompt: [key, length], samples: between(1, 4), meta: { stream, number, key, length } }
  }
  /** Numbered tasks; some of them are nonsense, slow to come, or of an id that is still live. */
  function source(stream: number): Iterable<Task<Meta>> | AsyncIterable<Task<Meta>> {
    const last = chance(0.2) ? between(0, 12) : Number.POSITIVE_INFINITY
    const nonsense = chance(0.2) ? 0.1 : 0
    const cycle = chance(0.2) ? between(2, 5) : Number.POSITIVE_INFINITY
    const long = chance(0.3) ? 60 : 12
    function task(number: number): Task<Meta> {
      if (chance(nonsense)) return pick([7, null, { prompt: [] }, { prompt: [1, 1], minVersion: 10_000 }]) as never
      const given = plainTask(stream, number, long, cycle)
      if (healing || !chance(0.05)) return given
      const controller = new AbortController()
      quietly(sleep(between(0, 100)).then(() => controller.abort()))
      return { ...given, signal: controller.signal }
    }
    function* now(): Generator<Task<Meta>> {
      for (let number = 0; number < last; number++) yield task(number)
    }
    async function* later(): AsyncGenerator<Task<Meta>> {
      for (let number = 0; number < last; number++) {
        if (chance(0.5)) await sleep(between(0, 20))
        yield task(number)
      }
    }
    return chance(0.5) ? now() : later()
  }
  function accept(): BatchesOptions<Meta>['accept'] {
    const rate = pick([0.5, 0.8, 1])
    const slow = chance(0.4)
    return () => {
      if (!healing && chance(0.03)) throw new Error('a bug of the filter')
      const verdict = chance(rate)
      return slow ? sleep(between(0, 40)).then(() => verdict) : verdict
    }
  }

  /** Reads, checks, trains and updates, until it has had enough or its source has ended. */
  async function reader(stream: number): Promise<void> {
    const controller = new AbortController()
    const options: BatchesOptions<Meta> = {
      size: between(1, 4),
      maxStaleness: between(0, 3),
      order: pick(['oldest-first', 'as-completed', 'source']),
      tooOld: pick(['drop', 'drop', 'mark']),
      incomplete: pick(['reject', 'reject', 'offer']),
      signal: controller.signal,
      ...(chance(0.6) ? { accept: accept()! } : {}),
    }
    const enough = between(2, 6)
    const trains = chance(0.7)
    const delivered = new Set<number>()
    const batches = supervisor.batches(source(stream), options)
    if (chance(0.1)) quietly(sleep(between(0, 400)).then(() => controller.abort()))
    try {
      for await (const batch of batches) {
        made++
        check(stream, batch, options, delivered)
        if (chance(0.5)) await sleep(between(0, 120))
        if (trains && chance(0.8)) await update()
        if (batch.index + 1 >= enough) break
      }
    } catch (error) {
      const code = RolloutError.isInstance(error) ? error.code : String(error)
      must(controller.signal.aborted || code === 'ALL_REJECTED', () => `reader ${stream} was told ${error}`)
    }
  }
  function check(stream: number, batch: Batch<Meta>, options: BatchesOptions<Meta>, delivered: Set<number>): void {
    const { groups, index } = batch
    const name = `batch ${stream}.${index}`
    must(groups.length <= options.size && groups.length > 0, () => `${name} has ${groups.length} of ${options.size}`)
    let tokens = 0
    for (const group of groups) {
      must(!delivered.has(group.meta.number), () => `I2: group ${group.meta.number} is in two batches of ${stream}`)
      delivered.add(group.meta.number)
      must(group.complete || options.incomplete === 'offer', () => `F16: ${name} has an incomplete group`)
      tokens += exact(name, group)
      for (const { versions } of group.completions) {
        for (const span of versions) {
          // Tokens of before the first update are of no version: none of this run's updates had been made yet.
          const age = batch.version === null || span.version === null ? 0 : batch.version - span.version
          must(
            options.tooOld === 'mark' || age <= options.maxStaleness!,
            () =>
              `${name} of version ${batch.version} has tokens of version ${span.version}: bound ${options.maxStaleness}`,
          )
          must(age <= group.staleness, () => `${name} says staleness ${group.staleness} of a token that is ${age} old`)
        }
      }
      must(group.tooOld === group.staleness > options.maxStaleness!, () => `${name} marks a group wrongly`)
      must(options.tooOld === 'mark' || !group.tooOld, () => `${name} has a group that is too old`)
    }
    const sum = Object.values(batch.staleness).reduce((total, each) => total + each, 0)
    must(sum === tokens, () => `${name} has ${tokens} tokens, its histogram ${sum}`)
  }
  function exact(name: string, { completions, meta }: Group<Meta>): number {
    let tokens = 0
    for (const { id, outcome, tokenIds } of completions) {
      tokens += tokenIds.length
      must(outcome !== 'completed' || tokenIds.length === meta.length, () => `I8: ${name} has ${id} of another length`)
      for (let at = 0; at < tokenIds.length; at++)
        must(tokenIds[at] === tokenOf(meta.key, at), () => `I8: token ${at} of ${id} in ${name} is wrong`)
    }
    return tokens
  }

  /** On-policy batches one after the other, each carrying over or cancelling what it leaves. */
  async function onPolicy(stream: number): Promise<void> {
    const delivered = new Set<number>()
    let number = 0
    for (let rounds = between(2, 5); rounds >= 0; rounds--) {
      // The last one ends what is carried.
      const own = Array.from({ length: rounds === 0 ? 0 : between(1, 5) }, () => plainTask(stream, number++))
      const most = own.length + run.carried.size
      const stopAfter = rounds > 0 && chance(0.8) ? between(1, most) : most
      const rest = pick(['carry', 'carry', 'cancel'] as const)
      try {
        const groups = await supervisor.rollout(own, stopAfter === 0 ? {} : { stopAfter, rest })
        made++
        const complete = groups.filter((group) => group.complete).length
        must(complete <= stopAfter, () => `rollout: ${complete} groups are complete, asked for ${stopAfter}`)
        const order = groups.map(({ meta }) => (own.some(({ id }) => id === `b${stream}-${meta.number}`) ? 0 : 1))
        must(!order.join('').includes('10'), () => 'rollout: carried groups come before its own')
        for (const group of groups) {
          must(!delivered.has(group.meta.number), () => `I2: group ${group.meta.number} is in two results`)
          delivered.add(group.meta.number)
          exact('rollout', group)
        }
      } catch (error) {
        must(RolloutError.isInstance(error) && error.code === 'ALL_REJECTED', () => `rollout: was told ${error}`)
      }
      if (chance(0.5)) await sleep(between(0, 60))
      if (chance(0.5)) await update()
    }
    must(run.carried.size === 0, () => `I5: ${run.carried.size} groups are carried over to nowhere`)
  }

  const commands: readonly (() => unknown)[] = [
    () => pick(servers).die(),
    () => pick(servers).freeze(),
    () => pick(servers).thaw(),
    () => revive(pick(servers)),
    () => quietly(update()),
    () => quietly(Promise.resolve().then(() => supervisor.pause())),
    () => quietly(supervisor.resume()),
    () =>
      void supervisor.submit({
        prompt: [1, between(1, 20)],
        samples: between(1, 4),
        kind: pick(['rollout', 'evaluation']),
      }),
  ]
  function revive(server: SimulatedServer): void {
    server.revive(server.weightVersion)
  }

  await clock.run(supervisor.start())
  if (chance(0.5)) quietly(update())
  // One at most: what one leaves, the next takes.
  const which = pick([0, 1, 2, 2])
  const readers = Array.from({ length: pick([1, 1, 2]) }, (_, stream) =>
    stream === which ? onPolicy(stream) : reader(stream),
  )
  let left = readers.length
  for (const each of readers) void each.finally(() => left--)
  for (let step = 0; step < COMMANDS && left > 0; step++) {
    await pick(commands)()
    await clock.advance(between(0, 150))
  }
  healing = true
  for (const server of servers) {
    revive(server)
    server.thaw()
  }
  quietly(supervisor.resume())
  await clock.advance(3_000)
  // A fleet that failed its first update has no other way to get weights that it trusts.
  quietly(update())
  const giveUpAt = clock.now() + PATIENCE_MS
  while (left > 0 && clock.now() < giveUpAt && broken.length === 0) await clock.advance(1_000)
  must(left === 0, () => `deadlock: ${JSON.stringify(supervisor.getSnapshot())}`)
  must(run.feeds.size + run.onVersion.size === 0, () => `I5: ${run.feeds.size} streams are left open`)
  for (const { id } of run.tasks.values()) must(!id.startsWith('b'), () => `I5: ${id} lives on after its stream`)
  await clock.run(supervisor.close())
  await clock.run(Promise.all(background))
  conserved()
  must(run.onClosing.size === 0 && clock.pending === 0, () => `I12: ${clock.pending} timers are left after close`)
  return { broken, batches: made, log }
}
