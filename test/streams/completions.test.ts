/**
 * The bounded reader of completions: back-pressure instead of loss, at every await (decision 14, F14).
 */
import { expect, test } from 'vitest'
import type { Completion } from '../../src/index.ts'
import { createCompletionSinks } from '../../src/streams/completions.ts'

const completion = (id: string) => ({ id }) as Completion
function sinks() {
  let rooms = 0
  const made = createCompletionSinks(() => {
    if (!made.full) rooms++
  })
  return {
    ...made,
    get full() {
      return made.full
    },
    get rooms() {
      return rooms
    },
  }
}
const open = (all: ReturnType<typeof sinks>, highWaterMark = 2, signal?: AbortSignal) =>
  all.open({ highWaterMark, signal })

test('counts from its first next(), and keeps everything after it in order', async () => {
  const all = sinks()
  const reader = open(all)
  all.push(completion('before'))
  const first = reader.next()
  all.push(completion('a'))
  all.push(completion('b'))
  expect((await first).value.id).toBe('a')
  expect((await reader.next()).value.id).toBe('b')
})

test('several next() at once are each answered, in order', async () => {
  const all = sinks()
  const reader = open(all)
  const reads = [reader.next(), reader.next(), reader.next(), reader.next()]
  for (const id of ['a', 'b', 'c', 'd']) {
    all.push(completion(id))
    await new Promise(setImmediate)
  }
  expect((await Promise.all(reads)).map(({ value }) => value.id)).toEqual(['a', 'b', 'c', 'd'])
})

test('is full from its mark on, and tells of room once when it is below again', async () => {
  const all = sinks()
  const reader = open(all, 2)
  void reader.next()
  all.push(completion('a'))
  await new Promise(setImmediate)
  all.push(completion('b'))
  expect(all.full).toBe(false)
  all.push(completion('c'))
  expect(all.full).toBe(true)
  all.push(completion('d'))
  await reader.next()
  expect([all.full, all.rooms]).toEqual([true, 0])
  await reader.next()
  expect([all.full, all.rooms]).toEqual([false, 1])
  expect((await reader.next()).value.id).toBe('d')
})

test('the slowest of several readers decides', async () => {
  const all = sinks()
  const [slow, fast] = [open(all, 1), open(all, 1)]
  const reads = [slow.next(), fast.next()]
  all.push(completion('a'))
  await Promise.all(reads)
  all.push(completion('b'))
  await fast.next()
  expect(all.full).toBe(true)
  await slow.next()
  expect(all.full).toBe(false)
})

test('return() ends a waiting next(), frees admission and forgets what was held', async () => {
  const all = sinks()
  const waiting = open(all)
  const read = waiting.next()
  expect(await waiting.return!()).toEqual({ done: true, value: undefined })
  expect(await read).toEqual({ done: true, value: undefined })
  const holding = open(all, 1)
  void holding.next()
  all.push(completion('a'))
  all.push(completion('b'))
  await new Promise(setImmediate)
  expect(all.full).toBe(true)
  await holding.return!()
  expect(all.full).toBe(false)
  expect(await holding.next()).toEqual({ done: true, value: undefined })
})

test('return() before the first next() never counts', async () => {
  const all = sinks()
  const reader = open(all, 1)
  await reader.return!()
  all.push(completion('a'))
  expect(all.full).toBe(false)
  expect(await reader.next()).toEqual({ done: true, value: undefined })
})

test('an abort rejects once with its reason, waiting or not, and frees admission', async () => {
  const all = sinks()
  const reason = new Error('enough')
  const waiting = new AbortController()
  const read = open(all, 1, waiting.signal).next()
  waiting.abort(reason)
  await expect(read).rejects.toBe(reason)

  const holding = new AbortController()
  const reader = open(all, 1, holding.signal)
  void reader.next()
  all.push(completion('a'))
  all.push(completion('b'))
  await new Promise(setImmediate)
  expect(all.full).toBe(true)
  holding.abort(reason)
  expect(all.full).toBe(false)
  await expect(reader.next()).rejects.toBe(reason)
  expect(await reader.next()).toEqual({ done: true, value: undefined })

  await expect(open(all, 1, holding.signal).next()).rejects.toBe(reason)
})

test('a signal that aborts after return() changes nothing', async () => {
  const all = sinks()
  const controller = new AbortController()
  const reader = open(all, 1, controller.signal)
  void reader.next()
  await reader.return!()
  controller.abort(new Error('late'))
  expect(await reader.next()).toEqual({ done: true, value: undefined })
})

test('after close a reader gets what it holds and then ends; a new one ends at once', async () => {
  const all = sinks()
  const reader = open(all, 8)
  const first = reader.next()
  all.push(completion('a'))
  all.push(completion('b'))
  all.close()
  expect((await first).value.id).toBe('a')
  expect((await reader.next()).value.id).toBe('b')
  expect((await reader.next()).done).toBe(true)
  expect((await open(all).next()).done).toBe(true)
})
