/**
 * `rollout-supervisor run` over a real llama-server with a real instruct model: the command is killed in the middle and goes on, its server is
 * killed in the middle and comes back, and the output has every prompt once, with real text.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { until } from './drive.ts'
import { describeEngine, type RealServer, startServer } from './servers.ts'

const PROMPTS = 200
const MAX_TOKENS = 10
const SUBJECTS = ['rain', 'bread', 'the sea', 'a clock', 'winter', 'a dog', 'iron', 'a song', 'the moon', 'tea']

interface Line {
  readonly id: string
  readonly outcome: string
  readonly text: string
  readonly tokenIds: readonly number[]
  readonly logprobs: readonly number[]
}

describeEngine('llama-server', 'a file of prompts', () => {
  let server: RealServer
  let folder: string
  beforeAll(async () => {
    server = await startServer('llama-server')
    folder = mkdtempSync(join(tmpdir(), 'rollout-supervisor-run.'))
  })
  afterAll(() => {
    server?.stop()
    rmSync(folder, { recursive: true, force: true })
  })

  it('is completed whole, once each, though the command and the server were killed on the way (F7, F13, R6)', async () => {
    const input = join(folder, 'prompts.jsonl')
    const output = join(folder, 'completions.jsonl')
    const prompts = Array.from({ length: PROMPTS }, (_, i) => {
      const content = `Write one short sentence, number ${i}, about ${SUBJECTS[i % SUBJECTS.length]}.`
      return JSON.stringify({ id: `prompt-${i}`, messages: [{ role: 'user', content }] })
    })
    writeFileSync(input, `${prompts.join('\n')}\n`)
    const lines = (): string[] => (existsSync(output) ? readFileSync(output, 'utf8').split('\n').filter(Boolean) : [])
    const started: ChildProcess[] = []
    const run = (): ChildProcess => {
      const main = join(import.meta.dirname, '../../../dist/src/cli/main.js')
      const args = [main, 'run', input, '--url', server.url, '--output', output, '--max-tokens', String(MAX_TOKENS)]
      const child = spawn(process.execPath, [...args, '--quiet'], { stdio: ['ignore', 'inherit', 'inherit'] })
      started.push(child)
      return child
    }
    try {
      const first = run()
      await until('a third is done', () => lines().length >= PROMPTS / 3)
      first.kill('SIGKILL')
      await once(first, 'close')
      const ended = once(run(), 'close')
      await until('two thirds are done', () => lines().length >= (2 * PROMPTS) / 3)
      await server.restart()
      const [code] = await ended
      expect(code).toBe(0)
    } finally {
      for (const child of started) child.kill('SIGKILL')
    }
    const completions = lines().map((line) => JSON.parse(line) as Line)
    expect(completions.map(({ id }) => id).sort()).toEqual(
      Array.from({ length: PROMPTS }, (_, i) => `prompt-${i}`).sort(),
    )
    for (const { outcome, text, tokenIds, logprobs } of completions) {
      expect(outcome).toBe('completed')
      expect(text).toMatch(/\w/)
      expect(logprobs).toHaveLength(tokenIds.length)
    }
    const texts = completions.map(({ text }) => text.trim())
    console.log(`llama-server: ${completions.length} completions, such as ${JSON.stringify(texts.slice(0, 3))}`)
  }, 3_600_000)
})
