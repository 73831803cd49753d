/**
 * Simulated servers that are held, and control calls that go wrong in every way.
 */
import { describe, expect, test } from 'vitest'
import { RolloutError } from '../../src/index.ts'
import { expected, setup, under } from './simulated-client.ts'

describe('a held server', () => {
  test('ends what runs, keeps what comes waiting, and runs it when it is opened', async () => {
    const { clock, generate, driver, server } = setup({ tokenMs: 10 })
    const before = generate([7, 20])
    await clock.advance(55)
    await driver.pause!('abort')
    const during = generate([8, 3])
    const gone = generate([9, 3])
    await clock.advance(1_000)
    gone.controller.abort()
    expect([before.tokens().length, before.chunks.at(-1)!.finishReason, during.chunks.length]).toEqual([5, 'abort', 0])
    expect([server.running, await driver.load()]).toMatchObject([0, { running: 0, waiting: 1 }])
    expect((await driver.probe()).paused).toBe(true)
    await driver.resume()
    await clock.run(during.ended)
    expect(during.tokens()).toEqual(expected(8, 0, 3))
    expect([server.waiting, server.running, clock.pending]).toEqual([0, 0, 0])
  })

  test('gives up frozen and waiting requests when they are aborted, and all of them when it dies', async () => {
    const { clock, generate, driver, server } = setup({ tokenMs: 10 })
    const streams = [generate([7, 20]), generate([8, 20])]
    await clock.advance(55)
    await driver.pause!('keep')
    const held = [generate([9, 20]), generate([10, 20])]
    await clock.advance(1_000)
    await driver.abort(streams[0]!.id)
    await driver.abort(held[0]!.id)
    await clock.settle()
    expect([streams[0]!.tokens().length, held[0]!.tokens().length]).toEqual([5, 0])
    server.die()
    expect(await Promise.all([streams[1]!.ended, held[1]!.ended])).toEqual([
      expect.stringMatching(/cut the stream/),
      expect.stringMatching(/cut the stream/),
    ])
    server.revive()
    expect([server.paused, server.running, server.waiting]).toEqual([null, 0, 0])
  })

  test('takes no weights, and flushes nothing, while requests run that are not frozen', async () => {
    const { clock, generate, driver, server } = setup()
    const stream = generate([7, 20])
    const refused = [
      driver.updateWeights({ version: 3, path: '/w', frozen: false }),
      driver.updateWeights({ version: 3, path: '/w', frozen: true }),
      driver.flush!(false),
      driver.flush!(true),
      driver.release!(),
    ]
    for (const call of refused) await expect(call).rejects.toMatchObject({ code: 'BUSY' })
    await clock.run(stream.ended)
    server.stayBusy(2)
    expect(await driver.load()).toMatchObject({ running: 2, waiting: 0 })
    await driver.pause!('abort')
    await expect(driver.updateWeights({ version: 3, path: '/w', frozen: false })).rejects.toMatchObject({
      code: 'BUSY',
    })
    server.stayBusy(0)
    await driver.updateWeights({ version: 3, path: '/w', frozen: false })
    expect(server.weightVersion).toBe('3')
  })

  test('can do no more than it declares', async () => {
    const capabilities = {
      pause: ['abort'],
      release: false,
      updateWeights: false,
      versions: 'none',
      loadReport: false,
    } as const
    const { driver, clock, generate } = setup({ capabilities })
    expect(await driver.probe()).toMatchObject({ capabilities, weightVersion: null })
    for (const call of [
      driver.pause!('keep'),
      driver.release!(),
      driver.updateWeights({ version: 1, path: '/w', frozen: false }),
    ])
      await expect(call).rejects.toMatchObject({ code: 'INSTANCE_FAULT' })
    await expect(driver.load()).rejects.toMatchObject({ code: 'WRONG_PROTOCOL' })
    const stream = generate([7, 5])
    await clock.run(stream.ended)
    expect(stream.chunks.at(-1)!.versions).toBe(null)
  })
})

describe('a control call that a test makes fail', () => {
  const update = { version: 3, path: '/w', frozen: false }
  test.each([
    [404, 'INSTANCE_FAULT', 'default', true],
    [500, 'ENGINE_ERROR', 'default', true],
    [400, 'ENGINE_ERROR', 'default', true],
    [503, 'BUSY', 'default', true],
    ['lie', 'ENGINE_ERROR', 'default', true],
    ['failAfter', 'ENGINE_ERROR', 'default', true],
    ['dieBefore', 'TRANSPORT', 'default', false],
    ['dieAfter', 'TRANSPORT', '3', false],
    ['restartBefore', 'TRANSPORT', 'default', true],
    ['restartAfter', 'TRANSPORT', 'default', true],
    ['hang', 'UNREACHABLE', 'default', true],
    ['hangAfter', 'UNREACHABLE', '3', true],
  ] as const)('%s: is %s, and the server then says %s', async (how, code, label, lives) => {
    const { clock, driver, server } = setup()
    server.fail('updateWeights', how)
    await expect(clock.run(driver.updateWeights(update))).rejects.toMatchObject({ code })
    expect(server.weightVersion).toBe(label)
    if (lives) await driver.updateWeights(update)
    else await expect(driver.probe()).rejects.toMatchObject({ code: 'UNREACHABLE' })
    expect(clock.pending).toBe(0)
  })

  test('failAfter: the weights did change (R10)', async () => {
    const { clock, driver, server, generate } = setup()
    server.fail('updateWeights', 'failAfter')
    await driver.updateWeights(update).catch(() => {})
    const stream = generate([7, 5])
    await clock.run(stream.ended)
    expect(stream.logprobs()).toEqual(under(3, 0, 5))
    expect(stream.chunks.at(-1)!.versions).toEqual([{ version: 'default', start: 0, end: 5 }])
  })

  test('hangs no longer than its signal, or its driver, lives', async () => {
    const { clock, driver, server } = setup()
    server.fail('pause', 'hang', 2)
    const controller = new AbortController()
    const first = driver.pause!('abort', controller.signal)
    const second = driver.pause!('abort')
    controller.abort(new RolloutError('UPDATE_FAILED', 'too late'))
    await expect(first).rejects.toMatchObject({ code: 'UPDATE_FAILED' })
    await Promise.all([driver.close(), expect(second).rejects.toMatchObject({ code: 'CLOSED' })])
    expect(clock.pending).toBe(0)
  })

  test('lies: it is not held, not opened, not flushed, aborts nothing, and says another version', async () => {
    const { clock, driver, server, generate } = setup()
    for (const call of ['pause', 'abort', 'weightVersion', 'load', 'flush', 'resume'] as const) server.fail(call, 'lie')
    const stream = generate([7, 5])
    await driver.pause!('abort')
    await driver.abort(stream.id)
    expect([server.paused, server.running, await driver.load()]).toEqual([null, 1, { running: 0, waiting: 0 }])
    expect([await driver.weightVersion(), await driver.weightVersion()]).toEqual(['other', 'default'])
    await driver.flush!(false)
    await driver.pause!('keep')
    await driver.resume()
    expect(server.paused).toBe('keep')
    server.fail('resume', 500)
    server.heal()
    await driver.resume()
    await clock.run(stream.ended)
    expect(stream.tokens()).toEqual(expected(7, 0, 5))
  })
})

test('loading weights takes its time, ends with its signal, and finds out when the server dies meanwhile', async () => {
  const { clock, driver, server } = setup({ loadMs: 500 })
  await clock.run(driver.updateWeights({ version: 1, path: '/w', frozen: false }))
  expect([clock.now(), server.weightVersion]).toEqual([500, '1'])
  const controller = new AbortController()
  const cancelled = driver.updateWeights({ version: 2, path: '/w', frozen: false }, controller.signal)
  controller.abort(new Error('enough'))
  await expect(cancelled).rejects.toThrow('enough')
  const dying = driver.updateWeights({ version: 2, path: '/w', frozen: false })
  await clock.advance(100)
  server.die()
  await Promise.all([clock.run(dying.catch(() => {})), expect(dying).rejects.toMatchObject({ code: 'UNREACHABLE' })])
  expect([server.weightVersion, clock.pending]).toEqual(['1', 0])
})
