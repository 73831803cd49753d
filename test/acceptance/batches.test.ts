/**
 * Batches over real HTTP, on embedded engines in the dialects that have versions: the on-policy and the off-policy case of a trainer (A9),
 * and what they must not inherit (D4, D5, D12, D23, D26) and must survive (F14 to F17).
 */
import { describe, expect, test } from 'vitest'
import { type Group, RolloutError } from '../../src/index.ts'
import { engine, engines, expectEmpty, PROFILES, supervise, until } from '../failures/fleet.ts'
import { type Numbered, numbered, numbersOf, stream, trainer, versioned } from './training.ts'

describe.each(versioned(PROFILES))('$name', (profile) => {
  test('A9 case 1: on-policy batches, over-issued; the fleet is quiet while the trainer trains, and the rest goes on after', async () => {
    const servers = await engines(profile, 2, { memorySaver: true })
    const supervisor = await supervise(profile, servers)
    const { update, expectExact } = await trainer(supervisor)
    await update()
    const seen: Group<Numbered>[] = []
    for (let step = 0; step < 3; step++) {
      // Of five groups one is twenty times longer than the others: it ends in a later step.
      const tasks = [12, 12, 240, 12, 12].map((tokens, index) => numbered(step * 5 + index, tokens))
      const groups = await supervisor.rollout(tasks, { stopAfter: 4, rest: 'carry' })
      const own = numbersOf(groups).filter((number) => number >= step * 5)
      expect(own).toEqual([...own].sort((a, b) => a - b))
      expect(numbersOf(groups).slice(0, own.length)).toEqual(own)
      expect(groups).toHaveLength(4)
      for (const group of groups) expectExact(group)
      seen.push(...groups)
      // The trainer is on the same GPUs: the servers give their memory away, and take it back before new weights come.
      await supervisor.pause({ mode: 'abort', release: true })
      expect(servers.map(({ counters }) => counters.running)).toEqual([0, 0])
      await update()
      await supervisor.resume()
    }
    const rest = await supervisor.rollout<Numbered>([])
    for (const group of rest) expectExact(group)
    seen.push(...rest)
    // Every group once: nothing is lost between the steps.
    expect(numbersOf(seen).sort((a, b) => a - b)).toEqual(Array.from({ length: 15 }, (_, at) => at))
    // The long ones went on under newer weights.
    const spans = seen.flatMap(({ completions }) => completions.map(({ versions }) => versions.length))
    expect(Math.max(...spans)).toBeGreaterThan(1)
    await expectEmpty(supervisor, servers)
  })

  test('A9 case 2: off-policy batches: every freed slot refills at once, and no token is older than the bound', async () => {
    const servers = await engines(profile, 2)
    const supervisor = await supervise(profile, servers)
    const { update, expectExact } = await trainer(supervisor)
    const { source } = stream([12, 40, 12, 90, 25])
    await update()
    const idle: string[] = []
    supervisor.events$.subscribe((event) => {
      if (event.type !== 'sample.released') return
      queueMicrotask(() => {
        const { phase, instances, batches } = supervisor.getSnapshot()
        const free = instances.filter(({ running, capacity }) => running < capacity!)
        if (phase === 'rollout' && batches[0]?.heldBy === null && free.length > 0) idle.push(JSON.stringify(free))
      })
    })
    const ages: number[] = []
    for await (const batch of supervisor.batches(source, { size: 4, maxStaleness: 1 })) {
      expect(batch.groups).toHaveLength(4)
      for (const group of batch.groups) {
        expectExact(group)
        for (const { versions } of group.completions)
          for (const span of versions) expect(batch.version! - span.version!).toBeLessThanOrEqual(1)
      }
      ages.push(...Object.keys(batch.staleness).map(Number))
      if (batch.index === 5) break
      await update()
    }
    expect(new Set(ages)).toEqual(new Set([0, 1]))
    expect(idle).toEqual([])
    await expectEmpty(supervisor, servers)
    expect(supervisor.getSnapshot()).toMatchObject({ batches: [], conservation: { waiting: 0, running: 0 } })
  })

  test('D4: a slot is free again when its sequence ends, not when its group does', async () => {
    const servers = [await engine(profile, { capacity: 2 })]
    const supervisor = await supervise(profile, servers, {}, { capacity: 2 })
    const log: string[] = []
    const numbers = new Map<string, number>()
    supervisor.completions$.subscribe(({ taskId, meta }) => numbers.set(taskId, (meta as { number: number }).number))
    supervisor.events$.subscribe((event) => {
      if (event.type === 'sample.placed' || event.type === 'sample.ended')
        log.push(`${event.type} ${event.taskId}/${event.sample}`)
    })
    const batches = supervisor.batches(stream([30], 3).source, { size: 2, order: 'source' })
    const [first, second] = (await batches.next()).value.groups
    // The third of the first group shares the server with the first of the second.
    const shared = log.indexOf(`sample.placed ${second.taskId}/0`)
    expect(shared).toBeGreaterThan(-1)
    expect(shared).toBeLessThan(log.indexOf(`sample.ended ${first.taskId}/2`))
    await batches.return!()
    await expectEmpty(supervisor, servers)
  })

  test('D5: groups of any size, smaller and larger than a server and than the fleet', async () => {
    const servers = await engines(profile, 2)
    const supervisor = await supervise(profile, servers)
    const { expectExact } = await trainer(supervisor)
    const sizes = [1, 3, 17, 2, 9]
    const batches = supervisor.batches(stream([8], sizes).source, { size: 5, order: 'source' })
    const { groups } = (await batches.next()).value
    expect(groups.map((group: (typeof groups)[number]) => group.completions.length)).toEqual(sizes)
    for (const group of groups) expectExact(group)
    for (const { counters } of servers) expect(counters.maxRunning).toBeLessThanOrEqual(4)
    await batches.return!()
    await expectEmpty(supervisor, servers)
  })

  test('D12: while others hold every slot nothing is drawn from the source, and no budget is spent', async () => {
    const servers = await engines(profile, 1)
    const supervisor = await supervise(profile, servers)
    // Far longer than the look at it takes, on any machine.
    const before = supervisor.submit(numbered(0, 3_000))
    const { source, state } = stream([8])
    const batches = supervisor.batches(source, { size: 2, maxStaleness: 3 })
    const asked = batches.next()
    await until('the server is full', () => servers[0]!.counters.running === 4)
    expect(state.drawn).toBe(0)
    expect(supervisor.getSnapshot().batches[0]!.groups).toMatchObject({ drawn: 0, waiting: 0, running: 0 })
    before.cancel('now for the batches')
    expect(numbersOf((await asked).value.groups)).toEqual([0, 1])
    await batches.return!()
    await expectEmpty(supervisor, servers)
  })

  test.each(['return', 'abort', 'close'] as const)(
    'D23: leaving at any moment ends everything on the servers (%s)',
    async (way) => {
      const servers = await engines(profile, 2, { stepMs: 2 })
      for (let events = 1; events <= 21; events += 5) {
        const supervisor = await supervise(profile, servers)
        const controller = new AbortController()
        const { source } = stream([10, 30])
        const batches = supervisor.batches(source, { size: 3, signal: controller.signal, accept: async () => true })
        let seen = 0
        const moment = new Promise<void>((resolve) => {
          supervisor.events$.subscribe(() => {
            if (++seen === events) resolve()
          })
        })
        const asked = [batches.next(), batches.next()].map((each) => each.catch(() => null))
        await moment
        if (way === 'return') await batches.return!()
        else if (way === 'abort') controller.abort()
        else await supervisor.close()
        expect(supervisor.getSnapshot().conservation).toMatchObject({ waiting: 0, running: 0 })
        await Promise.all(asked)
        await until('no server works', () => servers.every(({ counters }) => counters.running + counters.waiting === 0))
        if (way !== 'close') await expectEmpty(supervisor, servers)
        await supervisor.close()
      }
    },
  )

  test('D26: with no budget to spare, a rejected group is replaced wherever a slot is, and uneven fleets fill the batch', async () => {
    const servers = await engines(profile, 4, { capacity: 1 })
    const supervisor = await supervise(profile, servers, {}, { capacity: 1 })
    // The two stalls of the predecessor: two groups over two workers, one rejected; ten over four.
    for (const size of [2, 10]) {
      let rejected = 0
      const accept = () => rejected++ > 0
      const batches = supervisor.batches(stream([6], 1).source, { size, maxStaleness: 0, accept })
      expect((await batches.next()).value).toMatchObject({ rejected: { filtered: 1 } })
      expect((await batches.next()).value.groups).toHaveLength(size)
      await batches.return!()
    }
    await expectEmpty(supervisor, servers)
  })

  test('F14: a slow trainer slows the source down; what is ready waits, bounded, and nothing is dropped', async () => {
    const servers = await engines(profile, 2)
    const supervisor = await supervise(profile, servers)
    const { source, state } = stream([8], 2)
    const batches = supervisor.batches(source, { size: 3, maxStaleness: 2, order: 'source' })
    const seen: number[] = []
    for (let index = 0; index < 3; index++) {
      seen.push(...numbersOf((await batches.next()).value.groups))
      await until('the bound is reached', () => supervisor.getSnapshot().batches[0]!.groups.ready === 6)
      expect(supervisor.getSnapshot().batches[0]).toMatchObject({ heldBy: 'staleness' })
      expect(state.drawn).toBe((index + 3) * 3)
      expect(servers.map(({ counters }) => counters.running)).toEqual([0, 0])
    }
    expect(seen).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8])
    await batches.return!()
    await expectEmpty(supervisor, servers)
  })

  test('F15: when every group is rejected, or every sample refused, the loop ends with an error that says so', async () => {
    const servers = await engines(profile, 2)
    const supervisor = await supervise(profile, servers)
    const none = supervisor.batches(stream([4], 2).source, { size: 4, maxRejected: 12, accept: () => false })
    await expect(none.next()).rejects.toMatchObject({
      code: 'ALL_REJECTED',
      message: expect.stringMatching(/12 filtered/),
    })
    for (const { faults } of servers)
      faults.answer(400, { times: 1_000, body: '{"error":{"message":"prompt too long"}}' })
    const refused = supervisor.batches(stream([4], 2).source, { size: 4, maxRejected: 12 })
    await expect(refused.next()).rejects.toMatchObject({
      code: 'ALL_REJECTED',
      message: expect.stringMatching(/12 incomplete.*prompt too long/s),
    })
    const batch = supervisor.rollout([numbered(0, 4), numbered(1, 4)])
    await expect(batch).rejects.toMatchObject({ code: 'ALL_REJECTED', message: expect.stringMatching(/none of 2/) })
    await expectEmpty(supervisor, servers)
  })

  test('F16: one refused sample costs its group, which says what is missing, and no other', async () => {
    const servers = await engines(profile, 1)
    const supervisor = await supervise(profile, servers)
    servers[0]!.faults.answer(400, { times: 1 })
    const groups = await supervisor.rollout([numbered(0, 8), numbered(1, 8)])
    expect(groups.map(({ complete, missing }) => [complete, missing.length])).toEqual([
      [false, 1],
      [true, 0],
    ])
    expect(groups[0]!.missing[0]).toMatchObject({ outcome: 'failed', error: { code: 'REQUEST_REJECTED', status: 400 } })
    servers[0]!.faults.answer(400, { times: 1 })
    const batches = supervisor.batches(stream([8]).source, { size: 2, order: 'source' })
    const { value } = await batches.next()
    expect(value).toMatchObject({ rejected: { incomplete: 1, filtered: 0 } })
    expect(numbersOf(value.groups)).toEqual([1, 2])
    await batches.return!()
    await expectEmpty(supervisor, servers)
  })

  test('F17: an accept that throws costs its own group only, and every other token is exact', async () => {
    const servers = await engines(profile, 2)
    const supervisor = await supervise(profile, servers)
    const { expectExact } = await trainer(supervisor)
    const faults: RolloutError[] = []
    supervisor.events$.subscribe((event) => {
      if (event.type === 'run.fault') faults.push(event.error)
    })
    const batches = supervisor.batches(stream([9]).source, {
      size: 4,
      order: 'source',
      accept({ meta }) {
        if (meta.number % 2 === 0) throw new Error('a bug of the reward')
        return Promise.resolve(true)
      },
    })
    const { value } = await batches.next()
    expect(numbersOf(value.groups)).toEqual([1, 3, 5, 7])
    for (const group of value.groups) expectExact(group)
    expect(value.rejected.undecided).toBeGreaterThanOrEqual(4)
    expect(faults[0]).toMatchObject({ code: 'ACCEPT_FAILED' })
    expect(RolloutError.isInstance(faults[0])).toBe(true)
    await batches.return!()
    await expectEmpty(supervisor, servers)
  })
})
