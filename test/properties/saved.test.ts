/**
 * Two lives of one run: saved at a random moment of a random workload, restored into a new supervisor on the same servers. Over both lives every
 * sample completes exactly once, with exact tokens and versions, every group is told once and comes back whole, every batch group is handed
 * out once, and a reader of completions() gets each once (decision 29, I1, I2, I8).
 *
 * SEED=123 runs one seed, SEEDS=100000 more of them.
 */
import { expect, test } from 'vitest'
import { type Completion, createSupervisor, type Group, type SavedState, type Supervisor } from '../../src/index.ts'
import { createRandom } from '../../src/testing/random.ts'
import { logprobOf, simulateServer, tokenOf } from '../../src/testing/simulated-fleet.ts'
import { createVirtualClock } from '../../src/testing/virtual-clock.ts'

const only = process.env.SEED
const first = only === undefined ? 0 : Number(only)
const count = only === undefined ? Number(process.env.SEEDS ?? 1_000) : 1
const PATIENCE_MS = 100_000

interface Known {
  readonly key: number
  readonly length: number
  readonly samples: number
}

async function live(seed: number): Promise<string[]> {
  const random = createRandom(seed)
  const chance = (probability: number): boolean => random.next() < probability
  const clock = createVirtualClock()
  const broken: string[] = []
  const must = (holds: boolean, text: () => string): void => {
    if (!holds && broken.length < 20) broken.push(text())
  }
  const servers = Array.from({ length: 1 + random.int(3) }, (_, at) =>
    simulateServer(clock, { id: `s${at}`, capacity: 1 + random.int(4), tokenMs: 1 + random.int(4), chunkTokens: 3 }),
  )
  const tasks = new Map<string, Known>()
  const background: Promise<unknown>[] = []
  const quietly = (work: Promise<unknown>): void => void background.push(work.catch(() => {}))

  /** What one life told and handed out, until it was saved. */
  function follow(supervisor: Supervisor) {
    const life = {
      completions: [] as Completion[],
      groups: [] as Group[],
      read: [] as Completion[],
      batch: [] as Group[],
    }
    let over = false
    const take = <T>(list: T[], ...items: T[]): void => void (over || list.push(...items))
    supervisor.completions$.subscribe((each) => take(life.completions, each))
    supervisor.groups$.subscribe((each) => take(life.groups, each))
    return {
      life,
      take,
      end: () => {
        over = true
      },
    }
  }
  const options = {
    instances: servers.map(({ id, url, engine }) => ({ id, url, engine })),
    breaker: { failures: 2, resetMs: 50, maxResetMs: 400 },
    minInstances: 0,
    clock,
  }
  const one = createSupervisor(options)
  const before = follow(one)
  let next = 0
  function task(mayWait = true) {
    const id = `t${next++}`
    const known = { key: random.int(40_000), length: 1 + random.int(30), samples: 1 + random.int(5) }
    const { key, length, samples } = known
    tasks.set(id, known)
    const minVersion = mayWait && chance(0.05) ? { minVersion: version + 1 } : {}
    return { id, prompt: [key, length], samples, priority: random.int(2), meta: { of: id }, ...minVersion }
  }
  /** Tasks that are handed out in batches, but for those of a batch that failed as a whole. */
  const batched = new Set<string>()
  function forBatch(mayWait: boolean) {
    const given = task(mayWait)
    batched.add(given.id)
    return given
  }
  function* source() {
    for (let left = 6; left > 0; left--) yield forBatch(false)
  }
  let version = 0
  const handles: { cancel(): void }[] = []
  let reader: AsyncIterableIterator<Completion> | null = null
  let rolling = false
  let stream: AsyncIterableIterator<{ groups: readonly Group[] }> | null = null
  const commands: (() => unknown)[] = [
    () => void handles.push(one.submit(task())),
    () => void handles.push(one.submit({ ...task(), kind: chance(0.3) ? 'evaluation' : 'rollout' })),
    () => clock.advance(random.int(20)),
    () => clock.advance(random.int(60)),
    () => handles[random.int(handles.length)]?.cancel(),
    () => servers[random.int(servers.length)]!.die(),
    revive,
    () => quietly(one.updateWeights({ version: ++version, path: `/w/${version}`, timeoutMs: 300 })),
    () => quietly(chance(0.5) ? one.pause({ timeoutMs: 100 }) : one.resume()),
    () => {
      if (rolling) return
      rolling = true
      const batch = Array.from({ length: 1 + random.int(4) }, () => forBatch(true))
      const work = one.rollout(batch, { stopAfter: 1 + random.int(batch.length) }).then((groups) => {
        rolling = false
        before.take(before.life.batch, ...groups)
      })
      quietly(
        work.catch(() => {
          for (const { id } of batch) batched.delete(id)
        }),
      )
    },
    () => {
      stream ??= one.batches(source(), { size: 2, maxStaleness: 100, incomplete: 'offer', tooOld: 'mark' })
      quietly(
        stream.next().then(({ done, value }) => {
          if (done !== true) before.take(before.life.batch, ...value.groups)
        }),
      )
    },
    () => {
      reader ??= one.completions({ highWaterMark: 4 })
      quietly(
        reader.next().then(({ done, value }) => {
          if (done !== true) before.take(before.life.read, value)
        }),
      )
    },
  ]
  function revive(): void {
    for (const each of servers) each.revive(each.weightVersion)
  }

  quietly(one.start())
  for (let left = 5 + random.int(20); left > 0; left--) {
    await commands[random.int(commands.length)]!()
    await clock.settle()
  }
  const inCallback = chance(0.3)
  let text: string | null = null
  /** Tasks that were submitted by then. */
  let submitted = 0
  const save = (): void => {
    if (text !== null) return
    text = JSON.stringify(one.save())
    submitted = next
    before.end()
  }
  if (inCallback) {
    one.events$.subscribe(save)
    await clock.advance(random.int(50))
  }
  save()
  await clock.run(one.close())
  await clock.run(Promise.all(background.splice(0)))

  const saved = JSON.parse(text!) as SavedState
  const two = createSupervisor({ ...options, restore: saved })
  const books = two.getSnapshot().conservation
  const over = Object.values(saved.ended).reduce((sum, each) => sum + each, 0)
  must(books.submitted === books.waiting + over, () => `I1: ${books.submitted} = ${books.waiting} + ${over}`)
  const after = follow(two)
  const again = two.completions({ highWaterMark: 100_000 })
  const readAll = (async () => {
    if (reader === null) return
    for await (const completion of again) after.life.read.push(completion)
  })()
  revive()
  await clock.run(two.start())
  await clock.run(
    two.updateWeights({
      version: (saved.weights ?? 0) + (chance(0.5) ? 0 : 1) + (saved.weights === null ? 1 : 0),
      path: '/w/x',
    }),
  )
  const carried = two.rollout([]).then(
    (groups) => void after.life.batch.push(...groups),
    () => {
      for (const { id, keptFor } of saved.tasks) if (keptFor === 'rollout') batched.delete(id)
    },
  )
  const rest = (async () => {
    for await (const { groups } of two.batches([], { size: 1, incomplete: 'offer', tooOld: 'mark' }))
      after.life.batch.push(...groups)
  })()
  for (const work of [carried, rest]) quietly(work)
  const giveUpAt = clock.now() + PATIENCE_MS
  const busy = (): number => two.getSnapshot().conservation.waiting + two.getSnapshot().conservation.running
  let raised = false
  while (busy() > 0 && clock.now() < giveUpAt) {
    await clock.advance(200)
    if (raised || two.getSnapshot().waiting.version === 0) continue
    raised = true
    await clock.run(two.updateWeights({ version: version + 10, path: '/w/y' }))
  }
  must(busy() === 0, () => `I6: ${busy()} never ended: ${JSON.stringify(two.getSnapshot().waiting)}`)
  for (const work of [carried, rest]) await clock.run(work.catch(() => {}))
  const results = await clock.run(Promise.all(two.restored.map(({ result }) => result)))
  await clock.run(two.close())
  await clock.run(readAll)
  must(clock.pending === 0, () => `I12: ${clock.pending} timers are left`)
  check()
  return broken

  function check(): void {
    const seen = new Map<string, number>()
    for (const completion of [...before.life.completions, ...after.life.completions]) {
      seen.set(completion.id, (seen.get(completion.id) ?? 0) + 1)
      exact(completion)
    }
    const groups = [...before.life.groups, ...after.life.groups]
    for (const { completions } of [...groups, ...results, ...after.life.batch])
      for (const each of completions) exact(each)
    const told = new Map<string, number>()
    for (const { taskId } of groups) told.set(taskId, (told.get(taskId) ?? 0) + 1)
    // A callback that saves sees a sample end before the streams tell of it: then it comes back inside its group only.
    const back = inCallback ? [...results, ...after.life.batch] : []
    const late = new Set(back.flatMap(({ completions }) => completions.map(({ id }) => id)))
    const lateGroups = new Set(back.map(({ taskId }) => taskId))
    // A batch of which nothing is complete is an error, not groups.
    for (const { id, samples, completions } of inCallback ? saved.tasks : []) {
      if (completions.length < samples) continue
      lateGroups.add(id)
      for (const { sample } of completions) late.add(`${id}/${sample}`)
    }
    for (const [id, { samples }] of [...tasks].slice(0, submitted)) {
      must(told.get(id) === 1 || lateGroups.has(id), () => `I2: group ${id} was told ${told.get(id)} times`)
      for (let sample = 0; sample < samples; sample++) {
        const of = `${id}/${sample}`
        must(seen.get(of) === 1 || late.has(of), () => `I2: ${of} completed ${seen.get(of)} times`)
      }
    }
    const out = [...before.life.batch, ...after.life.batch].map(({ taskId }) => taskId)
    must(new Set(out).size === out.length, () => `I2: handed out twice: ${out.join(' ')}`)
    if (inCallback) return
    const given = new Set(out)
    for (const id of batched)
      must(given.has(id) || Number(id.slice(1)) >= submitted, () => `I2: ${id} was never handed out`)
    if (reader === null) return
    const read = [...before.life.read, ...after.life.read].map(({ id }) => id)
    must(new Set(read).size === read.length, () => `I2: read twice: ${read.join(' ')}`)
  }
  function exact(completion: Completion): void {
    const { id, taskId, outcome, tokenIds, logprobs, versions, segments, meta } = completion
    const { key, length } = tasks.get(taskId)!
    must((meta as { of: string }).of === taskId, () => `${id} has the meta of another task`)
    must(outcome !== 'completed' || tokenIds.length === length, () => `I8: ${id} has ${tokenIds.length} of ${length}`)
    must(outcome === 'completed' || outcome === 'cancelled' || outcome === 'failed', () => `I2: ${id} ${outcome}`)
    must(logprobs.length === tokenIds.length, () => `I8: ${id} has ${logprobs.length} log-probabilities`)
    for (const [at, token] of tokenIds.entries()) must(token === tokenOf(key, at), () => `I8: token ${at} of ${id}`)
    let end = 0
    for (const span of versions) {
      must(span.start === end, () => `I8: spans of ${id}`)
      for (let at = span.start; at < span.end && span.mixed !== true; at++)
        must(
          logprobs[at] === logprobOf(span.version, at),
          () => `I8, F8: token ${at} of ${id} is not of version ${span.version}`,
        )
      end = span.end
    }
    must(end === tokenIds.length, () => `I8: spans of ${id} end at ${end} of ${tokenIds.length}`)
    must((segments.at(-1)?.end ?? 0) === tokenIds.length, () => `I8: segments of ${id}`)
  }
}

test(`every sample completes once over two lives, exactly, over ${count} seeds`, { timeout: 3_600_000 }, async () => {
  const failed: string[] = []
  for (let seed = first; seed < first + count && failed.length < 10; seed++) {
    const broken = await live(seed).catch((cause: unknown) => [String((cause as Error).stack ?? cause)])
    if (broken.length > 0)
      failed.push(`seed ${seed} (SEED=${seed} npx vitest run test/properties):\n${broken.join('\n')}`)
  }
  expect(failed.join('\n')).toBe('')
})
