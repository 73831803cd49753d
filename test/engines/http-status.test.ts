/**
 * Statuses and `Retry-After`: whose fault, and how long to wait.
 */
import { expect, test } from 'vitest'
import { codeOfStatus, retryAfterMs } from '../../src/engines/http-status.ts'

test('a status says whose fault it was (decision 17)', () => {
  const codes = (list: number[]) => [...new Set(list.map(codeOfStatus))]
  expect(codes([400, 413, 422])).toEqual(['REQUEST_REJECTED'])
  expect(codes([401, 403, 404, 405, 410, 415, 418])).toEqual(['INSTANCE_FAULT'])
  expect(codes([408, 429, 503])).toEqual(['BUSY'])
  expect(codes([500, 501, 502, 504, 599])).toEqual(['ENGINE_ERROR'])
  expect(codes([204, 301, 302, 307])).toEqual(['WRONG_PROTOCOL'])
})

test('Retry-After is seconds, or a date measured against the clock of the server', () => {
  const date = 'Mon, 23 Nov 2026 21:00:00 GMT'
  expect(retryAfterMs(undefined, date)).toBeUndefined()
  expect(retryAfterMs('3', date)).toBe(3000)
  expect(retryAfterMs(' 0.25 ', undefined)).toBe(250)
  expect(retryAfterMs('Mon, 23 Nov 2026 21:00:07 GMT', date)).toBe(7000)
  expect(retryAfterMs('Mon, 23 Nov 2026 20:00:00 GMT', date)).toBe(0)
  expect(retryAfterMs(new Date(Date.now() + 60_000).toUTCString(), undefined)).toBeGreaterThan(50_000)
  expect(retryAfterMs('soon', date)).toBeUndefined()
})
