/**
 * What the tests of `run` share: engines, prompt files, and a look at an output file.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll } from 'vitest'
import { runCommand } from '../../src/cli/command.ts'
import { type EmbeddedEngine, type EmbeddedEngineOptions, startEmbeddedEngine } from '../../src/testing/index.ts'
import { type FakeIo, fakeIo } from './fake-io.ts'

const folder = mkdtempSync(join(tmpdir(), 'rollout-supervisor-run-'))
const engines: EmbeddedEngine[] = []
afterAll(async () => {
  for (const engine of engines) await engine.close()
  rmSync(folder, { recursive: true, force: true })
})

let files = 0
/** The path of a file that is not there yet. */
export function freshPath(): string {
  return join(folder, `${++files}.jsonl`)
}

/** A file with such lines; objects are written as JSON. */
export function fileOf(lines: readonly unknown[]): string {
  const path = freshPath()
  writeFileSync(path, lines.map((line) => `${typeof line === 'string' ? line : JSON.stringify(line)}\n`).join(''))
  return path
}

/** Lines with ids p0, p1 and so on, each with so many samples. */
export function prompts(count: number, samples = 1): object[] {
  return Array.from({ length: count }, (_, index) => ({ id: `p${index}`, promptTokenIds: [index % 10, 12], samples }))
}

/** An engine that runs as fast as it can, unless it is told otherwise. */
export async function fastEngine(options: EmbeddedEngineOptions = {}): Promise<EmbeddedEngine> {
  const engine = await startEmbeddedEngine({ stepMs: 0, perSequenceMs: 0, incremental: true, ...options })
  engines.push(engine)
  return engine
}

export interface Ran {
  readonly code: number
  readonly io: FakeIo
  readonly out: string
  readonly err: string
}

export async function run(args: readonly string[], prepare: (io: FakeIo) => void = () => {}): Promise<Ran> {
  const io = fakeIo()
  prepare(io)
  const code = await runCommand(['run', ...args], io)
  return { code, io, out: io.out, err: io.err }
}

export interface Row {
  readonly id: string
  readonly sample: number
  readonly outcome: string
  readonly tokenIds: number[]
  readonly [key: string]: unknown
}

export function rowsOf(text: string): Row[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Row)
}

export function rowsIn(path: string): Row[] {
  return rowsOf(readFileSync(path, 'utf8'))
}

/** `id/sample` of every row, in order of the names. */
export function keysOf(rows: readonly Row[]): string[] {
  return rows.map(({ id, sample }) => `${id}/${sample}`).toSorted()
}

/** The same of the lines that `prompts` makes. */
export function keysOfPrompts(count: number, samples = 1): string[] {
  return prompts(count, samples)
    .flatMap((_, index) => Array.from({ length: samples }, (__, sample) => `p${index}/${sample}`))
    .toSorted()
}
