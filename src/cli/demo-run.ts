/**
 * One run of the demo: starts the fleet, trains, shows how it goes, and says where the time went. Everything it starts it also ends.
 */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createTimeline, type Timeline, type TimelineMark, timelineSvg } from '../index.ts'
import { createTinyWeights } from '../testing/index.ts'
import type { Evaluated } from './demo-evaluate.ts'
import type { Accident } from './demo-fault.ts'
import { type DemoFleet, startDemoFleet } from './demo-fleet.ts'
import { createDemoMeter } from './demo-meter.ts'
import type { DemoOptions } from './demo-options.ts'
import { createTokenMeter, type TokenMeter } from './demo-tokens.ts'
import { type TrainedStep, type Training, train } from './demo-train.ts'
import { createStyle, EXIT, type Io, wantsColor } from './io.ts'
import { createLog } from './log.ts'
import type { Progress } from './progress.ts'
import { createReport } from './report.ts'
import { reportText } from './report-text.ts'

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
  const fleet = await startDemoFleet(options, weights, createLog(options.verbose, run.progress), now)
  const { supervisor, fault } = fleet
  try {
    const timeline = createTimeline({ view: () => supervisor.getSnapshot(), startedAt })
    const tokens = createTokenMeter()
    supervisor.events$.subscribe((event) => {
      timeline.observe(event)
      tokens.observe(event)
      fault.observe(event)
    })
    supervisor.completions$.subscribe((completion) => tokens.complete(completion))
    const { end, ...hooks } = showProgress(run, fleet, timeline, startedAt)
    let training: Training
    try {
      await supervisor.start()
      training = await train({ demo: options, supervisor, weights, fault, signal, now, ...hooks })
    } finally {
      end()
    }
    return await conclude(run, fleet, training, timeline, tokens)
  } finally {
    await fleet.close()
  }
}

/** Writes the files, prints the report, and says what the exit code is. */
async function conclude(
  { io, options, now }: DemoRun,
  { supervisor, slow, fault, generated }: DemoFleet,
  training: Training,
  timeline: Timeline,
  tokens: TokenMeter,
): Promise<number> {
  const record = timeline.report(now())
  const files = [join(options.out, 'timeline.svg'), join(options.out, 'report.json')] as const
  const { accident } = fault
  const trained = training.fidelity.tokens + training.fidelity.unchecked
  const parts = { options, training, timeline: record, fleet: supervisor.getSnapshot(), slow, accident, files }
  const report = createReport({ ...parts, tokens: tokens.account(generated(), trained) })
  const placed = `${options.strict ? 'strict ' : ''}${options.policy}`
  const speed = slow.length === 0 ? '' : `  ·  ${slow.join(', ')} at 1/${options.slowFactor} speed`
  const rewards = training.steps.map(({ at, reward }) => ({ at, value: reward }))
  const scores = training.evaluations.map(({ at, score }) => ({ at, value: score }))
  const curves = [{ name: 'mean reward', top: 1, points: rewards }]
  if (scores.length > 0) curves.push({ name: 'evaluation', top: 1, points: scores })
  const picture = {
    title: 'Training a tiny policy with GRPO',
    subtitle: `${placed}${speed}`,
    curves,
    marks: accident === null ? [] : marksOf(accident),
  }
  await writeFile(files[0], timelineSvg(record, picture))
  await writeFile(files[1], `${JSON.stringify(report, null, 2)}\n`)
  const style = createStyle(wantsColor(io.stdout, io.env, options.noColor))
  io.stdout.write(options.json ? `${JSON.stringify(report)}\n` : reportText(report, style))
  if (training.stop === 'SIGINT' || training.stop === 'SIGTERM') return EXIT[training.stop]
  return report.ok ? EXIT.ok : EXIT.failed
}

function marksOf({ instance, killedAt, restartedAt, backAt }: Accident): TimelineMark[] {
  const moments = [
    [killedAt, 'killed'],
    [restartedAt, 'restarted'],
    [backAt, 'up to date'],
  ] as const
  return moments.flatMap(([at, label]) => (at === null ? [] : [{ at, label, instance }]))
}

interface Show {
  readonly onStep: (step: number, ended: () => number) => void
  readonly say: (words: string) => void
  readonly onTrained: (steps: readonly TrainedStep[]) => void
  readonly onEvaluated: (evaluated: Evaluated) => void
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
  let score: number | null = null
  let groups = (): number => 0
  // One fault that is seen many times is said once, until its instance serves again.
  const faulty = new Set<string>()
  const events = supervisor.events$.subscribe((event) => {
    meter.observe(event)
    if (event.type === 'instance.state' && event.state.startsWith('serving')) faulty.delete(event.instance)
    if (event.type === 'instance.fault' && !faulty.has(event.instance)) {
      faulty.add(event.instance)
      progress.say(`${event.instance}: ${event.error.message}`)
    }
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
        score,
        done: Math.min(groups(), options.groups),
        total: options.groups,
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
    onStep(next, ended) {
      step = next
      groups = ended
    },
    say: progress.say,
    onTrained(steps) {
      rewards = steps.map(({ reward }) => reward)
    },
    onEvaluated(evaluated) {
      score = evaluated.score
    },
    end() {
      clearInterval(timer)
      events.unsubscribe()
      progress.end()
    },
  }
}
