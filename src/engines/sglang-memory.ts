/**
 * SGLang gives its GPU memory away and takes it back (decision 8). Both calls end the server when they come at the wrong moment: giving
 * away while anything runs, and taking back what was never given. So the server proves that it is quiet first, and its own
 * word, where it has one, says what was given.
 */
import type { Reclaimed } from './driver.ts'
import { statusFault } from './faults.ts'
import { asRecord } from './json.ts'
import { jsonOf, type Transport } from './transport.ts'

/** Weights of hundreds of gigabytes move to and from the host's memory. */
const MEMORY_DEADLINE_MS = 10 * 60 * 1000

export function createSglangMemory(transport: Transport, mustBeQuiet: (signal?: AbortSignal) => Promise<void>) {
  const { peer } = transport

  async function move(path: string, signal: AbortSignal | undefined): Promise<void> {
    const reply = await transport.call({ method: 'POST', path, body: {}, signal, deadlineMs: MEMORY_DEADLINE_MS })
    if (reply.status !== 200) throw statusFault(peer, reply.what, reply.status, reply.headers, reply.text)
  }

  return {
    async release(signal?: AbortSignal): Promise<void> {
      await mustBeQuiet(signal)
      await move('/release_memory_occupation', signal)
    },
    async reclaim(signal?: AbortSignal): Promise<Reclaimed> {
      const info = asRecord(jsonOf(peer, await transport.call({ method: 'GET', path: '/server_info', signal })))
      await move('/resume_memory_occupation', signal)
      return { weightsKept: info.enable_weights_cpu_backup === true }
    },
  }
}
