// What hold-driver.mjs checks tokens with: log-probabilities by transformers (score.py), and streams as the completions that they would be.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'

export function startScorer(python) {
  const child = spawn(python, [new URL('score.py', import.meta.url).pathname], {
    stdio: ['pipe', 'pipe', 'ignore'],
    env: { ...process.env, OMP_NUM_THREADS: '1', HF_HUB_OFFLINE: '1' },
  })
  const answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  return {
    async score(weights, prompt, tokens) {
      child.stdin.write(`${JSON.stringify({ weights, prompt: [...prompt], tokens: [...tokens] })}\n`)
      const { logprobs, error } = JSON.parse((await answers.next()).value)
      assert.equal(error, undefined)
      return logprobs
    },
    end: () => child.kill(),
  }
}

/** As the supervisor would record it. */
export const completionOf = (outs) => {
  const tokens = outs.flatMap((out) => out.tokens)
  const segments = []
  const versions = []
  for (const out of outs) {
    const start = segments.at(-1)?.end ?? 0
    segments.push({ instance: 'real', attempt: out.requestId, start, end: start + out.tokens.length })
    for (const span of out.versions)
      if (span.end > span.start)
        versions.push({ version: Number(span.version), start: start + span.start, end: start + span.end })
  }
  const logprobs = Float32Array.from(outs.flatMap((out) => out.logprobs))
  return { id: outs[0].requestId, tokenIds: Int32Array.from(tokens), logprobs, versions, segments }
}

export const told = ({ exact, tokens, largest, versions, positions, offenders }) => ({
  exact,
  tokens,
  largest,
  versions,
  positions,
  worst: offenders[0],
})
