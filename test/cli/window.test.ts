/**
 * What of the input of `run` is in flight at once: it is bounded, in samples and in bytes, however long the input is.
 */
import { Readable } from 'node:stream'
import { expect, test } from 'vitest'
import { createWindow } from '../../src/cli/window.ts'
import { fastEngine, run } from './run-fixtures.ts'

test('of a long input no more lines are read than the window has room for, whatever the speed of the fleet', async () => {
  let read = 0
  let written = 0
  let most = 0
  const total = 1_000
  const engine = await fastEngine()
  function* lines(): Generator<Buffer> {
    for (; read < total; read++) {
      most = Math.max(most, read - written)
      yield Buffer.from(`{"id":${read},"promptTokenIds":[${read % 10}]}\n`)
    }
  }
  const { code } = await run(['-', '--url', engine.url, '--max-tokens', '1', '--quiet'], (io) => {
    io.input = Readable.from(lines(), { highWaterMark: 1 })
    io.onOut = (text) => {
      written += text.split('\n').length - 1
      io.out = ''
    }
  })
  expect(code).toBe(0)
  expect(written).toBe(total)
  // Twice the 8 slots of the engine, and what streams read ahead.
  expect(most).toBeLessThan(16 + 16)
})

test('the window lets in what fits, one that is too large alone, and all waiters out when it is aborted', async () => {
  const stop = new AbortController()
  const window = createWindow({ mostSamples: () => 4, mostBytes: 100, signal: stop.signal })
  const log: string[] = []
  await window.room(9, 1_000)
  window.take(9, 1_000)
  const next = window.room(3, 10).then(() => log.push('in'))
  window.give(6, 0)
  await Promise.resolve()
  expect(log).toEqual([])
  window.give(3, 1_000)
  await next
  window.take(3, 10)
  const tooManyBytes = window.room(1, 95).then(() => log.push('aborted'))
  window.give(1, 0)
  await Promise.resolve()
  expect(log).toEqual(['in'])
  stop.abort()
  await tooManyBytes
  await window.empty()
  expect(window.samples).toBe(2)
})
