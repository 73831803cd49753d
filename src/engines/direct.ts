/**
 * The short way from a built-in driver to the supervisor: chunks are pushed, with no promise or iterator result for each and no
 * listener on a signal. It hangs on the `generate` function, so that a driver which wraps another's `generate` is never passed by: the wrapper
 * has no short way, and is iterated as everybody's driver is.
 */
import { ChunkReader, type ChunkRequest, type ChunkSink } from './chunk-reader.ts'
import { chunkStream } from './chunk-stream.ts'
import type { EngineDriver, GenerateRequest } from './driver.ts'

type Generate = EngineDriver['generate']

/** One running generation: `cancel` closes its socket, and ends the sink with the reason. */
export interface DirectStream {
  cancel(reason: unknown): void
}

/** Sends at once. Throws where `generate` would. */
export type DirectGenerate = (request: GenerateRequest, sink: ChunkSink) => DirectStream

const DIRECT = Symbol('direct')

/** What an engine makes of a request; what the supervisor wants to hear of it is the same for all. */
type EngineRequest = Omit<ChunkRequest, 'onAccepted' | 'maySendAgain' | 'maxEventBytes'>

/** Both ways over one request: `requestOf` throws where the engine cannot take it. */
export function generateBy(requestOf: (request: GenerateRequest) => EngineRequest): Generate {
  const heard = (request: GenerateRequest): ChunkRequest => {
    const { transport, clock, path, body, decoder } = requestOf(request)
    const { onAccepted, maySendAgain } = request
    return { transport, clock, path, body, decoder, onAccepted, maySendAgain }
  }
  const generate: Generate = (request, signal) => chunkStream(heard(request), signal)
  const direct: DirectGenerate = (request, sink) => {
    const reader = new ChunkReader(heard(request), sink)
    reader.start()
    return reader
  }
  return Object.assign(generate, { [DIRECT]: direct })
}

/** The short way of a driver, where it has one. */
export function directOf({ generate }: EngineDriver): DirectGenerate | undefined {
  return (generate as Generate & { readonly [DIRECT]?: DirectGenerate })[DIRECT]
}
