/**
 * The command: usage errors say what is allowed and end with 2, help and version go to stdout, and a short demo runs end to end.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { runCommand } from '../../src/cli/command.ts'
import { budgetMs, readDemoOptions } from '../../src/cli/demo-options.ts'
import type { DemoReport } from '../../src/cli/report.ts'
import { fakeIo } from './fake-io.ts'

const folder = mkdtempSync(join(tmpdir(), 'rollout-supervisor-demo-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** Small enough for a test: two engines without delays, and no evaluations, which would be most of it. */
const SMALL = [
  '--engines',
  '2',
  '--capacity',
  '4',
  '--groups',
  '4',
  '--samples',
  '4',
  '--step-ms',
  '0',
  '--evaluate-every',
  '0',
  '--out',
  folder,
]

/** Nothing is in flight while it trains: what depends on time is left out. */
const ON_POLICY = ['--extra', '0']

describe('command line', () => {
  it.each([
    [[], 'no command given; expected one of: demo'],
    [['train'], 'unknown command "train"; expected one of: demo'],
    [['__proto__'], 'unknown command "__proto__"'],
    [['demo', '--bogus'], "Unknown option '--bogus'; allowed: --steps"],
    [['demo', 'twice'], "Unexpected argument 'twice'"],
    [['demo', '--steps', '0'], '--steps: expected a whole number from 1 to 100000, found "0"'],
    [['demo', '--steps', '1.5'], '--steps: expected a whole number'],
    [['demo', '--steps', ''], '--steps: expected a whole number from 1 to 100000, found ""'],
    [['demo', '--seconds', 'soon'], '--seconds: expected a number from 0.001 to 86400, found "soon"'],
    [['demo', '--seed=-1'], '--seed: expected a whole number from 0 to 4294967295, found "-1"'],
    [['demo', '--samples', '1'], '--samples: expected a whole number from 2'],
    [['demo', '--policy', 'fifo'], '--policy: expected one of least-request, round-robin, found "fifo"'],
    [['demo', '--strict'], '--strict: expected together with --policy round-robin'],
    [['demo', '--slow', '5'], '--slow: expected at most the number of engines (4), found 5'],
    [['demo', '--out', ''], '--out: expected something that is not empty'],
  ])('%j is refused with what is allowed, and ends with 2', async (args, message) => {
    const io = fakeIo()
    expect(await runCommand(args, io)).toBe(2)
    expect(io.err).toContain(message)
    expect(io.out).toBe('')
  })

  it('names every bad flag at once', () => {
    expect(() => readDemoOptions(['--steps', 'x', '--engines', '0'])).toThrow(/--steps:[\s\S]*--engines:/)
  })

  it.each(['--help', '-h', 'help'])('%s lists the commands on stdout', async (flag) => {
    const io = fakeIo()
    expect(await runCommand([flag], io)).toBe(0)
    expect(io.out).toContain('demo')
    expect(io.err).toBe('')
  })

  it('--version is that of the package', async () => {
    const io = fakeIo()
    expect(await runCommand(['--version'], io)).toBe(0)
    const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
      version: string
    }
    expect(io.out).toBe(`${version}\n`)
  })

  it('demo --help names every flag', async () => {
    const io = fakeIo()
    expect(await runCommand(['demo', '--help'], io)).toBe(0)
    for (const flag of ['--steps', '--seconds', '--policy', '--strict', '--slow-factor', '--json', '--no-color'])
      expect(io.out).toContain(flag)
  })
})

describe('demo', () => {
  it('I8: trains on an HTTP fleet, every log-probability exact, one JSON object on stdout, the files written', async () => {
    const io = fakeIo()
    expect(await runCommand(['demo', ...SMALL, '--evaluate-every', '5', '--steps', '3', '--json'], io)).toBe(0)
    const report = JSON.parse(io.out) as DemoReport
    expect(report).toMatchObject({ ok: true, stop: 'steps', steps: 3, samples: { failed: 0, expired: 0 } })
    // Three steps of four groups, a group in flight beyond them, and two evaluations.
    const { completed, cancelled } = report.samples
    expect(completed + cancelled).toBe((3 * 4 + 1) * 4 + 2 * 40)
    expect(report.fidelity).toMatchObject({ exact: true, unchecked: 0 })
    const { evaluation, leftOver } = report.account
    expect(report.fidelity.tokens + evaluation + leftOver).toBe(report.tokens)
    expect(report.updates.count).toBe(4)
    expect(report.phases.weightUpdate?.times).toBe(4)
    expect(report.accident).toBeNull()
    // F10: each evaluation is of one version, the first of the first weights, the last of those that the training ended with.
    expect(report.evaluations.map(({ version, samples }) => [version, samples])).toEqual([
      [0, 40],
      [3, 40],
    ])
    expect(report.instances.map(({ id }) => id)).toEqual(['engine-1', 'engine-2'])
    const idle = Object.values(report.idleMs).reduce((sum, ms) => sum + ms, 0)
    expect(report.utilisation * report.capacityMs + idle).toBeCloseTo(report.capacityMs, -1.5)
    expect(readFileSync(join(folder, 'timeline.svg'), 'utf8')).toMatch(/^<svg[\s\S]*<\/svg>\n$/)
    expect(JSON.parse(readFileSync(join(folder, 'report.json'), 'utf8'))).toEqual(report)
    expect(readdirSync(folder).toSorted()).toEqual(['report.json', 'timeline.svg'])
    expect(io.err.split('\n')[0]).toContain('training a tiny policy on 2 embedded engines')
    expect(io.listeners.size).toBe(0)
  })

  it('F8: a server is killed, misses an update and comes back with old weights: nothing failed, every token is exact', async () => {
    const io = fakeIo()
    const flags = ['--steps', '3', '--kill-step', '1', '--step-ms', '4']
    expect(await runCommand(['demo', ...SMALL, ...flags, '--json'], io)).toBe(0)
    const { accident, fidelity, samples } = JSON.parse(io.out) as DemoReport
    expect(accident).toMatchObject({ instance: 'engine-2', step: 1 })
    expect(accident?.restartedAt).toBeGreaterThan(accident!.killedAt)
    expect(fidelity).toMatchObject({ exact: true, unchecked: 0 })
    expect(samples).toMatchObject({ failed: 0, expired: 0 })
    expect(io.err).toContain('engine-2 is killed while it works')
    expect(io.err.split('\n').filter((line) => line.startsWith('engine-2: '))).toHaveLength(1)
    const svg = readFileSync(join(folder, 'timeline.svg'), 'utf8')
    expect(svg).toContain('>killed</text>')
    expect(svg).toContain('>restarted</text>')
  })

  it('has longer where a server is slow, as the README shows it', () => {
    const budget = (...args: string[]): number => budgetMs(readDemoOptions(args)!)
    expect([budget(), budget('--slow', '1'), budget('--seconds', '7', '--slow', '1')]).toEqual([
      120_000, 480_000, 7_000,
    ])
    expect(budget('--steps', '3')).toBe(2 ** 31 - 1)
  })

  it('the only server of a fleet is not killed', () => {
    expect(readDemoOptions(['--engines', '1', '--kill-step', '3'])?.killStep).toBe(0)
    expect(readDemoOptions(['--engines', '2', '--kill-step', '3'])?.killStep).toBe(3)
  })

  it('on-policy, with nothing in flight between steps, the same seed trains the same, whatever the policy', async () => {
    const rewards: (readonly number[])[] = []
    for (const policy of [['least-request'], ['round-robin', '--strict']]) {
      const io = fakeIo()
      await runCommand(
        ['demo', ...SMALL, ...ON_POLICY, '--steps', '2', '--seed', '9', '--json', '--quiet', '--policy', ...policy],
        io,
      )
      expect(io.err).toBe('')
      rewards.push((JSON.parse(io.out) as DemoReport).rewards)
    }
    expect(rewards[0]).toEqual(rewards[1])
    expect(rewards[0]).toHaveLength(2)
  })

  it('off-policy: the next groups run while it trains; tokens are exact, and one version old at most', async () => {
    const io = fakeIo()
    expect(await runCommand(['demo', ...SMALL, '--mode', 'off-policy', '--steps', '4', '--json', '--quiet'], io)).toBe(
      0,
    )
    const { ok, fidelity, rewards } = JSON.parse(io.out) as DemoReport
    expect(ok).toBe(true)
    expect(rewards).toHaveLength(4)
    expect(fidelity.unchecked).toBe(0)
    expect(Object.keys(fidelity.staleness)).toEqual(['0', '1'])
  })

  it('A7: strict round-robin with a slow server shows the idle time that the turn cost; least-request has none of it', async () => {
    const run = async (...policy: string[]): Promise<DemoReport> => {
      const io = fakeIo()
      const slow = ['--slow', '1', '--slow-factor', '4', '--step-ms', '2', '--steps', '1', '--groups', '8']
      expect(await runCommand(['demo', ...SMALL, ...slow, '--json', '--quiet', ...policy], io)).toBe(0)
      return JSON.parse(io.out) as DemoReport
    }
    const strict = await run('--policy', 'round-robin', '--strict')
    const least = await run()
    expect(strict.instances[1]!.idleMs.turn ?? 0).toBeGreaterThan(0)
    expect(least.idleMs.turn ?? 0).toBe(0)
    // I7: a slot that is freed while samples wait is taken in the same breath.
    expect((least.idleMs.unplaced ?? 0) / least.capacityMs).toBeLessThan(0.01)
  })

  it('the report for people names the rewards, the check and the files', async () => {
    const io = fakeIo()
    expect(await runCommand(['demo', ...SMALL, '--steps', '2', '--slow', '1', '--slow-factor', '2'], io)).toBe(0)
    for (const words of [
      'reward',
      'all steps done',
      'exact, largest difference',
      'staleness',
      '0: ',
      'resumed',
      'nobody has',
      'weight update',
      'engine-2',
      '1/2',
      'timeline.svg',
    ]) {
      expect(io.out).toContain(words)
    }
  })

  it('out of time: ends with 1 and still reports', async () => {
    const io = fakeIo()
    expect(await runCommand(['demo', ...SMALL, '--step-ms', '50', '--seconds', '0.3', '--json', '--quiet'], io)).toBe(1)
    expect(JSON.parse(io.out)).toMatchObject({ ok: false, stop: 'budget', reachedTarget: false })
  })

  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('%s stops cleanly with %i, and a second one at once', async (signal, code) => {
    const io = fakeIo()
    io.onErr = (text) => {
      if (text.startsWith('training')) setTimeout(() => io.listeners.get(signal)?.(), 300)
      if (text.includes('once more')) io.listeners.get(signal)?.()
    }
    expect(await runCommand(['demo', ...SMALL, '--step-ms', '50', '--json'], io)).toBe(code)
    expect(io.exits).toEqual([code])
    expect(JSON.parse(io.out)).toMatchObject({ ok: false, stop: signal })
  })

  it('a folder that cannot be made is an error in words, with 1', async () => {
    const io = fakeIo()
    expect(await runCommand(['demo', ...SMALL, '--out', join('/dev/null', 'x')], io)).toBe(1)
    expect(io.err).toContain('/dev/null/x')
    expect(io.err).not.toContain('    at ')
  })
})
