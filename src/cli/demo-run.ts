/**
 * One run of the demo: starts the fleet, trains, shows how it goes, and says where the time went. Everything it starts it also ends.
 */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createTimeline, type Timeline, timelineSvg } from '../index.ts'
import { createTinyWeights } from '../testing/index.ts'
import { type DemoFleet, startDemoFleet } from './demo-fleet.ts'
import { createDemoMeter } from './demo-meter.ts'
import type { DemoOptions } from './demo-options.ts'
import { type TrainedStep, type Training, train } from './demo-train.ts'
import { createStyle, EXIT, type Io, wantsColor } from './io.ts'
import { createLog } from './log.ts'
import type { Progress } from './progress.ts'
import { createReport, reportText } from './report.ts'

export interface DemoRun {
  readonly options: DemoOptions
  readonly io: Io
  readonly progress: Progress
  readonly now: () => number
  /** Its reason is why the run shall stop. */
  readonly signal: AbortSignal
}

/** How often the live line is offered a new state; the line itself decides how often it is drawn. */
const TICK_MS = 50

/** @returns the exit code */
export async function runDemo(run: DemoRun): Promise<number> {
  const { options, now, signal } = run
  await mkdir(options.out, { recursive: true })
  const startedAt = now()
  const weights = createTinyWeights({ seed: options.seed })
  const fleet = await startDemoFleet(options, weights, createLog(options.verbose, run.progress))
  const { supervisor } = fleet
  try {
    const timeline = createTimeline({ view: () => supervisor.getSnapshot(), startedAt })
    supervisor.events$.subscribe((event) => timeline.observe(event))
    const { end, ...hooks } = showProgress(run, fleet, timeline, startedAt)
    let training: Training
    try {
      await supervisor.start()
      training = await train({ demo: options, supervisor, weights, signal, now, ...hooks })
    } finally {
      end()
    }
    return await conclude(run, fleet, training, timeline)
  } finally {
    await fleet.close()
  }
}

/** Writes the files, prints the report, and says what the exit code is. */
async function conclude(
  { io, options, now }: DemoRun,
  { supervisor, slow }: DemoFleet,
  training: Training,
  timeline: Timeline,
): Promise<number> {
  const record = timeline.report(now())
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

interface Show {
  readonly onStep: (step: number) => void
  readonly onTrained: (steps: readonly TrainedStep[]) => void
  readonly end: () => void
}

function showProgress(
  { options, progress, now }: DemoRun,
  { supervisor }: DemoFleet,
  timeline: Timeline,
  startedAt: number,
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
