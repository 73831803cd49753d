/**
 * `rollout-supervisor demo`: reads the flags, says at once what will happen, and runs it until it is done, out of time, or told to stop.
 * The fleet and the trainer are loaded after the first line is out.
 */
import { budgetMs, DEMO_HELP, type DemoOptions, readDemoOptions, TARGET_REWARD } from './demo-options.ts'
import type { DemoStop } from './demo-train.ts'
import { EXIT, type Io, wantsColor } from './io.ts'
import { createProgress } from './progress.ts'
import { stopOnSignals } from './signals.ts'

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
  const forget = stopOnSignals(io, stop, progress.say)
  const budget = setTimeout(() => stop.abort('budget' satisfies DemoStop), budgetMs(options))
  try {
    const { runDemo } = await import('./demo-run.ts')
    return await runDemo({ options, io, progress, now, signal: stop.signal })
  } finally {
    progress.end()
    clearTimeout(budget)
    forget()
  }
}

function welcome({ engines, capacity, mode, policy, strict, slow, slowFactor, steps, out }: DemoOptions): string {
  const placed = `${strict ? 'strict ' : ''}${policy}`
  const speed = slow === 0 ? '' : `, ${slow} of them ${slowFactor} times slower`
  const goal =
    steps === null
      ? `until its mean reward stays above ${TARGET_REWARD}`
      : `for ${steps} ${steps === 1 ? 'step' : 'steps'}`
  return `training a tiny policy on ${engines} embedded ${engines === 1 ? 'engine' : 'engines'} of ${capacity} slots (${placed}${speed}), ${mode}, ${goal}; files go to ${out}`
}
