/**
 * The short way of a built-in driver hands over exactly what its iterator yields: the same tokens, log-probabilities, text, versions
 * and ends, from what real servers said, however the network cuts it (I8, F12).
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ChunkReader, type ChunkSink } from '../../src/engines/chunk-reader.ts'
import { chunkStream } from '../../src/engines/chunk-stream.ts'
import { directOf } from '../../src/engines/direct.ts'
import type { Chunk } from '../../src/engines/driver.ts'
import type { ExchangeEvents } from '../../src/engines/exchange.ts'
import { createSglangDriver } from '../../src/engines/sglang.ts'
import { sglangDecoder } from '../../src/engines/sglang-events.ts'
import type { Transport } from '../../src/engines/transport.ts'
import { vllmDecoder } from '../../src/engines/vllm-events.ts'
import { RolloutError } from '../../src/errors.ts'
import { manualClock, never, options, type Recorded, recorded, sampling, sglangStream } from './fake-server.ts'

/** A transport without a network: what arrives is what the test says. */
function wire() {
  const log: string[] = []
  let to: ExchangeEvents | undefined
  const transport: Transport = {
    peer: { id: 'a', url: 'http://a', apiKey: undefined },
    call: () => Promise.reject(new Error('not here')),
    open(_, __, events) {
      to = events
      return { pause: () => log.push('pause'), resume: () => log.push('resume'), abort: () => log.push('abort') }
    },
    onHangUp: () => {},
    close: () => Promise.resolve(),
  }
  return { transport, log, events: () => to! }
}

/** The bytes of a recorded answer, cut at these places and in reads of one cut or of several. */
async function play(to: ExchangeEvents, { status, type, body }: Recorded, cuts: readonly number[], ends: boolean) {
  const bytes = Buffer.from(body)
  const places = [...new Set(cuts.map((cut) => cut % (bytes.length + 1))), bytes.length].sort((a, b) => a - b)
  to.started(status, { 'content-type': type ?? undefined })
  let start = 0
  for (const [index, end] of places.entries()) {
    to.data(bytes.subarray(start, end))
    start = end
    if (index % 3 !== 2) await Promise.resolve()
  }
  if (ends) to.ended()
  else to.failed(new Error('reset'), true)
}

interface Heard {
  readonly chunks: Chunk[]
  error: unknown
}

async function iterated(request: Parameters<typeof chunkStream>[0], begun: () => Promise<void>): Promise<Heard> {
  const heard: Heard = { chunks: [], error: null }
  const iterator = chunkStream(request, never)
  const listening = (async () => {
    for await (const chunk of iterator) heard.chunks.push(chunk)
  })().catch((error: unknown) => {
    heard.error = error
  })
  await begun()
  await listening
  return heard
}

async function pushed(request: Parameters<typeof chunkStream>[0], begun: () => Promise<void>): Promise<Heard> {
  const heard: Heard = { chunks: [], error: undefined }
  new ChunkReader(request, sinkOf(heard)).start()
  await begun()
  return heard
}

function sinkOf(heard: Heard): ChunkSink {
  return {
    chunk(chunk) {
      expect(heard.error).toBeUndefined()
      heard.chunks.push(chunk)
    },
    end(error) {
      expect(heard.error).toBeUndefined()
      heard.error = error
    },
  }
}

const peer = { id: 'a', url: 'http://a', apiKey: undefined }
const answers = [
  ...['generate', 'generateEveryToken', 'stopString', 'badSampling', 'abortRunning', 'queueFull'].map(
    (name) =>
      [
        `sglang-deltas ${name}`,
        recorded('sglang-deltas')(name),
        () => sglangDecoder(sglangStream(peer, true)),
      ] as const,
  ),
  ...['generate', 'generateEveryToken', 'abortRetracted', 'tooLong'].map(
    (name) =>
      [
        `sglang-cumulative ${name}`,
        recorded('sglang-cumulative')(name),
        () => sglangDecoder(sglangStream(peer, false)),
      ] as const,
  ),
  ...['generateAfterUpdate', 'generateDying', 'pausedAbort'].map(
    (name) =>
      [
        `vllm ${name}`,
        recorded('vllm-scale-out')(name),
        () => vllmDecoder({ peer, route: '/inference/v1/generate', logprobs: true, versions: true, stops: null }),
      ] as const,
  ),
]

describe('the short way', () => {
  test.each(answers)(
    'hands over what the iterator yields, however the network cuts it: %s (I8, F12)',
    async (_, answer, decoder) => {
      await fc.assert(
        fc.asyncProperty(fc.array(fc.nat(), { maxLength: 25, size: 'max' }), fc.boolean(), async (cuts, ends) => {
          const heard: Heard[] = []
          for (const listen of [iterated, pushed]) {
            const { transport, events } = wire()
            const request = { transport, clock: manualClock(), path: '/generate', body: '{}', decoder: decoder() }
            heard.push(await listen(request, () => play(events(), answer, cuts, ends)))
          }
          const [iterator, short] = heard
          expect(short).toEqual(iterator)
          // An ended stream says so itself; an end of the socket says it for all others.
          expect(short?.error !== undefined).toBe(true)
        }),
        { numRuns: 25 },
      )
    },
  )

  test('closes the socket at once when it is cancelled, with the reason, and hands over nothing more (I11)', async () => {
    const { transport, log, events } = wire()
    const heard: Heard = { chunks: [], error: undefined }
    const request = {
      transport,
      clock: manualClock(),
      path: '/generate',
      body: '{}',
      decoder: sglangDecoder(sglangStream(peer, true)),
    }
    const reader = new ChunkReader(request, sinkOf(heard))
    reader.start()
    const reason = new RolloutError('TOTAL_TIMEOUT', 'enough')
    events().started(200, { 'content-type': 'text/event-stream' })
    events().data(Buffer.from(recorded('sglang-deltas')('generate').body))
    reader.cancel(reason)
    reader.cancel(new Error('again'))
    expect(heard).toEqual({ chunks: [], error: reason })
    events().ended()
    await Promise.resolve()
    expect(heard.chunks).toEqual([])
    expect(log).toEqual(['abort'])
  })

  test('ends with what its sink throws, and closes the socket', async () => {
    const { transport, log, events } = wire()
    const broken = new Error('a listener of yours')
    const ends: unknown[] = []
    const sink: ChunkSink = {
      chunk() {
        throw broken
      },
      end: (error) => ends.push(error),
    }
    new ChunkReader(
      {
        transport,
        clock: manualClock(),
        path: '/generate',
        body: '{}',
        decoder: sglangDecoder(sglangStream(peer, true)),
      },
      sink,
    ).start()
    await play(events(), recorded('sglang-deltas')('generate'), [], true)
    expect(ends).toEqual([broken])
    expect(log).toEqual(['abort'])
  })

  test('keeps no timer when the stream ends with its terminal event, and one while it does not', async () => {
    const { transport, events } = wire()
    const clock = manualClock()
    const heard: Heard = { chunks: [], error: undefined }
    new ChunkReader(
      { transport, clock, path: '/generate', body: '{}', decoder: sglangDecoder(sglangStream(peer, true)) },
      sinkOf(heard),
    ).start()
    const { body } = recorded('sglang-deltas')('generate')
    events().started(200, { 'content-type': 'text/event-stream' })
    events().data(Buffer.from(body))
    await Promise.resolve()
    expect(heard.error).toBeNull()
    expect(clock.pending()).toBe(1)
    events().ended()
    expect(clock.pending()).toBe(0)
  })

  test('is not taken past a driver that wraps generate', () => {
    const driver = createSglangDriver(options('http://127.0.0.1:1'))
    expect(directOf(driver)).toBeTypeOf('function')
    expect(directOf({ ...driver })).toBe(directOf(driver))
    expect(directOf({ ...driver, generate: (request, signal) => driver.generate(request, signal) })).toBeUndefined()
  })

  test('refuses what generate refuses, before anything is sent', () => {
    const driver = createSglangDriver(options('http://127.0.0.1:1'))
    const chat = { requestId: 'r', prompt: [{ role: 'user', content: 'hi' }] as const, sampling }
    const sink: ChunkSink = { chunk: () => {}, end: () => {} }
    expect(() => directOf(driver)?.(chat, sink)).toThrow('expected token ids or text')
    expect(() => driver.generate(chat, never)).toThrow('expected token ids or text')
  })
})
