/**
 * Training data of real engines is exact: every token's log-probability is recomputed with `transformers` from the weights of its stamped version
 * (R1, I8, F8), over updates in each mode, evaluations that interrupt, groups over shared prefixes, a server that is killed and comes back with old
 * weights, and samples that move between SGLang and vLLM. Switched off on purpose, our protection is seen to be missed (R2, R3).
 */
import { afterAll, beforeAll, expect, it } from 'vitest'
import type { DriverFactory, EngineDriver } from '../../../src/engines/driver.ts'
import { engineFactory } from '../../../src/engines/index.ts'
import { type Completion, createSupervisor, type InstanceOptions, type Supervisor } from '../../../src/index.ts'
import { createFidelityChecker, type FidelityReport } from '../../../src/testing/index.ts'
import { post, until } from './drive.ts'
import { createScorer, type Scorer } from './scorer.ts'
import { checkpoint, describeEngine, type RealServer, startServer } from './servers.ts'

interface Meta {
  readonly prompt: readonly number[]
  readonly temperature: number
}

/** One prefix for all prompts, longer than the blocks of a cache. */
const PREFIX = Array.from({ length: 80 }, (_, i) => 5 + ((i * 7) % 200))
const SAMPLES = 4
const MAX_TOKENS = 48
const WEIGHTS = ['A', 'B', 'C'] as const
/** Version v has these weights. */
const weightsOf = (version: number): string => checkpoint(WEIGHTS[(version - 1) % WEIGHTS.length]!)
/** Above float32 noise by far; unrelated weights are 0.2 to 2 nats apart. */
const POISON_NATS = 0.02

let scorer: Scorer
beforeAll(() => {
  scorer = createScorer()
})
afterAll(() => scorer?.close())

/** A run with work that never ends until `settle` is called; every completion is checked then. */
async function begin(instances: readonly InstanceOptions[], temperatures: readonly number[] = [1]) {
  const supervisor = createSupervisor({ instances })
  const ended: Completion<Meta>[] = []
  const subscription = supervisor.completions$.subscribe(
    (completion) => void ended.push(completion as Completion<Meta>),
  )
  await supervisor.start()
  await supervisor.updateWeights({ version: 1, mode: 'drain', path: weightsOf(1) })
  let [serial, isOver] = [0, false]
  const task = () => {
    const temperature = temperatures[serial % temperatures.length]!
    const prompt = [...PREFIX.slice(0, 80 - (serial % 3)), 20 + (serial++ % 12)]
    const sampling = { maxTokens: MAX_TOKENS, temperature, ignoreEos: true }
    return { prompt, samples: SAMPLES, sampling, meta: { prompt, temperature } satisfies Meta }
  }
  const lane = async (): Promise<void> => {
    while (!isOver) await supervisor.submit(task()).result
  }
  const lanes = Array.from({ length: 4 * instances.length }, lane)
  return {
    supervisor,
    ended,
    task,
    /** Until so many samples have ended since, so that some run under what is now. */
    async work(samples: number): Promise<void> {
      const before = ended.length
      await until(`${samples} samples end`, () => ended.length >= before + samples)
    },
    async settle(): Promise<FidelityReport> {
      isOver = true
      await Promise.all(lanes)
      await supervisor.close()
      subscription.unsubscribe()
      const checker = createFidelityChecker({
        score: (version, prompt, tokens, completion) =>
          scorer.score(weightsOf(version), Array.from(prompt), [...tokens], (completion.meta as Meta).temperature),
      })
      for (const completion of ended) await checker.check(completion.meta.prompt, completion)
      return checker.report
    },
  }
}

type Work = Awaited<ReturnType<typeof begin>>

async function evaluate({ supervisor, task }: Work): Promise<void> {
  const groups = await supervisor.evaluate([task(), task()], { interrupt: 'resume' })
  for (const group of groups) expect(group.complete).toBe(true)
}

async function update(supervisor: Supervisor, version: number, mode: 'abort' | 'keep' | 'drain'): Promise<void> {
  const report = await supervisor.updateWeights({ version, mode, path: weightsOf(version) })
  expect(report.instances.every(({ ok }) => ok)).toBe(true)
}

/** What was done, in one line for the table of docs/engines.md. */
function say(
  what: string,
  { tokens, largest, completions, positions, unchecked }: FidelityReport,
  ended: readonly Completion[],
) {
  const resumed = ended.filter(({ segments }) => segments.length > 1).length
  const spans = ended.filter(({ versions }) => versions.length > 1).length
  console.log(
    `${what}: ${tokens} tokens of ${completions} samples, ${resumed} of several segments, ${spans} of several versions, ${positions.seams.tokens} seams; largest difference ${largest.toExponential(1)}, mixed ${unchecked.mixed}`,
  )
}

for (const engine of ['sglang', 'vllm'] as const) {
  describeEngine(engine, 'fidelity', () => {
    let server: RealServer
    beforeAll(async () => {
      server = await startServer(engine)
    })
    afterAll(() => server?.stop())

    it('R1, R2, R3, F7, F8, F12: exact over every mode, evaluations that interrupt, and a server that comes back with old weights', async () => {
      const work = await begin([{ url: server.url, engine }], engine === 'sglang' ? [1, 0.7] : [1])
      await work.work(8)
      await update(work.supervisor, 2, 'abort')
      await work.work(8)
      await evaluate(work)
      await update(work.supervisor, 3, 'keep')
      await work.work(8)
      await update(work.supervisor, 4, 'drain')
      await work.work(4)
      await evaluate(work)
      await update(work.supervisor, 5, 'abort')
      await server.restart()
      await work.work(10)
      const report = await work.settle()
      say(`${engine}, every mode and a restart`, report, work.ended)
      expect(report.offenders).toEqual([])
      expect(report).toMatchObject({ exact: true, malformed: [], unchecked: { mixed: 0, noVersion: 0 } })
      expect(Object.keys(report.versions)).toEqual(['1', '2', '3', '4', '5'])
      expect(work.ended.every(({ outcome }) => outcome === 'completed')).toBe(true)
      expect(work.ended.some(({ versions }) => versions.length > 1)).toBe(true)
    }, 3_600_000)

    it.each([
      ['R2: new weights without a flush poison new requests', 'drain'],
      ['R3: requests kept over new weights without recomputing are of neither weights', 'keep'],
    ] as const)(
      '%s, and the check sees it',
      async (_, mode) => {
        const work = await begin([{ url: server.url, engine: withoutFlush(engine) }])
        await work.work(8)
        await update(work.supervisor, 2, mode)
        await work.work(8)
        const report = await work.settle()
        say(`${engine}, ${mode} without a flush`, report, work.ended)
        expect(report.exact).toBe(false)
        expect(report.largest).toBeGreaterThan(POISON_NATS)
        expect(report.offenders.every(({ version }) => version === 2)).toBe(true)
      },
      900_000,
    )
  })
}

describeEngine(['sglang', 'vllm'], 'a mixed fleet', () => {
  const servers: RealServer[] = []
  beforeAll(async () => {
    for (const engine of ['sglang', 'vllm'] as const) servers.push(await startServer(engine))
  })
  afterAll(() => {
    for (const server of servers) server.stop()
  })

  it('R1, F7: samples move between SGLang and vLLM over updates, an evaluation and a death, and every token is exact', async () => {
    const work = await begin(servers.map(({ url, engine }) => ({ url, engine, id: engine })))
    await work.work(10)
    await update(work.supervisor, 2, 'abort')
    await work.work(8)
    await evaluate(work)
    servers[0]!.kill()
    await work.work(10)
    await servers[0]!.restart()
    await update(work.supervisor, 3, 'abort')
    await work.work(12)
    servers[1]!.kill()
    await work.work(8)
    const report = await work.settle()
    say('a mixed fleet', report, work.ended)
    expect(report.offenders).toEqual([])
    expect(report).toMatchObject({ exact: true, malformed: [], unchecked: { mixed: 0, noVersion: 0 } })
    const moved = work.ended.filter(({ segments }) => new Set(segments.map(({ instance }) => instance)).size > 1)
    expect(moved.length).toBeGreaterThan(0)
    expect(work.ended.every(({ outcome }) => outcome === 'completed')).toBe(true)
  }, 3_600_000)
})

/** The driver with its protection taken out: nothing that is cached or frozen is thrown away when the weights change. */
function withoutFlush(engine: 'sglang' | 'vllm'): DriverFactory {
  return (options): EngineDriver => {
    const { url } = options
    const driver = engineFactory(engine)(options)
    const done = async (path: string, body: object): Promise<void> => {
      const { status, json } = await post(url, path, body)
      if (status !== 200) throw new Error(`${path}: ${status} ${JSON.stringify(json)}`)
    }
    return {
      ...driver,
      async pause(mode, signal) {
        if (engine === 'sglang' && mode === 'keep') return done('/pause_generation', { mode: 'in_place' })
        await driver.pause?.(mode, signal)
      },
      async updateWeights({ version, path, frozen }, signal) {
        // The first finds caches of earlier tests, which are no part of this one.
        if (version === 1) return driver.updateWeights({ version, path, frozen }, signal)
        if (engine === 'sglang') {
          const update = {
            model_path: path,
            weight_version: `${version}`,
            flush_cache: false,
            abort_all_requests: false,
          }
          return done('/update_weights_from_disk', update)
        }
        await done('/collective_rpc', { method: 'reload_weights', kwargs: { weights_path: path } })
        await done('/update_weight_version', { new_version: `${version}` })
      },
    }
  }
}
