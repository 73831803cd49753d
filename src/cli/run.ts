/**
 * `rollout-supervisor run`: a file of prompts in, a file of completions out, over a fleet. Everything it starts it also ends, and what it
 * could not do is in the exit code.
 */
import { mustDiffer, openInput } from './input.ts'
import { CommandError, EXIT, type Io, wantsColor } from './io.ts'
import { createLineSink } from './line-sink.ts'
import { createLiveLine, type LiveLine } from './live-line.ts'
import { createLog } from './log.ts'
import { openOutput, outputFailure, type RunOutput } from './output.ts'
import { startRunFleet } from './run-fleet.ts'
import { RUN_HELP, type RunOptions, readRunOptions } from './run-options.ts'
import { createSpeed, momentOf, type RunCounts, type RunSummary, runLine, summaryText } from './run-progress.ts'
import { type RunWork, submitLines, writeCompletions } from './run-work.ts'
import { signalOf, stopOnSignals } from './signals.ts'
import { createWindow } from './window.ts'

/** Between two plain lines of progress, where no terminal rewrites one. */
const PLAIN_MS = 10_000
/** How often the live line is offered a new state; the line itself decides how often it is drawn. */
const TICK_MS = 100
/** How often servers are looked at for something wrong. */
const WATCH_MS = 1_000
/** Capacity is looked up this often while the window waits for room. */
const CAPACITY_MS = 1_000
/** Samples in flight for each slot of the fleet: enough that no slot waits for the input. */
const SAMPLES_PER_SLOT = 2
/** Input that is in flight at most; short prompts never come near. */
const LIVE_BYTES = 256 * 1024 * 1024

export async function run(args: readonly string[], io: Io): Promise<number> {
  const options = readRunOptions(args, io.env)
  if (options === null) {
    io.stdout.write(RUN_HELP)
    return EXIT.ok
  }
  const now = (): number => performance.now()
  const rewrite = io.stderr.isTTY && io.env.TERM !== 'dumb' && !options.verbose
  const live = createLiveLine({ output: io.stderr, rewrite, quiet: options.quiet, plainMs: PLAIN_MS, now })
  const stop = new AbortController()
  const forget = stopOnSignals(io, stop, live.say)
  try {
    const input = await openInput(options.input, io)
    await mustDiffer(options.input, options.output)
    const { output: path, retryFailed } = options
    const output = await openOutput({ path, retryFailed, signal: stop.signal }, io)
    try {
      return await complete({ options, io, live, now, stop, output }, input)
    } finally {
      await output.close()
    }
  } catch (error) {
    // A signal ends the preparations with an error of their own.
    const signal = signalOf(stop.signal)
    if (signal === null || error instanceof CommandError) throw error
    return EXIT[signal]
  } finally {
    live.end()
    forget()
  }
}

/** Why a run ends whose servers are gone. */
const GIVEN_UP = 'given up'

interface Session {
  readonly options: RunOptions
  readonly io: Io
  readonly live: LiveLine
  readonly now: () => number
  readonly stop: AbortController
  readonly output: RunOutput
}

async function complete(session: Session, input: RunWork['input']): Promise<number> {
  const { options, io, live, now, stop, output } = session
  const { signal } = stop
  // Servers that do not answer have their time.
  if (io.stderr.isTTY) live.update(() => 'asking the servers what they are')
  const fleet = await startRunFleet(options, createLog(options.verbose, live), live.say, signal)
  const { supervisor } = fleet
  const startedAt = now()
  const counts: RunCounts = {
    lines: 0,
    unusable: 0,
    samples: 0,
    completed: 0,
    failed: 0,
    skipped: 0,
    tokens: 0,
    firstFailure: null,
    read: input.bytes === null ? null : 0,
  }
  const mostSamples = options.concurrency === null ? fleetLimit(supervisor, now) : () => options.concurrency!
  const sink = createLineSink(output.put, () => stop.abort('output'))
  const work: RunWork = {
    input,
    memory: output.memory,
    supervisor,
    sink,
    window: createWindow({ mostSamples, mostBytes: LIVE_BYTES, signal }),
    defaults: { samples: options.samples, sampling: options.sampling },
    counts,
    complain(line, words) {
      live.end()
      io.stderr.write(`line ${line}: ${words}\n`)
    },
    signal,
  }
  const hide = showProgress(session, work, startedAt)
  const leave = writeCompletions(work)
  try {
    await submitLines(work)
    await work.window.empty()
    // Nothing new is placed; what runs may end. Past the deadline it is cancelled, and run again next time.
    if (signalOf(signal) !== null) await supervisor.pause({ timeoutMs: options.graceMs }).catch(() => {})
    leave()
  } finally {
    hide()
    await fleet.close()
    await sink.flush()
  }
  if (sink.failure !== null) throw outputFailure(options.output, sink.failure)
  if (signal.reason === GIVEN_UP)
    throw new CommandError(
      `no server has answered for ${options.giveUpMs / 1_000} s; ${counts.completed} samples were completed; start the servers and run it again`,
    )
  const stopped = signalOf(signal)
  const { samples, read, ...sums } = counts
  const failedBefore = output.memory.failed
  const summary: RunSummary = {
    ok: stopped === null && counts.failed + counts.unusable + failedBefore === 0,
    ...sums,
    failedBefore,
    ms: Math.round(now() - startedAt),
    stopped,
    output: options.output,
  }
  conclude(session, summary)
  if (stopped !== null) return EXIT[stopped]
  return summary.ok ? EXIT.ok : EXIT.failed
}

function conclude({ options, io, live }: Session, summary: RunSummary): void {
  live.end()
  const text = `${JSON.stringify(summary)}\n`
  if (options.json) (options.output === null ? io.stderr : io.stdout).write(text)
  else if (!options.quiet) io.stderr.write(summaryText(summary, wantsColor(io.stderr, io.env, options.noColor)))
}

/** Twice what the servers that take work run at once, at least one. */
function fleetLimit(supervisor: RunWork['supervisor'], now: () => number): () => number {
  let lookedAt = Number.NEGATIVE_INFINITY
  let limit = 1
  return () => {
    if (now() - lookedAt < CAPACITY_MS) return limit
    lookedAt = now()
    const slots = supervisor.getSnapshot().instances.reduce((sum, { capacity }) => sum + (capacity ?? 0), 0)
    limit = Math.max(1, slots * SAMPLES_PER_SLOT)
    return limit
  }
}

/** Draws the live line, says what goes wrong with servers, and gives up when none has answered for long. @returns ends it */
function showProgress(
  { options, io, live, now, stop }: Session,
  { supervisor, counts }: RunWork,
  startedAt: number,
): () => void {
  const color = wantsColor(io.stderr, io.env, options.noColor)
  const speed = createSpeed(startedAt)
  const draw = (): void => {
    const elapsedMs = now() - startedAt
    // Where lines stay, the first has something to say.
    if (!io.stderr.isTTY && elapsedMs < PLAIN_MS) return
    live.update((columns) => {
      const moment = momentOf(supervisor.getSnapshot())
      return runLine({ counts, moment, tokensPerSecond: speed(now(), moment.tokens), elapsedMs }, columns, color)
    })
  }
  const faults = new Map<string, string | null>()
  let answeredAt = startedAt
  const watch = (): void => {
    const view = supervisor.getSnapshot()
    for (const { id, fault } of view.instances) {
      // Once, until the server answers again or something else is wrong with it.
      if (fault !== null && faults.get(id) !== fault) live.say(fault)
      faults.set(id, fault)
    }
    if (!momentOf(view).stuck) answeredAt = now()
    else if (now() - answeredAt >= options.giveUpMs) stop.abort(GIVEN_UP)
  }
  watch()
  const timers = [setInterval(draw, TICK_MS), setInterval(watch, WATCH_MS)]
  return () => {
    for (const timer of timers) clearInterval(timer)
    live.end()
  }
}
