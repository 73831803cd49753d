/**
 * How vLLM is held, emptied and put to sleep: control routes that it has in dev mode (`VLLM_SERVER_DEV_MODE=1`) alone.
 * A refusal here blames the instance and never a sample, whatever its status.
 */
import type { PauseMode, Reclaimed } from './driver.ts'
import { fault, serverMessage, statusFault } from './faults.ts'
import { asRecord } from './json.ts'
import { jsonOf, type Reply, type Transport } from './transport.ts'

export interface Flushed {
  readonly flushed: boolean
  readonly said: string
}

export interface VllmControl {
  /** One control call that must be answered with 200. */
  post(path: string, body: object, signal: AbortSignal | undefined, deadlineMs?: number): Promise<Reply>
  pause(mode: PauseMode, signal?: AbortSignal): Promise<void>
  resume(signal?: AbortSignal): Promise<void>
  tryFlush(frozen: boolean, signal: AbortSignal | undefined): Promise<Flushed>
  flush(frozen: boolean, signal?: AbortSignal): Promise<void>
  release(signal?: AbortSignal): Promise<void>
  reclaim(signal?: AbortSignal): Promise<Reclaimed>
}

/** It answers between two steps, and a step may hold a long prompt. */
const PAUSE_DEADLINE_MS = 60_000
/** Weights of hundreds of gigabytes move to and from the host's memory. */
const MEMORY_DEADLINE_MS = 10 * 60 * 1000

export function createVllmControl(transport: Transport): VllmControl {
  const { peer } = transport

  async function post(path: string, body: object, signal: AbortSignal | undefined, deadlineMs?: number) {
    const deadline = deadlineMs === undefined ? {} : { deadlineMs }
    const reply = await transport.call({ method: 'POST', path, body, signal, ...deadline })
    const { status, what } = reply
    if (status === 200) return reply
    if (status === 404) {
      const found = `${what}: expected a control route, found: none (404); start the server with VLLM_SERVER_DEV_MODE=1`
      throw fault('ENGINE_ERROR', peer, found)
    }
    if (status !== 400 && status !== 422) throw statusFault(peer, what, status, reply.headers, reply.text)
    const said = serverMessage(reply.text, peer)
    throw fault('ENGINE_ERROR', peer, `${what}: expected status 200, found: ${said}; read the server's log`)
  }

  /** The scheduler refuses while anything runs, unless it may take the cache of what runs as well. Releases before 0.32 say nothing. */
  async function tryFlush(frozen: boolean, signal: AbortSignal | undefined): Promise<Flushed> {
    const path = frozen ? '/reset_prefix_cache?reset_running_requests=true' : '/reset_prefix_cache'
    const { text, ...reply } = await post(path, {}, signal)
    const flushed = text === '' || asRecord(jsonOf(peer, { ...reply, text })).success !== false
    return { flushed, said: text }
  }

  return {
    post,
    async pause(mode, signal) {
      await post(`/pause?mode=${mode}`, {}, signal, PAUSE_DEADLINE_MS)
    },
    async resume(signal) {
      const reply = await transport.call({ method: 'POST', path: '/resume', body: {}, signal })
      // A server outside dev mode cannot be held.
      if (reply.status !== 404) jsonOf(peer, reply)
    },
    tryFlush,
    async flush(frozen, signal) {
      const { flushed, said } = await tryFlush(frozen, signal)
      if (flushed) return
      const what =
        'POST /reset_prefix_cache: expected the cache of older weights to be emptied, found requests that run'
      throw fault('BUSY', peer, `${what} (${said}); end them, also those of others, and update again`)
    },
    /** Level 1 keeps the weights in the memory of the host. */
    async release(signal) {
      await post('/sleep?level=1&mode=abort', {}, signal, MEMORY_DEADLINE_MS)
    },
    /** Whoever put it to sleep: with level 2 the weights are gone, and only the one who did it knows. */
    async reclaim(signal) {
      const reply = await post('/wake_up', {}, signal, MEMORY_DEADLINE_MS)
      const { status } = asRecord(jsonOf(peer, reply))
      if (status !== undefined && status !== 'awake') {
        const found = `POST /wake_up: expected status "awake", found ${JSON.stringify(status)}; read the server's log`
        throw fault('ENGINE_ERROR', peer, found)
      }
      return { weightsKept: true }
    },
  }
}
