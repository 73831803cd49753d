/**
 * The simulated servers: exact tokens at exact times, whatever interrupts them, with log-probabilities of what they were computed under.
 */
import { describe, expect, test } from 'vitest'
import { checkTask } from '../../src/rollout/check-task.ts'
import { expected, setup, under } from './simulated-client.ts'

test('one token each tokenMs, in chunks, with spans at the end', async () => {
  const { clock, generate } = setup({ tokenMs: 10, chunkTokens: 3, weightVersion: '4' })
  const stream = generate([7, 8])
  await clock.run(stream.ended)
  expect(stream.chunks.map(({ at, tokenIds, finishReason }) => [at, tokenIds.length, finishReason])).toEqual([
    [10, 1, null],
    [40, 3, null],
    [70, 3, null],
    [80, 1, 'length'],
  ])
  expect(stream.tokens()).toEqual(expected(7, 0, 8))
  expect(stream.chunks.at(-1)!.versions).toEqual([{ version: '4', start: 0, end: 8 }])
})

test('continues where the prompt ends, and stops at maxTokens', async () => {
  const { clock, generate } = setup()
  const stream = generate([7, 20, ...expected(7, 0, 5)], 4)
  await clock.run(stream.ended)
  expect(stream.tokens()).toEqual(expected(7, 5, 9))
})

test('refuses a prompt that goes on with tokens it would not have generated', async () => {
  const { clock, generate, server } = setup()
  const right = expected(7, 0, 3)
  for (const wrong of [right.slice(1), [right[0]!, ...right], [...right, 1]])
    expect(await clock.run(generate([7, 20, ...wrong]).ended)).toMatch(/was not generated for key 7/)
  expect(server.maxRunning).toBe(0)
})

test('an abort by id yields what there is, and says abort; an unknown id is no error', async () => {
  const { clock, driver, generate, server } = setup({ tokenMs: 10 })
  const stream = generate([7, 20])
  await clock.advance(55)
  await driver.abort('unknown')
  expect(server.running).toBe(1)
  await driver.abort(stream.id)
  await clock.run(stream.ended)
  expect([stream.tokens().length, stream.chunks.at(-1)!.finishReason, server.running]).toEqual([5, 'abort', 0])
})

test('a closed socket frees the slot, whether the signal aborts or the reader leaves', async () => {
  const { clock, generate, server, driver } = setup()
  const stream = generate([7, 20])
  await clock.advance(55)
  stream.controller.abort()
  expect(server.running).toBe(0)
  expect(await stream.ended).toBe('the socket was closed')
  const { sampling } = checkTask({ prompt: [1] }, null)
  const reading = (async () => {
    for await (const _ of driver.generate({ requestId: 'x', prompt: [7, 20], sampling }, new AbortController().signal))
      break
  })()
  await clock.run(reading)
  expect([server.running, server.maxRunning, clock.pending]).toEqual([0, 1, 0])
})

test('death cuts every stream and refuses every call, until it is revived with the weights it was started with', async () => {
  const { clock, generate, server, driver } = setup({ weightVersion: 'start' })
  await driver.updateWeights({ version: 3, path: '/w', frozen: false })
  const stream = generate([7, 20])
  await clock.advance(55)
  server.die()
  expect(await stream.ended).toMatch(/cut the stream/)
  expect(server.running).toBe(0)
  for (const call of [driver.probe(), driver.load(), driver.weightVersion(), driver.resume(), driver.abort('r1')])
    await expect(call).rejects.toMatchObject({ code: 'UNREACHABLE' })
  expect(await generate([7, 20]).ended).toMatch(/is down/)
  server.revive()
  expect((await driver.probe()).weightVersion).toBe('start')
  server.revive('9')
  expect(await driver.weightVersion()).toBe('9')
})

test('a frozen server answers and generates nothing; thawed, or revived, it goes on with no token lost', async () => {
  for (const wake of ['thaw', 'revive'] as const) {
    const { clock, generate, server, driver } = setup({ tokenMs: 10, chunkTokens: 2 })
    const before = generate([7, 10])
    await clock.advance(35)
    server.freeze()
    server.freeze()
    const during = generate([8, 3])
    await clock.advance(10_000)
    expect([before.tokens().length, during.tokens().length]).toEqual([3, 0])
    expect(await driver.load()).toMatchObject({ running: 2, waiting: 0 })
    server[wake]()
    server.thaw()
    const thawedAt = clock.now()
    await clock.run(Promise.all([before.ended, during.ended]))
    expect(before.tokens()).toEqual(expected(7, 0, 10))
    expect(during.tokens()).toEqual(expected(8, 0, 3))
    expect(clock.now() - thawedAt).toBe(70)
  }
})

test('counts what it ran at once, and all tokens it generated', async () => {
  const { clock, generate, server } = setup()
  const streams = [generate([1, 5]), generate([2, 5]), generate([3, 9])]
  await clock.run(Promise.all(streams.map(({ ended }) => ended)))
  expect([server.running, server.maxRunning, server.generated]).toEqual([0, 3, 19])
})

describe('log-probabilities say which weights they were computed under', () => {
  test('all of one version, or of the one that the server was started with', async () => {
    const { clock, generate, driver } = setup()
    const before = generate([7, 20])
    await clock.run(before.ended)
    expect(before.logprobs()).toEqual(under(null, 0, 20))
    await driver.updateWeights({ version: 3, path: '/w', frozen: false })
    const after = generate([7, 20])
    await clock.run(after.ended)
    expect(after.logprobs()).toEqual(under(3, 0, 20))
    expect(after.logprobs()).toEqual(after.logprobs().map(Math.fround))
  })

  test('frozen requests are computed anew under a frozen update, and exact on both sides of the seam (R3)', async () => {
    const { clock, generate, driver, server } = setup({ tokenMs: 10 })
    const stream = generate([7, 20])
    await clock.advance(55)
    await driver.pause!('keep')
    await clock.advance(1_000)
    await driver.updateWeights({ version: 3, path: '/w', frozen: true })
    expect([server.paused, server.running, stream.chunks.length]).toEqual(['keep', 1, 1])
    await driver.resume()
    await driver.resume()
    await clock.run(stream.ended)
    expect(stream.tokens()).toEqual(expected(7, 0, 20))
    expect(stream.logprobs()).toEqual([...under(null, 0, 5), ...under(3, 5, 20)])
    expect(stream.chunks.at(-1)!.versions).toEqual([
      { version: 'default', start: 0, end: 5 },
      { version: '3', start: 5, end: 20 },
    ])
    expect(server.calls).toEqual(['pause keep', 'updateWeights 3', 'resume', 'resume'])
  })

  test('not computed anew, they match neither version (R3)', async () => {
    const { clock, generate, driver, server } = setup({ tokenMs: 10 })
    const stream = generate([7, 20])
    await clock.advance(55)
    await driver.pause!('keep')
    server.load('3')
    await driver.resume()
    await clock.run(stream.ended)
    const [kept, old, fresh] = [stream.logprobs().slice(5), under(null, 5, 20), under(3, 5, 20)]
    expect(kept.filter((value, index) => value === old[index] || value === fresh[index])).toEqual([])
    expect(stream.chunks.at(-1)!.versions?.at(-1)).toEqual({ version: '3', start: 5, end: 20 })
  })

  test('new requests with a cached prompt match neither until somebody flushes (R2)', async () => {
    const { clock, generate, driver, server } = setup()
    const logprobs = async (key: number): Promise<number[]> => {
      const stream = generate([key, 5])
      await clock.run(stream.ended)
      return stream.logprobs()
    }
    await logprobs(7)
    server.load('3')
    expect(await logprobs(7)).not.toEqual(under(3, 0, 5))
    expect(await logprobs(8)).toEqual(under(3, 0, 5))
    await driver.flush!(false)
    expect(await logprobs(7)).toEqual(under(3, 0, 5))
  })

  test('weights that were discarded with the GPU memory are no version, whatever the server says', async () => {
    for (const keepsWeights of [true, false]) {
      const { clock, generate, driver, server } = setup({ weightVersion: '2', keepsWeights })
      await driver.release!()
      expect([server.released, await generate([7, 5]).ended]).toEqual([true, expect.stringMatching(/no memory/)])
      expect(await driver.reclaim!()).toEqual({ weightsKept: keepsWeights })
      const stream = generate([7, 5])
      await clock.run(stream.ended)
      expect(server.weightVersion).toBe('2')
      if (keepsWeights) expect(stream.logprobs()).toEqual(under(2, 0, 5))
      else expect(stream.logprobs()).not.toEqual(under(2, 0, 5))
    }
  })
})
