/**
 * The embedded engines answer the calls of updates, pauses and given-away memory as the real ones were recorded to, status by status and body
 * by body, and their streams end as the real ones did: what holds on one holds on the other.
 */
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { startEmbeddedEngine } from '../../src/testing/embedded-engine.ts'
import { createTinyWeights, saveWeights } from '../../src/testing/tiny-policy.ts'
import { playPhases, transcript } from '../engines/phase-calls.ts'
import { PHASE_ENGINES } from '../engines/phase-scripts.ts'

test.each(PHASE_ENGINES)('the phases of a real %s, call by call (R3, R5, R10, F12)', async (engine) => {
  const [A, B] = await Promise.all(
    [1, 2].map(async (seed) => {
      const path = await mkdtemp(join(tmpdir(), `embedded-${seed}-`))
      onTestFinished(() => rm(path, { recursive: true, force: true }))
      await saveWeights(path, createTinyWeights({ seed }))
      return path
    }),
  )
  const server = await startEmbeddedEngine({ profile: engine, stepMs: 3, perSequenceMs: 0 })
  onTestFinished(() => server.close())
  const recorded = await readFile(join(import.meta.dirname, `../engines/fixtures/${engine}-phases.json`), 'utf8')
  expect(transcript(await playPhases(engine, server.url, { A: A!, B: B! }))).toBe(recorded)
})
