/**
 * `run` stopped: by signals, which let running samples end; by SIGKILL at any moment, by a full disk and by a closed pipe, after
 * which the same command goes on and every sample is there exactly once. The last three are real processes, from dist.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { createRandom } from '../../src/testing/index.ts'
import { fastEngine, fileOf, freshPath, keysOf, keysOfPrompts, prompts, rowsIn, rowsOf, run } from './run-fixtures.ts'

const MAIN = fileURLToPath(new URL('../../dist/src/cli/main.js', import.meta.url))

/** Starts the real command. `begin` is what bash runs before it. */
function start(args: readonly string[], begin = 'true'): ChildProcess {
  return spawn('bash', ['-c', `${begin}; exec "$@"`, 'bash', process.execPath, MAIN, 'run', ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, NODE_OPTIONS: '' },
  })
}

async function ended(child: ChildProcess): Promise<{ code: number | null; signal: string | null; err: string }> {
  let err = ''
  child.stderr?.on('data', (data: Buffer) => {
    err += data.toString()
  })
  child.stdout?.resume()
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null]
  return { code, signal, err }
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 2))
}

function sizeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0
}

describe('signals', () => {
  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('%s lets running samples end, starts no other, and ends with %i', async (signal, code) => {
    const engine = await fastEngine({ stepMs: 4, capacity: 4 })
    const args = [fileOf(prompts(200)), '--url', engine.url, '--max-tokens', '40']
    let [atSignal, running] = [0, 0]
    const stopped = await run(args, (io) => {
      io.onOut = () => {
        if (atSignal > 0) return
        atSignal = rowsOf(io.out).length
        running = engine.counters.running
        io.listeners.get(signal)?.()
      }
    })
    expect(stopped.code).toBe(code)
    const rows = rowsOf(stopped.out)
    expect(rows.length).toBeGreaterThanOrEqual(atSignal + running)
    expect(rows.length).toBeLessThan(200)
    expect(rows.every(({ outcome }) => outcome === 'completed')).toBe(true)
    expect(stopped.err).toContain(`${signal}: stopping; once more to end at once`)
    expect(stopped.err).toContain(`stopped by ${signal}`)
    expect(stopped.io.listeners.size).toBe(0)
    expect(engine.counters.running).toBe(0)
  })

  it('what has not ended within --grace is left out, and run by the next call; a second signal ends the process at once', async () => {
    const slow = await fastEngine({ stepMs: 60_000 })
    const input = fileOf(prompts(3))
    const output = freshPath()
    const stopped = await run([input, '--url', slow.url, '--output', output, '--grace', '1ms', '--json'], (io) => {
      void until(() => slow.counters.requests === 3).then(() => {
        io.listeners.get('SIGINT')?.()
        io.listeners.get('SIGINT')?.()
      })
    })
    expect(stopped.code).toBe(130)
    expect(stopped.io.exits).toEqual([130])
    expect(JSON.parse(stopped.out)).toMatchObject({ ok: false, completed: 0, failed: 0, stopped: 'SIGINT' })
    expect(readFileSync(output, 'utf8')).toBe('')
    expect(existsSync(`${output}.lock`)).toBe(false)

    const engine = await fastEngine()
    expect((await run([input, '--url', engine.url, '--output', output])).code).toBe(0)
    expect(keysOf(rowsIn(output))).toEqual(keysOfPrompts(3))
  })

  it('a fleet that dies and does not come back within --give-up ends the run with 1; what was completed stays', async () => {
    const engine = await fastEngine({ stepMs: 1 })
    const output = freshPath()
    const args = [fileOf(prompts(300)), '--url', engine.url, '--output', output, '--give-up', '1ms']
    const result = run(args)
    await until(() => engine.counters.requests > 20)
    await engine.close()
    const { code, err } = await result
    expect(code).toBe(1)
    expect(err).toContain('no server has answered for 0.001 s')
    for (const { outcome } of rowsIn(output)) expect(outcome).toBe('completed')
  })

  it('one that comes while servers are asked ends it too', async () => {
    const engine = await fastEngine()
    const { code, out } = await run([fileOf(prompts(3)), '--url', engine.url], (io) => {
      void until(() => io.listeners.has('SIGTERM')).then(() => io.listeners.get('SIGTERM')?.())
    })
    expect(code).toBe(143)
    expect(out).toBe('')
  })
})

// Real processes: a loaded machine takes seconds to start each.
describe('exactly once', { timeout: 240_000 }, () => {
  it.each([1, 2])(
    'killed at random moments of writing and run again, every sample is there exactly once (seed %i)',
    async (seed) => {
      const random = createRandom(seed)
      const engine = await fastEngine({ stepMs: 1, capacity: 8 })
      const output = freshPath()
      const args = [fileOf(prompts(60, 3)), '--url', engine.url, '--output', output, '--max-tokens', '20', '--quiet']
      for (let kill = 0; kill < 4; kill++) {
        const child = start(args)
        const end = ended(child)
        // By what is written, so that the kill falls into the writing however slow the machine is.
        const goal = sizeOf(output) + 1 + random.int(12_000)
        let over = false
        void end.then(() => {
          over = true
        })
        await until(() => over || sizeOf(output) >= goal)
        child.kill('SIGKILL')
        expect((await end).err).toBe('')
        // What a machine that goes down with it leaves: the last line torn at any byte.
        const size = sizeOf(output)
        const lastLine = readFileSync(output, 'utf8').trimEnd().split('\n').at(-1)!
        if (kill % 2 === 1) truncateSync(output, size - random.int(Buffer.byteLength(lastLine)))
      }
      const last = await ended(start(args))
      expect(last).toEqual({ code: 0, signal: null, err: '' })
      expect(keysOf(rowsIn(output))).toEqual(keysOfPrompts(60, 3))
    },
  )

  it('a disk that takes no more: whole lines stay, the error says so, and the next call goes on', async () => {
    const engine = await fastEngine()
    const output = freshPath()
    const args = [fileOf(prompts(60)), '--url', engine.url, '--output', output, '--max-tokens', '20', '--quiet']
    const full = await ended(start(args, 'ulimit -f 4'))
    expect(full).toMatchObject({ code: 1, err: expect.stringContaining(`${output}: cannot be written`) })
    const before = rowsIn(output)
    expect(before.length).toBeGreaterThan(0)
    expect(before.length).toBeLessThan(60)
    expect(readFileSync(output, 'utf8').endsWith('\n')).toBe(true)
    expect(await ended(start(args))).toEqual({ code: 0, signal: null, err: '' })
    expect(keysOf(rowsIn(output))).toEqual(keysOfPrompts(60))
    expect(rowsIn(output).slice(0, before.length)).toEqual(before)
  })

  it('a disk that fills in the middle: whole lines stay, the error says so, and the next call goes on when there is space', async (context) => {
    const disk = freshPath()
    mkdirSync(disk)
    const mount = (options: string) => spawnSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', disk]).status === 0
    if (!mount('size=32k')) {
      console.warn('skipped: a disk that fills in the middle needs the right to mount one of 32 kB')
      context.skip('needs the right to mount a small disk')
    }
    onTestFinished(() => void spawnSync('umount', [disk]))
    const engine = await fastEngine()
    const output = join(disk, 'out.jsonl')
    const args = [fileOf(prompts(120)), '--url', engine.url, '--output', output, '--max-tokens', '20', '--quiet']
    const full = await ended(start(args))
    expect(full.code).toBe(1)
    expect(full.err).toContain(`${output}: no space left; every line in it is whole: free some and run again`)
    const before = rowsIn(output)
    expect(before.length).toBeGreaterThan(0)
    expect(before.length).toBeLessThan(120)
    expect(readFileSync(output, 'utf8').endsWith('\n')).toBe(true)
    // Still full: said again, and nothing is lost.
    expect((await ended(start(args))).code).toBe(1)
    expect(rowsIn(output).slice(0, before.length)).toEqual(before)
    expect(mount('remount,size=4m')).toBe(true)
    expect(await ended(start(args))).toEqual({ code: 0, signal: null, err: '' })
    expect(keysOf(rowsIn(output))).toEqual(keysOfPrompts(120))
    expect(rowsIn(output).slice(0, before.length)).toEqual(before)
  })

  it('two runs with one output: the second is refused, the first goes on', async () => {
    const engine = await fastEngine({ stepMs: 2 })
    const output = freshPath()
    const args = [fileOf(prompts(40)), '--url', engine.url, '--output', output, '--max-tokens', '20', '--quiet']
    // The first ends no earlier than the second has been refused.
    engine.faults.freeze()
    const first = ended(start(args))
    await until(() => existsSync(`${output}.lock`))
    const second = await run(args)
    engine.faults.thaw()
    expect(second.code).toBe(1)
    expect(second.err).toContain('expected an output that no other run writes')
    expect((await first).code).toBe(0)
    expect(keysOf(rowsIn(output))).toEqual(keysOfPrompts(40))
  })

  it('a reader that leaves, as head does, is told no more, and the run did not do all', async () => {
    const engine = await fastEngine({ stepMs: 2 })
    const child = start([fileOf(prompts(100)), '--url', engine.url, '--max-tokens', '20', '--quiet'])
    child.stdout?.once('data', () => child.stdout?.destroy())
    const [err, close] = [[] as string[], once(child, 'exit')]
    child.stderr?.on('data', (data: Buffer) => err.push(data.toString()))
    const [code] = (await close) as [number]
    expect({ code, err }).toEqual({ code: 1, err: [] })
  })

  it('a reader of what it says that leaves, as in 2>&1 | head -1, ends nothing', async () => {
    const engine = await fastEngine({ stepMs: 2 })
    const output = freshPath()
    const lines = fileOf(prompts(100))
    // Something to say at the beginning, in the middle and at the end.
    writeFileSync(lines, `no line\n${readFileSync(lines, 'utf8')}no line either\n`)
    const child = start([lines, '--url', engine.url, '--max-tokens', '20', '--output', output])
    child.stderr?.once('data', () => child.stderr?.destroy())
    const [code] = (await once(child, 'exit')) as [number]
    expect(code).toBe(1)
    expect(keysOf(rowsIn(output))).toEqual(keysOfPrompts(100))
  })

  it.each([
    ['run', () => [fileOf(prompts(3)), '--demo-fleet', '--quiet']],
    ['--help', () => []],
  ])('%s into a full disk says so in one line', async (command, args) => {
    const full = openSync('/dev/full', 'w')
    onTestFinished(() => closeSync(full))
    const child = spawn(process.execPath, [MAIN, command, ...args()], { stdio: ['ignore', full, 'pipe'] })
    const err: string[] = []
    child.stderr!.on('data', (data: Buffer) => err.push(data.toString()))
    const [code] = (await once(child, 'close')) as [number]
    expect(code).toBe(1)
    expect(err.join('')).toBe(`rollout-supervisor ${command}: stdout: no space left; free some, and run again\n`)
  })
})
