/**
 * A stream of an engine that speaks in numbers, over the real transport, for tests of streams that are of no engine's protocol.
 */
import { chunkStream } from '../../src/engines/chunk-stream.ts'
import type { Chunk } from '../../src/engines/driver.ts'
import { createTransport, type Transport } from '../../src/engines/transport.ts'
import { type manualClock, never, options } from './fake-server.ts'

/** Events are the ids of their tokens; 'end' is the terminal one. Several in one read are merged. */
function decoder() {
  return {
    failure: null,
    read(list: readonly string[]): Chunk | null {
      const tokenIds = list.filter((each) => /^\d+$/.test(each)).map(Number)
      if (list.includes('melted')) throw new Error('a melted event')
      const end = list.includes('end')
      if (tokenIds.length === 0 && !end) return null
      return { tokenIds, logprobs: [], text: null, finishReason: end ? 'stop' : null, versions: null }
    },
  }
}

export function stream(
  url: string,
  more: {
    signal?: AbortSignal
    clock?: ReturnType<typeof manualClock>
    maxEventBytes?: number
    transport?: Transport
    maySendAgain?: () => Promise<boolean>
  } = {},
) {
  const set = options(url, more.clock === undefined ? {} : { clock: more.clock })
  const transport = more.transport ?? createTransport(set)
  const { signal = never, maxEventBytes, maySendAgain } = more
  return chunkStream(
    { transport, clock: set.clock, path: '/generate', body: '{}', decoder: decoder(), maxEventBytes, maySendAgain },
    signal,
  )
}
