/**
 * What a server says of its weights, as a version of ours.
 */
import { expect, test } from 'vitest'
import { versionOf } from '../../src/run/segment.ts'
import { closeSimulation, startSimulation } from '../simulate.ts'

test.each(['default', '', ' 1', '01', '1.0', '1e3', '-1', '-0', 'unfinished-update-to-2', '9007199254740992'])(
  'the label %j is no version',
  (label) => expect(versionOf(label)).toBe(null),
)

test.each([0, 7, 1_764_111_222_333_444, Number.MAX_SAFE_INTEGER])(
  'tokens are stamped with version %i as it was given (F8)',
  async (version) => {
    const simulation = await startSimulation([{}])
    const { clock, supervisor } = simulation
    await clock.run(supervisor.updateWeights({ version, path: '/w' }))
    const { completions } = await clock.run(supervisor.submit({ prompt: [1, 5] }).result)
    expect(completions[0]!.versions).toEqual([{ version, start: 0, end: 5 }])
    expect(await closeSimulation(simulation)).toBe(0)
  },
)
