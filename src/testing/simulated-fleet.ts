/**
 * Servers without sockets, under a virtual clock: the real supervisor runs hours of work in seconds, and the same seed gives
 * the same run.
 *
 * A prompt is `[key, length]`: a server generates `length` tokens for it, one each `tokenMs`. Token `i` depends on the key
 * and `i` alone, so a resumed sample continues exactly where it was, and a lost or repeated token shows: in the output, and in a
 * prompt that goes on with others, which is refused. Its log-probability depends on `i` and on the weights that it was really
 * computed under (simulated-cache.ts), so a token that is labelled with others shows too.
 */
import type { Clock } from '../clock.ts'
import type { Capabilities, DriverFactory, PauseMode } from '../engines/driver.ts'
import { type ControlCall, type ControlFailure, createControlFaults } from './simulated-control.ts'
import { createSimulatedDriver } from './simulated-driver.ts'
import { createSimulatedEngine } from './simulated-engine.ts'

export { logprobOf } from './simulated-cache.ts'
export type { ControlCall, ControlFailure } from './simulated-control.ts'
export { tokenOf } from './simulated-engine.ts'

/** Options of simulateServer. */
export interface SimulatedServerOptions {
  readonly id: string
  /** Sequences it runs at once. @default 8 */
  readonly capacity?: number
  /** Time of one token, in milliseconds. @default 10 */
  readonly tokenMs?: number
  /** Tokens between two chunks of a stream. @default the whole rest */
  readonly chunkTokens?: number
  /** @default 'default' */
  readonly weightVersion?: string
  /** Time that loading weights takes, in milliseconds. @default 0 */
  readonly loadMs?: number
  /** What it can do other than everything; it declares it, and can do no more than that. */
  readonly capabilities?: Partial<Capabilities>
  /** Whether its weights are there again after it gave its GPU memory away. @default true */
  readonly keepsWeights?: boolean
}

/** A server without a socket, and what can be done to it. */
export interface SimulatedServer {
  readonly id: string
  /** As InstanceOptions wants it. */
  readonly url: string
  readonly engine: DriverFactory
  /** False from its death until it is revived. */
  readonly alive: boolean
  readonly running: number
  /** Requests that wait because it is held. */
  readonly waiting: number
  /** Most sequences it ever ran at once. */
  readonly maxRunning: number
  readonly generated: number
  /** What it says of its weights. */
  readonly weightVersion: string
  /** How it is held, or null. */
  readonly paused: PauseMode | null
  /** Its GPU memory is given away. */
  readonly released: boolean
  /** The calls that changed something, or were meant to, in order: `pause keep`, `updateWeights 7`. */
  readonly calls: readonly string[]
  /** Cuts every stream, and refuses every call until `revive`. */
  die(): void
  /** Answers again, thawed, empty and open; by default with the weights it was started with. */
  revive(weightVersion?: string): void
  /** Answers everything, but generates nothing until `thaw`. */
  freeze(): void
  thaw(): void
  /** Somebody else loads weights: caches stay as they are. @param label what it says of them, by default the version */
  load(version: string, label?: string): void
  /** So many requests of strangers run there, which nothing ends, until it is told 0. */
  stayBusy(requests: number): void
  /** The next such calls go wrong, each once. @param times 1 by default */
  fail(call: ControlCall, how: ControlFailure, times?: number): void
  /** Takes back every failure that has not struck yet. */
  heal(): void
}

const EVERYTHING: Capabilities = {
  tokenIds: true,
  logprobs: 'sampled',
  abortById: true,
  versions: 'spans',
  updateWeights: true,
  loadReport: true,
  pause: ['abort', 'keep'],
  release: true,
}

/** Makes a server that lives under a clock. Hand its `url` and `engine` to createSupervisor. */
export function simulateServer(clock: Clock, options: SimulatedServerOptions): SimulatedServer {
  const { id, keepsWeights = true, loadMs = 0 } = options
  const capabilities = { ...EVERYTHING, ...options.capabilities }
  const server = createSimulatedEngine(clock, { ...options, spans: capabilities.versions === 'spans' })
  const faults = createControlFaults(clock, id, server)
  const calls: string[] = []
  const driver = createSimulatedDriver({ id, clock, server, faults, capabilities, keepsWeights, loadMs, calls })

  return {
    id,
    url: `sim://${id}`,
    engine: () => driver,
    get alive() {
      return server.alive
    },
    get running() {
      return server.running
    },
    get waiting() {
      return server.waiting
    },
    get maxRunning() {
      return server.maxRunning
    },
    get generated() {
      return server.generated
    },
    get weightVersion() {
      return server.label
    },
    get paused() {
      return server.paused
    },
    get released() {
      return server.released
    },
    calls,
    die: server.die,
    revive: server.revive,
    freeze: server.freeze,
    thaw: server.thaw,
    load: server.load,
    stayBusy: server.stayBusy,
    fail: (call, how, times = 1) => faults.fail(call, how, times),
    heal: faults.heal,
  }
}
