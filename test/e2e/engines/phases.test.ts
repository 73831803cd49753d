/**
 * What the real servers answer to the calls that updates, pauses and given-away memory are made of, as it was recorded: `npm test` holds the
 * embedded engines to the same transcripts. A release that answers otherwise fails here; `--update` records it anew.
 */
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { playPhases, transcript } from '../../engines/phase-calls.ts'
import { PHASE_ENGINES } from '../../engines/phase-scripts.ts'
import { checkpoint, describeEngine, startServer } from './servers.ts'

for (const engine of PHASE_ENGINES) {
  describeEngine(engine, 'the calls of its phases', () => {
    it('answers as recorded (R3, R5, R10, F12)', async () => {
      const server = await startServer(engine)
      const said = await playPhases(engine, server.url, { A: checkpoint('A'), B: checkpoint('B') })
      server.stop()
      const file = join(import.meta.dirname, `../../engines/fixtures/${engine}-phases.json`)
      await expect(transcript(said)).toMatchFileSnapshot(file)
    })
  })
}
