/**
 * The demo's account of tokens: what samples went on with is told by what had interrupted them, and what nobody has is wasted.
 */
import { describe, expect, it } from 'vitest'
import { createTokenMeter } from '../../src/cli/demo-tokens.ts'
import type { Completion, SupervisorEvent } from '../../src/index.ts'

type Reason = Extract<SupervisorEvent, { type: 'sample.released' }>['reason']

const base = { at: 0, instance: 'a', lease: 1, kind: 'rollout' } as const
const phase = (phase: 'rollout' | 'evaluation' | 'weightUpdate'): SupervisorEvent => ({
  type: 'run.phase',
  at: 0,
  phase,
})
const released = (taskId: string, reason: Reason): SupervisorEvent => {
  return { ...base, type: 'sample.released', taskId, sample: 0, reason, tokens: 3 }
}
const placed = (taskId: string, resumedTokens: number): SupervisorEvent => {
  return { ...base, type: 'sample.placed', taskId, sample: 0, resumedTokens }
}
const completed = (tokens: number, kind: Completion['kind'] = 'rollout') =>
  ({ kind, tokenIds: new Int32Array(tokens) }) as Completion

describe('account of tokens', () => {
  it('names what had interrupted a sample that went on', () => {
    const meter = createTokenMeter()
    for (const event of [
      phase('weightUpdate'),
      released('t1', 'interrupted'),
      released('t2', 'interrupted'),
      phase('rollout'),
      placed('t1', 7),
      // It had no token yet: nothing to go on from.
      placed('t2', 0),
      phase('evaluation'),
      released('t1', 'interrupted'),
      placed('t1', 9),
      released('t3', 'failed'),
      placed('t3', 4),
      released('t3', 'finished'),
      placed('t4', 5),
    ])
      meter.observe(event)
    expect(meter.account(0, 0).resumed).toEqual({
      update: { samples: 1, tokens: 7 },
      evaluation: { samples: 1, tokens: 9 },
      fault: { samples: 1, tokens: 4 },
    })
  })

  it('what servers sampled is trained on, of an evaluation, left over, or wasted', () => {
    const meter = createTokenMeter()
    for (const each of [completed(50), completed(30), completed(8, 'evaluation')]) meter.complete(each)
    expect(meter.account(90, 50)).toMatchObject({ evaluation: 8, leftOver: 30, wasted: 2 })
  })
})
