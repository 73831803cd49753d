/**
 * The conformance suite on real servers. What each does not do is written down here: a release that does more, or less, fails.
 */
import { writeFileSync } from 'node:fs'
import { afterAll, expect, it } from 'vitest'
import { type ConformanceOutcome, type ConformanceReport, checkConformance } from '../../../src/testing/index.ts'
import { driverOf } from './drive.ts'
import { createScorer } from './scorer.ts'
import { checkpoint, describeEngine, startServer } from './servers.ts'
import type { RealEngine } from './setup.ts'

type Exceptions = Readonly<Partial<Record<ConformanceOutcome, readonly string[]>>>

const NO_CONTROL = ['pause and abort', 'pause and keep', 'resume an open server']
const NO_UPDATE = ['weight change', 'weight change over frozen requests', 'weight change from nowhere']
const NO_ABORT = ['abort one', 'abort an unknown id', 'abort while queued', 'abort all']

/** As the scripts of this folder start them: without a GPU nothing gives memory away. */
const EXPECTED: Readonly<Record<RealEngine, Exceptions>> = {
  sglang: { 'does not': ['token id outside the vocabulary'], 'not offered': ['seed', 'release and reclaim'] },
  vllm: { 'not offered': ['release and reclaim'] },
  'llama-server': {
    'not offered': ['versions', 'least tokens', ...NO_ABORT, ...NO_CONTROL, ...NO_UPDATE, 'release and reclaim'],
  },
}

const reports: ConformanceReport[] = []
afterAll(() => {
  const file = process.env.ROLLOUT_SUPERVISOR_CONFORMANCE
  if (file !== undefined) writeFileSync(file, `${JSON.stringify(reports, null, 2)}\n`)
})

for (const engine of ['sglang', 'vllm', 'llama-server'] as const) {
  describeEngine(engine, 'conformance', () => {
    it('does what the table says (R1, R2, R3, R4, R5, R6, R7, R8, R9, F3, F4, F12, F13)', async () => {
      const server = await startServer(engine)
      const driver = driverOf(engine, server.url)
      const scorer = engine === 'llama-server' ? null : createScorer()
      const weights = [checkpoint('A'), checkpoint('B')] as const
      const report = await checkConformance(driver, {
        allow: {
          pause: true,
          release: true,
          restart: () => server.restart(),
          ...(scorer === null ? {} : { weights }),
        },
        ...(scorer === null ? {} : { score: scorer.score }),
        checkMs: 240_000,
        onResult: ({ name, outcome, found, ms }) =>
          console.log(`${engine}  ${name.padEnd(34)}${outcome.padEnd(12)} ${Math.round(ms)} ms  ${found}`),
      })
      reports.push(report)
      scorer?.close()
      await driver.close()
      server.stop()
      const exceptions: Partial<Record<ConformanceOutcome, string[]>> = {}
      for (const { name, outcome } of report.results) {
        if (outcome !== 'works') exceptions[outcome] = [...(exceptions[outcome] ?? []), name]
      }
      expect(exceptions).toEqual(EXPECTED[engine])
    }, 2_400_000)
  })
}
