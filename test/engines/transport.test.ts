/**
 * Control calls: each ends, whatever the server does, and its error names the server.
 */
import { getEventListeners } from 'node:events'
import { describe, expect, test } from 'vitest'
import { createTransport, jsonOf } from '../../src/engines/transport.ts'
import { manualClock, options, refusal, serve, serveBytes } from './fake-server.ts'

const get = (url: string, more = {}) => createTransport(options(url, more)).call({ method: 'GET', path: '/x' })

describe('a control call', () => {
  test('carries method, path below the base url, JSON and the api key', async () => {
    const server = await serve((_, response) => response.setHeader('content-type', 'application/json').end('{"a":1}'))
    const transport = createTransport(options(`${server.url}/base/`, { apiKey: 'secret' }))
    const reply = await transport.call({ method: 'POST', path: '/x?y=1', body: { b: 2 } })
    expect(jsonOf(transport.peer, reply)).toEqual({ a: 1 })
    expect(server.requests).toMatchObject([
      {
        line: 'POST /base/x?y=1',
        body: '{"b":2}',
        headers: { authorization: 'Bearer secret', 'content-type': 'application/json' },
      },
    ])
    await transport.close()
  })

  test('to a port where nothing listens is UNREACHABLE', async () => {
    const error = await refusal(get('http://127.0.0.1:1'))
    expect(error).toMatchObject({ code: 'UNREACHABLE', instance: 'a', retryable: true })
    expect(error.message).toContain('http://127.0.0.1:1')
  })

  test('that gets a redirect names its target and does not follow it (F18)', async () => {
    const server = await serve((_, response) => response.writeHead(307, { location: 'http://elsewhere/x' }).end())
    const error = await refusal(get(server.url))
    expect(error).toMatchObject({
      code: 'WRONG_PROTOCOL',
      status: 307,
      message: expect.stringContaining('http://elsewhere/x'),
    })
    expect(server.requests).toHaveLength(1)
  })

  test('that gets a page says how it begins (F18)', async () => {
    const page = `<!doctype html>\n<title>Sign in</title>${'x'.repeat(500)}`
    const server = await serve((_, response) => response.setHeader('content-type', 'text/html').end(page))
    const transport = createTransport(options(server.url))
    const reply = await transport.call({ method: 'GET', path: '/x' })
    expect(() => jsonOf(transport.peer, reply)).toThrow(
      expect.objectContaining({
        code: 'WRONG_PROTOCOL',
        message: expect.stringMatching(/text\/html: "<!doctype html> <title>Sign in/),
      }),
    )
    expect(() => jsonOf(transport.peer, reply)).toThrow(
      expect.objectContaining({ message: expect.not.stringContaining('x'.repeat(80)) }),
    )
  })

  test.each([
    ['headers without end', 'HTTP/1.1 200 OK\r\n', `x-pad: ${'y'.repeat(1000)}\r\n`, 'WRONG_PROTOCOL'],
    ['a header line without end', 'HTTP/1.1 200 OK\r\nx-pad: ', 'y'.repeat(1000), 'WRONG_PROTOCOL'],
    ['a body without end', 'HTTP/1.1 200 OK\r\n\r\n', 'y'.repeat(64 * 1024), 'WRONG_PROTOCOL'],
    ['another protocol', 'SSH-2.0-OpenSSH_9.6\r\n', '', 'WRONG_PROTOCOL'],
  ])('ends on %s (F18)', async (_, head, rest, code) => {
    const url = await serveBytes((socket) => {
      const more = () => {
        while (rest !== '' && !socket.destroyed && socket.write(rest));
      }
      socket.on('drain', more)
      socket.once('data', () => {
        socket.write(head)
        more()
      })
    })
    expect(await refusal(get(url))).toMatchObject({ code, instance: 'a' })
  })

  test('ends at its deadline on the injected clock, and leaves no timer', async () => {
    const clock = manualClock()
    const server = await serve(() => {})
    const call = refusal(get(server.url, { clock }))
    expect(clock.pending()).toBe(1)
    clock.fire()
    expect(await call).toMatchObject({ code: 'UNREACHABLE', message: expect.stringContaining('10000 ms') })
    expect(clock.pending()).toBe(0)
  })

  test('ends at once when its signal is aborted, with the reason of the signal, and leaves no listener', async () => {
    const server = await serve(() => {})
    const clock = manualClock()
    const transport = createTransport(options(server.url, { clock }))
    const controller = new AbortController()
    const calls = Array.from({ length: 30 }, () =>
      refusal(transport.call({ method: 'GET', path: '/x', signal: controller.signal })),
    )
    controller.abort()
    for (const error of await Promise.all(calls)) expect(error.code).toBe('CANCELLED')
    expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
    expect(clock.pending()).toBe(0)
    expect(await refusal(transport.call({ method: 'GET', path: '/x', signal: controller.signal }))).toMatchObject({
      code: 'CANCELLED',
    })
  })

  test('on an idle socket that the server has closed is sent again, on a new connection (F13)', async () => {
    const served = new WeakSet<object>()
    const server = await serve((request, response) => {
      if (served.has(request.socket)) return request.socket.destroy()
      served.add(request.socket)
      response.end('{}')
    })
    const transport = createTransport(options(server.url))
    for (let i = 0; i < 3; i++) expect((await transport.call({ method: 'POST', path: '/x', body: i })).status).toBe(200)
    expect([...new Set(server.requests.map(({ body }) => body))]).toEqual(['0', '1', '2'])
    expect(server.requests.length).toBeGreaterThan(3)
    await transport.close()
  })

  test('on a new socket that the server closes is not sent again (F13)', async () => {
    const server = await serve((request) => request.socket.destroy())
    expect(await refusal(get(server.url))).toMatchObject({ code: 'TRANSPORT' })
    expect(server.requests).toHaveLength(1)
  })

  test('that breaks after the first byte of its answer is not sent again (F13)', async () => {
    let count = 0
    const server = await serve((request, response) => {
      if (count++ === 0) return response.end('{}')
      response.writeHead(200, { 'content-length': 100 }).write('{"a"', () => request.socket.destroy())
    })
    const transport = createTransport(options(server.url))
    await transport.call({ method: 'GET', path: '/x' })
    expect(await refusal(transport.call({ method: 'GET', path: '/x' }))).toMatchObject({ code: 'TRANSPORT' })
    expect(server.requests).toHaveLength(2)
  })

  test('that is under way when the transport closes is CLOSED, as is every later one', async () => {
    let arrived = () => {}
    const waiting = new Promise<void>((resolve) => {
      arrived = resolve
    })
    const server = await serve(() => arrived())
    const transport = createTransport(options(server.url))
    const call = refusal(transport.call({ method: 'GET', path: '/x' }))
    await waiting
    await transport.close()
    expect(await call).toMatchObject({ code: 'CLOSED' })
    expect(await refusal(transport.call({ method: 'GET', path: '/x' }))).toMatchObject({ code: 'CLOSED' })
  })

  test('never shows the api key or the credentials of the url', async () => {
    const server = await serve((request, response) =>
      response.writeHead(403).end(`bad key ${request.headers.authorization}`),
    )
    const transport = createTransport(options(server.url.replace('//', '//user:hunter2@'), { apiKey: 'sk-secret' }))
    const reply = await transport.call({ method: 'GET', path: '/x' })
    const refused = await refusal(Promise.resolve().then(() => jsonOf(transport.peer, reply)))
    expect(refused).toMatchObject({
      code: 'INSTANCE_FAULT',
      status: 403,
      message: expect.stringContaining('check the api key'),
    })
    expect(`${refused.message}${refused.stack}`).not.toMatch(/sk-secret|hunter2/)
  })
})
