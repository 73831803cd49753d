/**
 * SGLang gives its GPU memory away and takes it back (decision 8). Both calls end a server when they come at the wrong moment: giving
 * away while anything runs, and taking back what was never given (seen on a real 0.5.23: KeyError, exit). It does not say what it gave, so
 * only what this driver had this process of the server give is taken back.
 */
import type { Reclaimed } from './driver.ts'
import { statusFault } from './faults.ts'
import { asRecord, type Json } from './json.ts'
import { jsonOf, type Transport } from './transport.ts'

/** Weights of hundreds of gigabytes move to and from the memory of the host. */
const MEMORY_DEADLINE_MS = 10 * 60 * 1000

export interface SglangMemory {
  release(signal?: AbortSignal): Promise<void>
  reclaim(signal?: AbortSignal): Promise<Reclaimed>
}

export function createSglangMemory(
  transport: Transport,
  mustBeQuiet: (signal?: AbortSignal) => Promise<void>,
): SglangMemory {
  const { peer } = transport
  /** The process that gave its memory away; null where none did. */
  let giver: string | null = null

  async function move(path: string, signal: AbortSignal | undefined, refused?: () => void): Promise<void> {
    const reply = await transport.call({ method: 'POST', path, body: {}, signal, deadlineMs: MEMORY_DEADLINE_MS })
    if (reply.status === 200) return
    if (reply.status < 500) refused?.()
    throw statusFault(peer, reply.what, reply.status, reply.headers, reply.text)
  }

  async function about(signal: AbortSignal | undefined): Promise<Json> {
    return asRecord(jsonOf(peer, await transport.call({ method: 'GET', path: '/server_info', signal })))
  }

  return {
    async release(signal) {
      await mustBeQuiet(signal)
      const process = processOf(await about(signal))
      if (giver === process) return
      // Noted before: a call without an answer, or with a 5xx, may have done it; a refused one did nothing.
      giver = process
      await move('/release_memory_occupation', signal, () => {
        giver = null
      })
    },
    async reclaim(signal) {
      const info = await about(signal)
      // Never given, or by a process that has ended with its memory.
      if (giver !== processOf(info)) return { weightsKept: true }
      await move('/resume_memory_occupation', signal)
      giver = null
      return { weightsKept: info.enable_weights_cpu_backup === true }
    },
  }
}

/** What a server measured while it started is another in each of its lives, and so is the seed that it drew. */
function processOf({ startup_time, random_seed }: Json): string {
  return JSON.stringify([startup_time, random_seed])
}
