/**
 * Log-probabilities recomputed outside every engine: by `transformers` in a Python child process (score.py), one model a checkpoint.
 */
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { inject } from 'vitest'

export interface Scorer {
  /** Of `tokens` after `prompt`, at a temperature. */
  score(
    weights: string,
    prompt: readonly number[],
    tokens: readonly number[],
    temperature?: number,
  ): Promise<readonly number[]>
  close(): void
}

interface Waiter {
  readonly resolve: (logprobs: readonly number[]) => void
  readonly reject: (error: Error) => void
}

export function createScorer(): Scorer {
  const python = ['sglang', 'vllm']
    .map((engine) => join(inject('enginesDir'), engine, 'bin', 'python'))
    .find((path) => existsSync(path))
  if (python === undefined)
    throw new Error('expected sglang or vllm to be installed, whose transformers are used; found neither')
  const child = spawn(python, [join(import.meta.dirname, 'score.py')], {
    env: { ...process.env, HF_HUB_OFFLINE: '1', CUDA_VISIBLE_DEVICES: '' },
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  const waiting: Waiter[] = []
  let said = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = `${said}${text}`.slice(-2_000)
  })
  createInterface(child.stdout).on('line', (line) => {
    const { logprobs, error } = JSON.parse(line) as { logprobs?: number[]; error?: string }
    const waiter = waiting.shift()
    if (logprobs !== undefined) waiter?.resolve(logprobs)
    else waiter?.reject(new Error(`score.py: ${error}`))
  })
  child.on('close', (code) => {
    for (const { reject } of waiting.splice(0)) reject(new Error(`score.py ended with ${code}: ${said}`))
  })
  return {
    score: (weights, prompt, tokens, temperature = 1) =>
      new Promise((resolve, reject) => {
        waiting.push({ resolve, reject })
        child.stdin.write(`${JSON.stringify({ weights, prompt: [...prompt], tokens: [...tokens], temperature })}\n`)
      }),
    close: () => child.kill(),
  }
}
