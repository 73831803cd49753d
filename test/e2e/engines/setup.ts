/**
 * Before the tests of real engines: installs each into a folder outside the repository, makes the tiny checkpoints, and tells the tests
 * which are there. One that cannot be installed is named, and its tests count as not run. Afterwards no server is left running.
 *
 * ROLLOUT_SUPERVISOR_ENGINES: the folder; ROLLOUT_SUPERVISOR_ENGINES_ONLY: names of engines, separated by commas.
 */
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestProject } from 'vitest/node'

export const ENGINES = ['sglang', 'vllm', 'llama-server'] as const
export type RealEngine = (typeof ENGINES)[number]

declare module 'vitest' {
  export interface ProvidedContext {
    /** Where the engines are installed. */
    enginesDir: string
    /** Where this run keeps the pids of its servers. */
    pidsDir: string
    /** Why an engine is not there, or null where it is. */
    missing: Record<RealEngine, string | null>
  }
}

/** llama.cpp compiles for ten minutes on two quiet cores, and three times as long on busy ones. */
const INSTALL_MS = 40 * 60_000

export default function setup(project: TestProject): () => void {
  const dir = process.env.ROLLOUT_SUPERVISOR_ENGINES ?? join(homedir(), '.cache', 'rollout-supervisor', 'engines')
  mkdirSync(dir, { recursive: true })
  const only = process.env.ROLLOUT_SUPERVISOR_ENGINES_ONLY?.split(',')
  const missing = Object.fromEntries(
    ENGINES.map((engine) => {
      const wanted = only === undefined || only.includes(engine)
      return [engine, wanted ? install(engine, dir) : 'not asked for (ROLLOUT_SUPERVISOR_ENGINES_ONLY)']
    }),
  ) as Record<RealEngine, string | null>
  if (missing.sglang === null || missing.vllm === null) {
    const models = script('models', [dir])
    if (models !== null) for (const engine of ['sglang', 'vllm'] as const) missing[engine] ??= models
  }
  for (const [engine, reason] of Object.entries(missing)) {
    if (reason !== null) console.error(`\n*** ${engine} IS NOT TESTED: ${reason}\n`)
  }
  const pidsDir = mkdtempSync(join(tmpdir(), 'rollout-supervisor-engines.'))
  project.provide('enginesDir', dir)
  project.provide('pidsDir', pidsDir)
  project.provide('missing', missing)
  return () => {
    for (const pid of readdirSync(pidsDir)) endGroup(Number(pid))
    rmSync(pidsDir, { recursive: true, force: true })
  }
}

function install(engine: RealEngine, dir: string): string | null {
  console.log(`${engine}: in ${join(dir, engine)}; installed where it is missing`)
  return script('install', [engine, dir])
}

/** Null, or what went wrong. */
function script(name: string, args: readonly string[]): string | null {
  const path = join(import.meta.dirname, name)
  const { status, stderr, error } = spawnSync(path, args, { encoding: 'utf8', timeout: INSTALL_MS })
  if (status === 0) return null
  const said = stderr.trim().split('\n').slice(-3).join(' | ')
  return `${name} ${args.join(' ')}: ${error?.message ?? said ?? `exit code ${status}`}`
}

export function endGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL')
  } catch {
    // Gone already.
  }
}
