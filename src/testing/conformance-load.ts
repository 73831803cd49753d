/**
 * Conformance of a server under load: how much it runs at once, what ends a request, and that nothing is left behind.
 */
import type { Probe } from '../engines/driver.ts'
import type { Check, CheckedConformance, Unfit } from './conformance.ts'
import { noIds } from './conformance-generate.ts'
import { expectThat, type Generated, type Started, type Tools } from './conformance-tools.ts'

/** Above the capacity, so that some must wait. */
const MORE = 2
/** Long enough to be counted by reports that lag by seconds, and little enough for a small cache. */
const FULL_TOKENS = 512
/** The server forgets an aborted request at its own pace; more is a request that runs on. */
const ABORT_MS = 10_000
/** Counters may leave out the first token, and what no report has told yet. */
const ALL_OF_IT = 0.9
/** Of the ends that are shown in a message. */
const SHOWN = 3

const noAbort = (probe: Probe): Unfit | null =>
  noIds(probe) ??
  (probe.capabilities.abortById
    ? null
    : { outcome: 'not offered', found: 'only closing its connection ends a request' })

const noFullLoad = (probe: Probe, { concurrency }: CheckedConformance): Unfit | null => {
  const { capacity, capabilities } = probe
  if (capacity === null) return { outcome: 'not offered', found: 'the server does not say how many it runs at once' }
  if (!capabilities.loadReport) return { outcome: 'not offered', found: 'the server does not count what it runs' }
  if (capacity + MORE > concurrency)
    return { outcome: 'skipped', found: `it runs ${capacity} at once; allow as many to be sent with concurrency` }
  return null
}

export const LOAD_CHECKS: readonly Check[] = [
  {
    name: 'load report',
    works: 'a server is known to be quiet before its weights change',
    without: 'requests of others are not noticed, and get new weights under them',
    unfit: ({ capabilities }) =>
      capabilities.loadReport ? null : { outcome: 'not offered', found: 'the server does not count what it runs' },
    async run(tools) {
      await tools.loadOf(0)
      const long = await tools.startLong()
      const seenMs = await tools.loadOf(1)
      long.leave()
      const goneMs = await tools.loadOf(0)
      return `a request was counted after ${seenMs} ms, and no more ${goneMs} ms after its end`
    },
  },
  {
    name: 'full capacity',
    works: 'no sample queues inside a server while another is idle',
    without: 'set capacity by hand, or samples wait inside the server',
    unfit: noFullLoad,
    async run(tools) {
      const capacity = tools.probe.capacity!
      await tools.loadOf(0)
      const all = fill(tools, capacity + MORE)
      await tools.loadOf(capacity + MORE)
      const { running, waiting } = await tools.driver.load(tools.signal)
      await endAll(tools, all)
      expectThat(running <= capacity, `it said ${capacity} at once, and runs ${running}`)
      return `${running} running, ${waiting} waiting of ${capacity + MORE}`
    },
  },
  {
    name: 'abort one',
    works: 'a cancelled or interrupted sample stops on the server, and keeps its tokens',
    without: 'interruptions close connections; what was on the wire is sampled again',
    unfit: noAbort,
    async run(tools) {
      await tools.loadOf(0)
      const [ending, staying] = [await tools.startLong(), await tools.startLong()]
      const ms = await abort(tools, ending)
      const out = await ending.done
      expectThat(out.finishReason === 'abort', `expected the end 'abort', found '${out.finishReason}'`)
      expectThat(
        out.tokens.length > 0 && out.tokens.length < tools.longTokens,
        `it ended with ${out.tokens.length} tokens`,
      )
      expectThat(!staying.ended, 'another request ended with it')
      staying.leave()
      const quietMs = await tools.loadOf(0)
      return `ended after ${ms} ms with ${out.tokens.length} tokens; the server counted 0 after ${quietMs} ms more`
    },
  },
  {
    name: 'abort an unknown id',
    works: 'an abort that comes too late does no harm',
    without: 'an abort that comes too late counts as a fault of the server',
    unfit: noAbort,
    async run({ driver, signal }) {
      await driver.abort('conf-of-nobody', signal)
      return 'no error'
    },
  },
  {
    name: 'abort while queued',
    works: 'a sample that waits inside the server can be moved',
    without: 'a sample that waits inside the server is stuck there',
    unfit: (probe, options) => noAbort(probe) ?? noFullLoad(probe, options),
    async run(tools) {
      const total = tools.probe.capacity! + MORE
      await tools.loadOf(0)
      const all = fill(tools, total - 1)
      await tools.loadOf(total - 1)
      const last = tools.start({ maxTokens: FULL_TOKENS })
      await tools.loadOf(total)
      const ms = await abort(tools, last)
      const out = await last.done
      await endAll(tools, all)
      expectThat(out.finishReason === 'abort', `expected the end 'abort', found '${out.finishReason}'`)
      return `ended after ${ms} ms with ${out.tokens.length} tokens`
    },
  },
  {
    name: 'abort all',
    works: 'an evaluation or an update has the server within moments',
    without: 'an evaluation or an update waits for the longest generation',
    unfit: noAbort,
    async run(tools) {
      const count = Math.min(tools.probe.capacity ?? 4, tools.options.concurrency, 8)
      await tools.loadOf(0)
      const all = fill(tools, count)
      await tools.loadOf(count)
      const from = tools.now()
      const ends = await endAll(tools, all)
      const ms = Math.round(tools.now() - from)
      const others = ends.filter(({ finishReason }) => finishReason !== 'abort')
      expectThat(
        others.length === 0,
        `expected 'abort', found ${others.slice(0, SHOWN).map((end) => end.finishReason)}`,
      )
      return `${count} requests; the server counted 0 after ${ms} ms`
    },
  },
  {
    name: 'disconnect',
    works: 'closing its connection frees the slot of a request',
    without: 'slots of clients that left stay taken',
    unfit: ({ capabilities }) =>
      capabilities.loadReport ? null : { outcome: 'not offered', found: 'the server does not count what it runs' },
    async run(tools) {
      await tools.loadOf(0)
      const before = await generated(tools)
      const long = await tools.startLong()
      await tools.loadOf(1)
      long.leave()
      const ms = await tools.loadOf(0)
      // A server that does not notice counts 0 as well, at the end.
      const tokens = (await generated(tools)) - before
      expectThat(
        tokens < ALL_OF_IT * tools.longTokens,
        `expected that it stops, found ${tokens} of ${tools.longTokens} tokens generated for nobody`,
      )
      return `the server counted 0 after ${ms} ms`
    },
  },
  {
    name: 'idle connection',
    works: 'a connection that the server closed meanwhile costs nothing',
    without: 'the first sample after a quiet time fails and is tried again',
    unfit: (_, { idleMs }) => (idleMs > 0 ? null : { outcome: 'skipped', found: 'idleMs is 0' }),
    async run(tools) {
      const prompt = tools.probe.capabilities.tokenIds ? {} : { prompt: 'a' }
      await tools.generate({ maxTokens: 2 }, prompt)
      await tools.sleep(tools.options.idleMs)
      await tools.generate({ maxTokens: 2 }, prompt)
      return `used again after ${tools.options.idleMs} ms`
    },
  },
]

function fill(tools: Tools, count: number): Started[] {
  return Array.from({ length: count }, () => tools.start({ maxTokens: FULL_TOKENS }))
}

/** Aborts until its stream has ended, as the supervisor does: a request on its way to the scheduler is missed. */
async function abort(tools: Tools, started: Started): Promise<number> {
  const from = tools.now()
  await tools.driver.abort(started.requestId, tools.signal)
  const words = `expected an aborted request to end within ${ABORT_MS / 1_000} s, found it running`
  await tools.until(words, () => {
    expectThat(tools.now() - from < ABORT_MS, words)
    return started.ended
  })
  return Math.round(tools.now() - from)
}

/** Ends them by id where that is possible, else by closing their connections, and waits until the server counts none. */
async function endAll(tools: Tools, all: readonly Started[]): Promise<readonly Generated[]> {
  if (tools.probe.capabilities.abortById) await Promise.all(all.map((started) => abort(tools, started)))
  else for (const started of all) started.leave()
  const ends = await Promise.allSettled(all.map(({ done }) => done))
  await tools.loadOf(0)
  return ends.filter((end) => end.status === 'fulfilled').map(({ value }) => value)
}

/** As far as the server counts them. */
async function generated({ driver, signal }: Tools): Promise<number> {
  return (await driver.load(signal)).generatedTokens ?? 0
}
