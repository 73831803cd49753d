/**
 * Real servers for tests: started by the scripts of this folder on a free port, killed, started again, and ended with the test file.
 */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { rmSync, writeFileSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { afterAll, describe, inject } from 'vitest'
import { endGroup, type RealEngine } from './setup.ts'

export interface RealServer {
  readonly engine: RealEngine
  readonly url: string
  /** Kills every process of it, without a word. */
  kill(): void
  /** Kills what generates, behind the HTTP server, which notices sooner or later. */
  killWorker(): void
  /** Starts it anew on the same port, killed before or not: with the checkpoint it was started with. */
  restart(): Promise<void>
  stop(): void
}

export interface ServerOptions {
  /** Checkpoint that it is started with: A, B or C. @default A */
  readonly model?: string
  readonly flags?: readonly string[]
}

/** Folder of a checkpoint, as the servers see it. */
export const checkpoint = (name: string): string => join(inject('enginesDir'), 'models', name)

/** The tests of one engine, or a named gap where it is not installed. */
export function describeEngine(engines: RealEngine | readonly RealEngine[], name: string, tests: () => void): void {
  const missing = inject('missing')
  const lacks = [engines].flat().find((engine) => missing[engine] !== null)
  if (lacks === undefined) describe(`real ${[engines].flat().join(' and ')}: ${name}`, tests)
  else describe.skip(`NOT RUN, because ${lacks} is not there: ${name}`, tests)
}

const servers = new Set<RealServer>()
afterAll(() => {
  for (const server of servers) server.stop()
})

export async function startServer(engine: RealEngine, options: ServerOptions = {}): Promise<RealServer> {
  const port = await freePort()
  let pid = await boot()
  const server: RealServer = {
    engine,
    url: `http://127.0.0.1:${port}`,
    kill: () => end(pid),
    killWorker() {
      const processes = spawnSync('ps', ['-eo', 'pid=,pgid=,args='], { encoding: 'utf8' }).stdout.split('\n')
      const workers = processes
        .map((line) => line.trim().split(/\s+/))
        .filter(([, group, name]) => {
          return Number(group) === pid && /EngineCore|scheduler/.test(name ?? '')
        })
      if (workers.length === 0) throw new Error(`expected a process of ${engine} that generates, found none`)
      for (const [worker] of workers) process.kill(Number(worker), 'SIGKILL')
    },
    async restart() {
      end(pid)
      await gone(pid)
      pid = await boot()
    },
    stop() {
      end(pid)
      servers.delete(server)
    },
  }
  servers.add(server)
  return server

  async function boot(): Promise<number> {
    const env = { ...process.env, MODEL: options.model ?? 'A', OWNER: String(process.pid) }
    const dir = inject('enginesDir')
    const args = [engine, dir, String(port), ...(options.flags ?? [])]
    const child = spawn(join(import.meta.dirname, 'start'), args, { env, stdio: ['ignore', 'pipe', 'pipe'] })
    let said = ''
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        said += text
        const started = /^started (\d+)/m.exec(said)?.[1]
        if (started !== undefined) writeFileSync(join(inject('pidsDir'), started), '')
      })
    }
    const [code] = await once(child, 'close')
    const ready = /^ready (\d+)/m.exec(said)?.[1]
    if (code !== 0 || ready === undefined) throw new Error(`${engine} did not start: ${said.trim()}`)
    return Number(ready)
  }
}

function end(pid: number): void {
  endGroup(pid)
  rmSync(join(inject('pidsDir'), String(pid)), { force: true })
}

/** A killed server holds its port for a moment: whoever takes its place must wait. */
async function gone(pid: number): Promise<void> {
  for (let tries = 0; tries < 600; tries++) {
    try {
      process.kill(-pid, 0)
    } catch {
      return
    }
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  throw new Error(`expected the killed server ${pid} to end within 30 s, found it still there`)
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}
