/**
 * The live line of `run` and its summary: what is known is exact, what is estimated says so, and nothing is promised of a fleet that is gone.
 */
import { describe, expect, it } from 'vitest'
import { createSpeed, type RunCounts, type RunLine, runLine, summaryText } from '../../src/cli/run-progress.ts'

const counts: RunCounts = {
  lines: 500,
  unusable: 1,
  samples: 1_000,
  completed: 597,
  failed: 2,
  skipped: 200,
  tokens: 12_345,
  firstFailure: { id: 'a', sample: 3, code: 'TRANSPORT', message: 'it broke' },
  read: 0.25,
}
const line: RunLine = {
  counts,
  moment: { running: 64, waiting: 65, stuck: false, tokens: 12_000 },
  tokensPerSecond: 5_123.4,
  elapsedMs: 60_000,
}
const draw = (changes: Partial<RunLine> = {}) => runLine({ ...line, ...changes }, 200, false)

describe('the live line', () => {
  it('estimates the total from the share of the input that was read, and says so', () => {
    expect(draw()).toBe(
      '799/~4,000 samples  60 s, ~5 min left  5123 tok/s  failed 2  running 64  waiting 65  1 unusable',
    )
    expect(draw({ counts: { ...counts, read: 1 } })).toContain('799/1,000 samples')
    expect(draw({ counts: { ...counts, read: 1 } })).toContain('60 s, ~20 s left')
  })

  it('promises nothing where the end cannot be told', () => {
    expect(draw({ counts: { ...counts, read: null } })).toMatch(/^799 samples {2}60 s {2}5123 tok/)
    const gone = draw({ moment: { running: 0, waiting: 129, stuck: true, tokens: 0 } })
    expect(gone).toContain('799/~4,000 samples  60 s  no server answers  failed 2  running 0  waiting 129')
    expect(gone).not.toContain('left')
  })

  it('is never wider than the window', () => {
    for (let columns = 0; columns < 120; columns++)
      expect(runLine(line, columns, false).length).toBeLessThanOrEqual(columns)
  })

  it('speed is that of the last seconds', () => {
    const speed = createSpeed(0)
    expect(speed(1_000, 100)).toBe(100)
    for (let second = 2; second <= 20; second++) speed(second * 1_000, 100 * second)
    expect(speed(21_000, 2_000)).toBe(80)
    expect(speed(40_000, 2_000)).toBe(0)
  })
})

it('the summary says what to do next', () => {
  const { samples: _, read: __, ...sums } = counts
  const summary = { ...sums, ok: false, failedBefore: 4, ms: 10_000, stopped: 'SIGINT' as const, output: 'out.jsonl' }
  expect(summaryText(summary, false)).toBe(
    [
      '597 completed, 2 failed, 1 line could not be used, 200 done before, 12,345 tokens in 10.0 s (1,235 a second)',
      'first failure, sample 3 of "a": it broke',
      '4 failed in an earlier run: --retry-failed runs them again',
      'stopped by SIGINT: the same command goes on from out.jsonl',
      '',
    ].join('\n'),
  )
})
