/**
 * `rollout-supervisor demo`: starts the fleet, trains, shows how it goes, and says where the time went. Everything it starts it also ends.
 */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createTimeline, type Timeline, timelineSvg } from '../index.ts'
import { createTinyWeights } from '../testing/index.ts'
import { type DemoFleet, startDemoFleet } from './demo-fleet.ts'
import { createDemoMeter } from './demo-meter.ts'
import { DEMO_HELP, type DemoOptions, readDemoOptions, TARGET_REWARD } from './demo-options.ts'
import { type DemoStop, type TrainedStep, type Training, train } from './demo-train.ts'
import { createStyle, EXIT, type Io, type StopSignal, wantsColor } from './io.ts'
import { createProgress, type Progress } from './progress.ts'
import { createReport, reportText } from './report.ts'

/** The budget when neither --steps nor --seconds says how long. */
const BUDGET_SECONDS = 120
/** How often the live line is offered a new state; the line itself decides how often it is drawn. */
const TICK_MS = 50

export async function demo(args: readonly string[], io: Io): Promise<number> {
  const options = readDemoOptions(args)
  if (options === null) {
    io.stdout.write(DEMO_HELP)
    return EXIT.ok
  }
  const now = (): number => performance.now()
  const color = wantsColor(io.stderr, io.env, options.noColor)
  const rewrite = io.stderr.isTTY && io.env.TERM !== 'dumb'
  const progress = createProgress({ output: io.stderr, color, rewrite, quiet: options.quiet, now })
  progress.say(welcome(options))
  const stop = new AbortController()
  const forget = stopOnSignals(io, stop, progress)
  const budget = setTimeout(() => stop.abort('budget' satisfies DemoStop), budgetMs(options))
  try {
    await mkdir(options.out, { recursive: true })
    const startedAt = now()
    const weights = createTinyWeights({ seed: options.seed })
    const fleet = await startDemoFleet(options, weights)
    try {
      const { supervisor } = fleet
      const timeline = createTimeline({ view: () => supervisor.getSnapshot(), startedAt })
      supervisor.events$.subscribe((event) => timeline.observe(event))
      const show = showProgress(fleet, timeline, options, progress, { startedAt, now })
      try {
        await supervisor.start()
        const training = await train({
          demo: options,
          supervisor,
          weights,
          signal: stop.signal,
          now,
          onStep: show.onStep,
          onTrained: show.onTrained,
        })
        return await conclude(io, options, fleet, training, timeline, progress, now())
      } finally {
        show.end()
      }
    } finally {
      await fleet.close()
    }
  } finally {
    clearTimeout(budget)
    forget()
  }
}

/** Writes the files, prints the report, and says what the exit code is. */
async function conclude(
  io: Io,
  options: DemoOptions,
  { supervisor, slow }: DemoFleet,
  training: Training,
  timeline: Timeline,
  progress: Progress,
  at: number,
): Promise<number> {
  progress.end()
  const record = timeline.report(at)
  const files = [join(options.out, 'timeline.svg'), join(options.out, 'report.json')] as const
  const parts = { options, training, timeline: record, fleet: supervisor.getSnapshot(), slow, files }
  const report = createReport(parts)
  const placed = `${options.strict ? 'strict ' : ''}${options.policy}`
  const speed = slow.length === 0 ? '' : `  ·  ${slow.join(', ')} at 1/${options.slowFactor} speed`
  const points = training.steps.map((step) => ({ at: step.at, value: step.reward }))
  const picture = {
    title: 'Training a tiny policy with GRPO',
    subtitle: `${placed}${speed}`,
    curves: [{ name: 'mean reward', top: 1, points }],
  }
  await writeFile(files[0], timelineSvg(record, picture))
  await writeFile(files[1], `${JSON.stringify(report, null, 2)}\n`)
  const style = createStyle(wantsColor(io.stdout, io.env, options.noColor))
  io.stdout.write(options.json ? `${JSON.stringify(report)}\n` : reportText(report, style))
  if (training.stop === 'SIGINT' || training.stop === 'SIGTERM') return EXIT[training.stop]
  return report.ok ? EXIT.ok : EXIT.failed
}

function welcome({ engines, capacity, policy, strict, slow, slowFactor, steps, out }: DemoOptions): string {
  const placed = `${strict ? 'strict ' : ''}${policy}`
  const speed = slow === 0 ? '' : `, ${slow} of them ${slowFactor} times slower`
  const goal = steps === null ? `until its mean reward stays above ${TARGET_REWARD}` : `for ${steps} steps`
  return `training a tiny policy on ${engines} embedded engines of ${capacity} slots (${placed}${speed}) ${goal}; files go to ${out}`
}

function budgetMs({ seconds, steps }: DemoOptions): number {
  // Timers hold at most 2^31 - 1 ms; 24 days are as good as no budget.
  return seconds === null ? (steps === null ? BUDGET_SECONDS * 1_000 : 2 ** 31 - 1) : seconds * 1_000
}

/** The first signal stops the run cleanly, the second ends the process at once. */
function stopOnSignals(io: Io, stop: AbortController, progress: Progress): () => void {
  let seen = false
  const listen = (signal: StopSignal): (() => void) =>
    io.onSignal(signal, () => {
      if (seen) return io.exit(EXIT[signal])
      seen = true
      progress.say(`${signal}: stopping; once more to end at once`)
      stop.abort(signal satisfies DemoStop)
    })
  const forget = [listen('SIGINT'), listen('SIGTERM')]
  return () => {
    for (const one of forget) one()
  }
}

interface Show {
  readonly onStep: (step: number) => void
  readonly onTrained: (steps: readonly TrainedStep[]) => void
  readonly end: () => void
}

function showProgress(
  { supervisor }: DemoFleet,
  timeline: Timeline,
  options: DemoOptions,
  progress: Progress,
  { startedAt, now }: { readonly startedAt: number; readonly now: () => number },
): Show {
  const meter = createDemoMeter(timeline)
  let step = 0
  let rewards: readonly number[] = []
  const events = supervisor.events$.subscribe((event) => {
    meter.observe(event)
    if (event.type === 'instance.fault') progress.say(`${event.instance}: ${event.error.message}`)
    if (event.type === 'run.fault') progress.say(event.error.message)
  })
  const draw = (): void =>
    progress.update(() => {
      const { conservation } = supervisor.getSnapshot()
      const elapsedMs = now() - startedAt
      const left = options.steps === null || rewards.length === 0 ? null : options.steps - rewards.length
      return {
        step,
        steps: options.steps,
        rewards,
        done: meter.done,
        total: options.groups * options.samples,
        running: conservation.running,
        waiting: conservation.waiting,
        ...meter.rates(now()),
        failed: meter.failed,
        elapsedMs,
        etaMs: left === null ? null : (elapsedMs / rewards.length) * left,
      }
    })
  const timer = setInterval(draw, TICK_MS)
  return {
    onStep(next) {
      step = next
      meter.nextStep()
    },
    onTrained(steps) {
      rewards = steps.map(({ reward }) => reward)
    },
    end() {
      clearInterval(timer)
      events.unsubscribe()
      progress.end()
    },
  }
}
