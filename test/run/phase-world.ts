/**
 * The fleet of a trial: two simulated servers under the virtual clock, of which `b` can be made to misbehave in any call, and around whose calls
 * anything else can be made to happen. The invariants are looked at after every event and before every timer.
 */
import { vi } from 'vitest'
import { createSupervisor, type DriverFactory, type EngineDriver, RolloutError } from '../../src/index.ts'
import type { Rollout } from '../../src/run/rollout.ts'
import type { Run } from '../../src/run/run.ts'
import type { Supervisor } from '../../src/supervisor.ts'
import {
  type ControlCall,
  type ControlFailure,
  type SimulatedServer,
  simulateServer,
} from '../../src/testing/simulated-fleet.ts'
import type { VirtualClock } from '../../src/testing/virtual-clock.ts'
import { type Expected, gateOf, type Invariants, watchInvariants } from '../properties/invariants.ts'
import { CONTROL_CALLS } from '../properties/phases.ts'
import { createRestingClock } from '../properties/resting-clock.ts'

const made = vi.hoisted(() => ({ last: null as unknown }))

/** The real createRun; the run that it made is kept, so that the trial can look into the books. */
vi.mock('../../src/run/create-run.ts', async (importOriginal) => {
  const original = await importOriginal<typeof import('../../src/run/create-run.ts')>()
  return {
    createRun: (options: Parameters<typeof original.createRun>[0]) => {
      made.last = original.createRun(options)
      return made.last
    },
  }
})

/** Calls to a server, and the user's own function that loads weights. */
export type Call = ControlCall | 'apply'
/** How the user's function goes wrong: nothing done, never back, done by half, or back with nothing done. */
export type ApplyFailure = 'throws' | 'never' | 'half' | 'lies'
export type Fault = readonly ['apply', ApplyFailure] | readonly [ControlCall, ControlFailure]
/** Around a call: before it is sent, while its answer is awaited, when that has come; or after the operation was asked for, and has ended. */
export type Moment = `${'before' | 'during' | 'after'} ${Call}` | 'asked' | 'a moment later' | 'ended'

/** What operations and events have to work with. */
export interface World {
  readonly supervisor: Supervisor
  /** Its timers find the supervisor at rest. */
  readonly clock: VirtualClock
  readonly b: SimulatedServer
  /** Everything that was submitted. */
  readonly tasks: readonly Rollout[]
  submit(length: number, samples: number): Rollout
  evaluate(interrupt: 'resume' | 'restart' | 'drain' | 'share'): Promise<unknown>
  /** The user's function that loads weights of a version. */
  apply(version: number): (instance: { readonly id: string }, signal: AbortSignal) => Promise<void>
  /** One more server, without faults. */
  spare(): { readonly id: string; readonly url: string; readonly engine: DriverFactory }
  /** Something that has to settle before the trial is over. */
  later(what: string, work: Promise<unknown>): void
}

export interface Happening {
  readonly at: Moment
  readonly act: (world: World) => void
}

export interface Stage {
  readonly world: World
  readonly run: Run
  readonly invariants: Invariants
  readonly servers: ReadonlyMap<string, SimulatedServer>
  /** Calls that b has had since it was armed. */
  readonly calls: ReadonlySet<Call>
  readonly background: readonly { readonly what: string; readonly work: Promise<unknown> }[]
  /** From here on faults strike, and things happen. */
  arm(): void
  disarm(): void
  happen(moment: Moment): void
  hasHappened(): boolean
}

const LOAD_MS = 10
const START_MS = 10
/** Half of the time that a call takes while something happens during it. */
const HALF_MS = 2

export function createStage(faults: readonly Fault[], event: Happening | undefined, minInstances: number): Stage {
  let atRest = (): void => {}
  const clock = createRestingClock(() => atRest())
  const servers = new Map<string, SimulatedServer>()
  const calls = new Set<Call>()
  const applyFaults = faults.flatMap((fault) => (fault[0] === 'apply' ? [fault[1]] : []))
  const closed = new AbortController()
  let next: Moment | null = event?.at ?? null
  let isArmed = false

  function happen(moment: Moment): void {
    if (!isArmed || moment !== next) return
    next = null
    event!.act(world)
  }
  async function call<T>(name: Call, work: () => Promise<T>, signal = closed.signal): Promise<T> {
    if (!isArmed) return work()
    calls.add(name)
    happen(`before ${name}`)
    // An abort is not waited for: it takes its time on the way there, the others on the way back.
    if (next === 'during abort' && name === 'abort') {
      await sleep(clock, HALF_MS, signal)
      happen('during abort')
    }
    const answer = work()
    if (next === `during ${name}`) {
      answer.catch(() => {})
      await sleep(clock, HALF_MS, signal)
      happen(`during ${name}`)
      await sleep(clock, HALF_MS, signal)
    }
    try {
      return await answer
    } finally {
      happen(`after ${name}`)
    }
  }
  /** A server as the supervisor sees it: it tells of requests inside the gate, and of connections that broke. */
  function join(server: SimulatedServer) {
    servers.set(server.id, server)
    const engine: DriverFactory = (options) => {
      const driver = server.engine(options)
      const control =
        (name: ControlCall) =>
        async (...given: readonly unknown[]) => {
          const act = driver[name] as (...args: readonly unknown[]) => Promise<unknown>
          const signal = given.find((each) => each instanceof AbortSignal) as AbortSignal | undefined
          try {
            return await (server === b ? call(name, () => act(...given), signal) : act(...given))
          } catch (cause) {
            if (server === b && RolloutError.isInstance(cause) && cause.code === 'TRANSPORT') hangUp()
            throw cause
          }
        }
      const watched = Object.fromEntries(CONTROL_CALLS.map((name) => [name, control(name)])) as Partial<EngineDriver>
      return {
        ...driver,
        ...watched,
        generate(request, signal) {
          const gate = gateOf(run, server.id)
          if (gate !== null) invariants.broken.push(`I10: a request reached ${server.id}, ${gate}`)
          return driver.generate(request, signal)
        },
        onHangUp(listener) {
          if (server === b) hangUp = listener
        },
        async close() {
          if (server === b) closed.abort()
          await driver.close()
        },
      }
    }
    return { id: server.id, url: server.url, engine }
  }
  let hangUp = (): void => {}
  const [a, b] = ['a', 'b'].map((id) => simulateServer(clock, { id, capacity: 2, chunkTokens: 8, loadMs: LOAD_MS }))
  const supervisor = createSupervisor({
    instances: [join(a!), join(b!)],
    breaker: { failures: 3, resetMs: 100, maxResetMs: 1_000 },
    minInstances,
    clock,
    runId: 'trial123',
  })
  const run = made.last as Run
  const invariants = watchInvariants(supervisor, run, servers)
  atRest = invariants.atRest

  const tasks: Rollout[] = []
  const background: { readonly what: string; readonly work: Promise<unknown> }[] = []
  let asked = 0
  function task(length: number, samples: number, kind: 'rollout' | 'evaluation') {
    const order = asked++
    const id = `t${order}`
    const rest = { priority: 0, minVersion: null, text: false, picky: false }
    const expected: Expected = { id, order, key: order, length, samples, kind, ...rest }
    return { expected, given: { id, prompt: [order, length], samples, kind } }
  }

  const world: World = {
    supervisor,
    clock,
    b: {
      ...b!,
      get alive() {
        return b!.alive
      },
      die() {
        b!.die()
        hangUp()
      },
      heal() {
        b!.heal()
        applyFaults.length = 0
      },
      /** A process takes its time to start. */
      revive: (version) => void clock.setTimeout(() => b!.revive(version), START_MS),
    },
    tasks,
    submit(length, samples) {
      const { expected, given } = task(length, samples, 'rollout')
      invariants.expect(expected)
      tasks.push(supervisor.submit(given))
      return tasks.at(-1)!
    },
    evaluate(interrupt) {
      const { expected, given } = task(20, 3, 'evaluation')
      let work!: Promise<unknown>
      invariants.expectAll([expected], () => {
        work = supervisor.evaluate([given], { interrupt })
      })
      return work
    },
    apply:
      (version) =>
      async ({ id }, signal) => {
        const server = servers.get(id)!
        const load = async (): Promise<void> => {
          const fault = server === b ? applyFaults.shift() : undefined
          if (!server.alive || server.released || fault === 'throws') throw new Error('no such file')
          if (fault === 'never') await new Promise(() => {})
          await sleep(clock, LOAD_MS, signal)
          signal.throwIfAborted()
          if (fault === 'lies') return
          server.load(String(version))
          if (fault === 'half') throw new Error('the second half is missing')
        }
        await (server === b ? call('apply', load, signal) : load())
      },
    spare: () => join(simulateServer(clock, { id: 'late', capacity: 2, loadMs: LOAD_MS })),
    later: (what, work) => void background.push({ what, work: work.catch(() => {}) }),
  }

  return {
    world,
    run,
    invariants,
    servers,
    calls,
    background,
    arm() {
      for (const fault of faults) if (fault[0] !== 'apply') b!.fail(fault[0], fault[1])
      isArmed = true
    },
    disarm() {
      isArmed = false
    },
    happen,
    hasHappened: () => next === null,
  }
}

function sleep(clock: VirtualClock, ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve()
    const timer = clock.setTimeout(resolve, ms)
    const wake = (): void => {
      clock.clearTimeout(timer)
      resolve()
    }
    signal.addEventListener('abort', wake, { once: true })
  })
}
