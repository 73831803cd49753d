/**
 * What chunk-stream.ts promises: only a terminal event is an end, one chunk for one network read, a slow reader slows the server,
 * and whoever leaves is gone at once, socket included.
 */
import { getEventListeners } from 'node:events'
import { describe, expect, test } from 'vitest'
import type { ExchangeEvents } from '../../src/engines/exchange.ts'
import { createTransport, type Transport } from '../../src/engines/transport.ts'
import { RolloutError } from '../../src/errors.ts'
import { events, join, manualClock, options, refusal, serve } from './fake-server.ts'
import { stream } from './fake-stream.ts'

/** A transport without a network: what arrives is what the test says. */
function wire() {
  const log: string[] = []
  let sink: ExchangeEvents | undefined
  const transport: Transport = {
    peer: { id: 'a', url: 'http://a', apiKey: undefined },
    call: () => Promise.reject(new Error('not here')),
    open(_, __, to) {
      sink = to
      return { pause: () => log.push('pause'), resume: () => log.push('resume'), abort: () => log.push('abort') }
    },
    onHangUp: () => {},
    close: () => Promise.resolve(),
  }
  const read = async (...list: string[]) => {
    for (const each of list) sink?.data(Buffer.from(`data: ${each}\n\n`))
    await Promise.resolve()
  }
  const start = () => sink?.started(200, { 'content-type': 'text/event-stream' })
  return { transport, log, read, start, end: () => sink?.ended(), fail: (error: unknown) => sink?.failed(error, true) }
}

describe('a stream', () => {
  test('ends after its terminal event, and its socket is used again', async () => {
    const server = await serve((_, response) => {
      events(response, ['1', '2', 'end', '[DONE]'])
      response.end()
    })
    const transport = createTransport(options(server.url))
    for (let i = 0; i < 5; i++) expect((await join(stream(server.url, { transport }))).tokenIds).toEqual([1, 2])
    // The next may begin before the end of the last has been read, so two, and never five.
    expect(server.connections()).toBeLessThanOrEqual(2)
    await transport.close()
  })

  test.each([
    ['in the middle of an event', ['1', '2'], 'data: {"te'],
    ['after [DONE] alone', ['1', '2', '[DONE]'], ''],
    ['with the last event cut before its blank line', ['1', '2'], 'data: end\n'],
  ])('that stops %s throws TRANSPORT after the tokens that came (F12)', async (_, list, rest) => {
    const server = await serve((__, response) => {
      events(response, list)
      response.end(rest)
    })
    expect(await join(stream(server.url))).toMatchObject({
      tokenIds: [1, 2],
      error: { code: 'TRANSPORT', message: expect.stringContaining('terminal event') },
    })
  })

  test('whose connection breaks throws TRANSPORT after the tokens that came (F12)', async () => {
    const server = await serve((request, response) => {
      events(response, ['1', '2'])
      setImmediate(() => request.socket.resetAndDestroy())
    })
    const out = await join(stream(server.url))
    expect(out.error).toMatchObject({ code: 'TRANSPORT' })
    const wired = wire()
    const broken = join(stream('http://a', { transport: wired.transport }))
    wired.start()
    void wired.read('1', '2')
    wired.fail(new Error('reset'))
    expect(await broken).toMatchObject({ tokenIds: [1, 2], error: { code: 'TRANSPORT' } })
  })

  test('yields one chunk for one network read, however many events it held', async () => {
    const wired = wire()
    const joined = join(stream('http://a', { transport: wired.transport }))
    wired.start()
    await wired.read('1', '2', '3')
    await wired.read('4', 'end')
    expect(await joined).toMatchObject({ tokenIds: [1, 2, 3, 4], chunks: 2, error: null })
  })

  test('pauses the socket when nobody reads, and resumes it when the reader has caught up', async () => {
    const wired = wire()
    const iterator = stream('http://a', { transport: wired.transport })
    const first = iterator.next()
    wired.start()
    for (let i = 0; i <= 16; i++) await wired.read(String(i))
    expect(wired.log).toEqual(['pause'])
    await first
    for (let i = 1; i <= 15; i++) expect((await iterator.next()).value?.tokenIds).toEqual([i])
    expect(wired.log).toEqual(['pause'])
    await iterator.next()
    expect(wired.log).toEqual(['pause', 'resume'])
  })

  test('holds back a server that is faster than its reader, and loses nothing', async () => {
    const total = 60_000
    const pad = `: ${'x'.repeat(1000)}\n`
    let sent = 0
    const server = await serve((request, response) => {
      if (request.method === 'GET') return response.end()
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      const more = () => {
        while (sent < total && response.write(`${pad}data: ${sent++}\n\n`));
        if (sent === total) response.end('data: end\n\n')
      }
      response.on('drain', more)
      more()
    })
    const transport = createTransport(options(server.url))
    let received = 0
    let ahead = 0
    for await (const chunk of stream(server.url, { transport })) {
      received += chunk.tokenIds.length
      // A round trip per chunk: all the time that a server without brakes needs to send the rest.
      if (received < total / 4) await transport.call({ method: 'GET', path: '/' })
      ahead = Math.max(ahead, sent - received)
    }
    expect(received).toBe(total)
    expect(ahead).toBeLessThan(total / 2)
    await transport.close()
  })

  test('settles at once when its signal is aborted, closes the socket and leaves no listener', async () => {
    const closed: Promise<void>[] = []
    const server = await serve((request, response) => {
      closed.push(new Promise((resolve) => request.socket.on('close', () => resolve())))
      events(response, ['1'])
    })
    const controller = new AbortController()
    const iterator = stream(server.url, { signal: controller.signal })
    expect((await iterator.next()).value?.tokenIds).toEqual([1])
    const waiting = refusal(iterator.next())
    const reason = new RolloutError('TOTAL_TIMEOUT', 'enough')
    controller.abort(reason)
    expect(await waiting).toBe(reason)
    await Promise.all(closed)
    expect(await iterator.next()).toEqual({ done: true, value: undefined })
    expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
  })

  test('yields nothing more after its signal was aborted, not even what had arrived', async () => {
    const wired = wire()
    const controller = new AbortController()
    const iterator = stream('http://a', { transport: wired.transport, signal: controller.signal })
    const first = iterator.next()
    wired.start()
    await wired.read('1')
    await wired.read('2')
    await first
    controller.abort()
    expect(await refusal(iterator.next())).toMatchObject({ code: 'CANCELLED' })
    expect(wired.log).toEqual(['abort'])
  })

  test('is never sent when its signal was aborted before', async () => {
    const server = await serve((_, response) => response.end())
    expect(await refusal(stream(server.url, { signal: AbortSignal.abort() }).next())).toMatchObject({
      code: 'CANCELLED',
    })
    expect(server.connections()).toBe(0)
  })

  test('that is aborted before it is connected is not sent either', async () => {
    const server = await serve((_, response) => response.end())
    const transport = createTransport(options(server.url))
    const controller = new AbortController()
    const waiting = refusal(stream(server.url, { signal: controller.signal, transport }).next())
    controller.abort()
    expect(await waiting).toMatchObject({ code: 'CANCELLED' })
    await transport.call({ method: 'GET', path: '/later' })
    expect(server.requests.map(({ line }) => line)).toEqual(['GET /later'])
    await transport.close()
  })

  test('closes its socket when the loop is left', async () => {
    let gone = () => {}
    const closed = new Promise<void>((resolve) => {
      gone = resolve
    })
    const server = await serve((request, response) => {
      request.socket.on('close', gone)
      events(response, ['1'])
    })
    const controller = new AbortController()
    for await (const chunk of stream(server.url, { signal: controller.signal })) {
      expect(chunk.tokenIds).toEqual([1])
      break
    }
    await closed
    expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
  })

  test('takes the socket from a server that goes on after its terminal event', async () => {
    const clock = manualClock()
    let gone = () => {}
    const closed = new Promise<void>((resolve) => {
      gone = resolve
    })
    const server = await serve((request, response) => {
      request.socket.on('close', gone)
      events(response, ['1', 'end'])
    })
    expect(await join(stream(server.url, { clock }))).toMatchObject({ tokenIds: [1], error: null })
    clock.fire()
    await closed
    expect(clock.pending()).toBe(0)
  })

  test('never waits behind another: as many sockets as streams', async () => {
    const open: (() => void)[] = []
    const server = await serve((_, response) => {
      events(response, ['1'])
      open.push(() => response.end('data: end\n\n'))
      if (open.length === 64) for (const end of open) end()
    })
    const transport = createTransport(options(server.url))
    const all = await Promise.all(Array.from({ length: 64 }, () => join(stream(server.url, { transport }))))
    expect(all.every((out) => out.last?.finishReason === 'stop')).toBe(true)
    expect(server.connections()).toBe(64)
    await transport.close()
  })

  test('on an idle socket that the server has closed is sent again, on a new connection (F13)', async () => {
    const served = new WeakSet<object>()
    const server = await serve((request, response) => {
      if (served.has(request.socket)) return request.socket.destroy()
      served.add(request.socket)
      events(response, ['1', 'end'])
      response.end()
    })
    const transport = createTransport(options(server.url))
    for (let i = 0; i < 4; i++)
      expect(await join(stream(server.url, { transport }))).toMatchObject({ tokenIds: [1], error: null })
    expect(server.requests.length).toBeGreaterThan(4)
    await transport.close()
  })

  test('on a connection that was closed under it is sent again only when that may be, and never by one who has left', async () => {
    const served = new WeakSet<object>()
    const server = await serve((request, response) => {
      if (served.has(request.socket)) return request.socket.destroy()
      served.add(request.socket)
      events(response, ['1', 'end'])
      response.end()
    })
    const transport = createTransport(options(server.url))
    /** Streams until one finds its connection closed, which is when it is asked. @returns the requests of that one, and its error */
    const ask = async (answer: () => Promise<boolean>, signal?: AbortSignal) => {
      for (let asked = false; ; ) {
        const before = server.requests.length
        const maySendAgain = () => {
          asked = true
          return answer()
        }
        const { error } = await join(stream(server.url, { transport, maySendAgain, ...(signal && { signal }) }))
        if (asked) return [server.requests.length - before, error?.code]
      }
    }
    expect(await ask(() => Promise.resolve(true))).toEqual([2, undefined])
    expect(await ask(() => Promise.resolve(false))).toEqual([1, 'TRANSPORT'])
    expect(await ask(() => Promise.reject(new Error('nobody knows')))).toEqual([1, 'TRANSPORT'])
    const controller = new AbortController()
    const leaving = ask(() => Promise.resolve(controller.abort()).then(() => true), controller.signal)
    expect(await leaving).toEqual([1, 'CANCELLED'])
    await transport.close()
  })
})
