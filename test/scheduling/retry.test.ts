/**
 * What happens after a failed attempt, for every code and count (decisions 16, 17).
 */
import { expect, test } from 'vitest'
import { errorTable, type RolloutErrorCode } from '../../src/errors.ts'
import { decideRetry, type Failure } from '../../src/scheduling/retry.ts'

const ATTEMPTS = 5
const decide = (failure: Partial<Failure> & { code: RolloutErrorCode }) =>
  decideRetry({ fruitless: 1, busy: 0, refusedByAll: false, retryAfterMs: undefined, ...failure }, ATTEMPTS)
const codes = Object.keys(errorTable) as RolloutErrorCode[]

test("a request's own fault fails the sample at once, whatever the counts", () => {
  for (const code of ['REQUEST_REJECTED', 'INVALID_TASK'] as const)
    for (const fruitless of [0, 1, 99]) expect(decide({ code, fruitless })).toEqual({ action: 'fail' })
})

test('a busy engine is waited for, for ever: its own word within reason first, else 100 ms doubling to 5 s', () => {
  const waits = Array.from({ length: 9 }, (_, index) => decide({ code: 'BUSY', busy: index + 1, fruitless: 99 }))
  expect(waits).toEqual(
    [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000].map((afterMs) => ({ action: 'retry', afterMs })),
  )
  expect(decide({ code: 'BUSY', busy: 3, retryAfterMs: 0 })).toEqual({ action: 'retry', afterMs: 100 })
  expect(decide({ code: 'BUSY', busy: 3, retryAfterMs: 3e9 })).toEqual({ action: 'retry', afterMs: 300_000 })
  expect(decide({ code: 'BUSY', busy: 3, retryAfterMs: 7_000 })).toEqual({ action: 'retry', afterMs: 7_000 })
  expect(decide({ code: 'BUSY', busy: 1_000_000 })).toEqual({ action: 'retry', afterMs: 5_000 })
})

test('a fault of the instance goes elsewhere, until everyone has refused', () => {
  expect(decide({ code: 'INSTANCE_FAULT' })).toEqual({ action: 'retry', afterMs: 0 })
  expect(decide({ code: 'INSTANCE_FAULT', refusedByAll: true })).toEqual({ action: 'fail' })
})

test('everything else is tried again at once, then with doubling waits, until the attempts are used up', () => {
  for (const code of codes) {
    if (['REQUEST_REJECTED', 'INVALID_TASK', 'BUSY'].includes(code)) continue
    const decisions = [0, 1, 2, 3, 4, 5, 6].map((fruitless) => decide({ code, fruitless }))
    expect(decisions, code).toEqual([
      { action: 'retry', afterMs: 0 },
      { action: 'retry', afterMs: 0 },
      { action: 'retry', afterMs: 100 },
      { action: 'retry', afterMs: 200 },
      { action: 'retry', afterMs: 400 },
      { action: 'exhausted' },
      { action: 'exhausted' },
    ])
  }
})
