/**
 * examples/grpo-real in its smoke mode on real engines: a few steps of the whole loop, with an evaluation that interrupts.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, inject, it } from 'vitest'
import { describeEngine } from './servers.ts'

const out = mkdtempSync(join(tmpdir(), 'rollout-supervisor-grpo.'))
afterAll(() => rmSync(out, { recursive: true, force: true }))

for (const engine of ['sglang', 'vllm'] as const) {
  describeEngine(engine, 'examples/grpo-real', () => {
    it('trains a few steps, evaluates, and its log-probabilities are those of the learner', async () => {
      const program = join(import.meta.dirname, '../../../examples/grpo-real/train.js')
      const env = { ...process.env, ROLLOUT_SUPERVISOR_ENGINES: inject('enginesDir') }
      const args = [program, '--engine', engine, '--smoke', '--out', join(out, engine)]
      const child = spawn(process.execPath, args, { env, stdio: 'inherit' })
      const [code] = await once(child, 'close')
      expect(code).toBe(0)
      expect(existsSync(join(out, engine, `curve-${engine}.svg`))).toBe(true)
    }, 2_400_000)
  })
}
