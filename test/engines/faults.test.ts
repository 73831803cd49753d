/**
 * What errors about a server say (faults.ts): whose fault it was, what was found in place of a stream, and what to do.
 */
import { describe, expect, test } from 'vitest'
import { events, join, serve, serveBytes } from './fake-server.ts'
import { stream } from './fake-stream.ts'

describe('what is not a stream of this engine', () => {
  test('a page is WRONG_PROTOCOL and shows its beginning (F18)', async () => {
    const server = await serve((_, response) =>
      response.setHeader('content-type', 'text/html').end('<html><title>Welcome to nginx</title>'),
    )
    expect((await join(stream(server.url))).error).toMatchObject({
      code: 'WRONG_PROTOCOL',
      message: expect.stringContaining('Welcome to nginx'),
    })
  })

  test('a redirect is WRONG_PROTOCOL and names its target (F18)', async () => {
    const server = await serve((_, response) => response.writeHead(302, { location: '/login' }).end())
    expect((await join(stream(server.url))).error).toMatchObject({
      code: 'WRONG_PROTOCOL',
      message: expect.stringContaining('/login'),
    })
  })

  test('a line or headers without end are WRONG_PROTOCOL, and bounded (F18)', async () => {
    const endless = (head: string) =>
      serveBytes((socket) => {
        const more = () => {
          while (!socket.destroyed && socket.write('y'.repeat(10_000)));
        }
        socket.on('drain', more)
        socket.once('data', () => {
          socket.write(head)
          more()
        })
      })
    const line = await endless('HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: ')
    expect((await join(stream(line, { maxEventBytes: 1_000_000 }))).error).toMatchObject({
      code: 'WRONG_PROTOCOL',
      message: expect.stringContaining('1000000 bytes'),
    })
    const headers = await endless('HTTP/1.1 200 OK\r\nx: ')
    expect((await join(stream(headers))).error).toMatchObject({ code: 'WRONG_PROTOCOL' })
    const refusalBody = await endless('HTTP/1.1 500 Oh\r\n\r\n')
    expect((await join(stream(refusalBody))).error).toMatchObject({ code: 'ENGINE_ERROR' })
  })

  test('events that make no sense are WRONG_PROTOCOL (F18)', async () => {
    const server = await serve((_, response) => {
      events(response, ['melted'])
      response.end()
    })
    expect((await join(stream(server.url))).error).toMatchObject({
      code: 'WRONG_PROTOCOL',
      message: expect.stringContaining('a melted event'),
    })
  })

  test('a server without TLS behind an https url is WRONG_PROTOCOL, in words', async () => {
    const server = await serve((_, response) => response.end())
    const { error } = await join(stream(server.url.replace('http:', 'https:')))
    expect(error).toMatchObject({ code: 'WRONG_PROTOCOL' })
    expect(error?.message).toMatch(
      /expected an HTTP answer, found no TLS \([a-z ]+\); check scheme and port of the url$/,
    )
  })

  test('nobody there is UNREACHABLE', async () => {
    expect((await join(stream('http://127.0.0.1:1'))).error).toMatchObject({ code: 'UNREACHABLE' })
  })

  test.each([
    [400, {}, { code: 'REQUEST_REJECTED', retryable: false, status: 400 }],
    [401, {}, { code: 'INSTANCE_FAULT', status: 401 }],
    [404, {}, { code: 'INSTANCE_FAULT', status: 404 }],
    [429, { 'retry-after': '2' }, { code: 'BUSY', retryAfterMs: 2000 }],
    [
      503,
      { 'retry-after': 'Mon, 23 Nov 2026 21:00:09 GMT', date: 'Mon, 23 Nov 2026 21:00:00 GMT' },
      { code: 'BUSY', retryAfterMs: 9000 },
    ],
    [500, {}, { code: 'ENGINE_ERROR', status: 500, retryable: true }],
  ])('status %i is the error of its class, with what the server said', async (status, headers, expected) => {
    const server = await serve((_, response) =>
      response.writeHead(status, headers).end('{"error":{"message":"because of reasons"}}'),
    )
    const { error } = await join(stream(server.url))
    expect(error).toMatchObject({ ...expected, instance: 'a', message: expect.stringContaining('because of reasons') })
    expect(error?.message).toContain(server.url)
  })
})
