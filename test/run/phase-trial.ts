/**
 * One phase operation, with a fault of one server or something else that happens in the middle: how it ended, and everything that did not hold. Beside
 * I1 to I11, that is: it settles; a server that failed is named and out; the others go on; it comes back when it is well; no server is left held or
 * without its memory; and close() ends, with no timer left (F2, D13, I12).
 */
import type { RolloutError } from '../../src/index.ts'
import type { Supervisor } from '../../src/supervisor.ts'
import type { VirtualClock } from '../../src/testing/virtual-clock.ts'
import { type Call, createStage, type Fault, type Happening, type World } from './phase-world.ts'

export interface Operation {
  readonly name: string
  /** What has to be done before it can be asked for. */
  readonly prepare?: (supervisor: Supervisor) => Promise<unknown>
  readonly ask: (world: World) => Promise<unknown>
  /** The run is paused after it. */
  readonly pauses?: boolean
}

export interface Trial {
  readonly operation: Operation
  readonly faults?: readonly Fault[]
  readonly event?: Happening
  /** @default 0 */
  readonly minInstances?: number
  /** The server cannot be brought back but by restarting it: nobody can know what is wrong there. @default false */
  readonly isLost?: boolean
}

export interface Verdict {
  /** `ok`; the step at which b failed; where the whole failed, the code and that step; `CLOSED`; `incomplete`: an evaluation that was not. */
  readonly outcome: string
  /** Calls that b has had meanwhile. */
  readonly calls: ReadonlySet<Call>
  /** The event of the trial has happened. */
  readonly happened: boolean
  readonly broken: readonly string[]
}

/** Virtual time within which everything must have settled. */
const PATIENCE_MS = 900_000
/** Within which a server that is well again has come back, unless a load there hangs that was begun before. */
const COMES_BACK_MS = 10_000

export async function attempt({
  operation,
  faults = [],
  event,
  minInstances = 0,
  isLost = false,
}: Trial): Promise<Verdict> {
  const stage = createStage(faults, event, minInstances)
  const { world, run, invariants, servers, background } = stage
  const { clock, supervisor, b, tasks } = world
  const must = (holds: boolean, text: string): void => {
    if (!holds) invariants.broken.push(text)
  }
  const settled = async (what: string, work: Promise<unknown>): Promise<void> =>
    must(await settles(clock, work), `${what} has not settled within ${PATIENCE_MS} ms`)
  const rollouts = (what: string): Promise<void> => settled(what, Promise.all(tasks.map(({ result }) => result)))
  const mustBeOpen = (when: string): void => {
    for (const { id, alive, paused, released } of servers.values())
      must(
        !alive || (isLost && id === 'b') || (paused === null && !released),
        `${when} ${id} is left ${paused ?? 'without memory'}`,
      )
  }

  await clock.run(supervisor.start())
  await clock.run(supervisor.updateWeights({ version: 1, path: '/w/1' }))
  for (let count = 0; count < 3; count++) world.submit(40, 2)
  await clock.advance(85)
  if (operation.prepare !== undefined) await clock.run(operation.prepare(supervisor))

  let outcome = ''
  let placed = 0
  const watch = supervisor.events$.subscribe(({ type }) => {
    if (type === 'sample.placed') placed++
  })
  stage.arm()
  const over = operation
    .ask(world)
    .then(outcomeOf, failureOf)
    .then((found) => {
      outcome = found
      const state = supervisor.getSnapshot().instances.find(({ id }) => id === 'b')?.state ?? ''
      // Where nobody has the new weights, the old ones serve on.
      const isOut = !/^serving|trial$/.test(state) || supervisor.version === 1
      must(
        !/^(reach|quiet|pause|apply|flush|verify|resume)$/.test(outcome) || isOut,
        `it failed at ${outcome}, and is ${state}`,
      )
    })
  stage.happen('asked')
  const soon = clock.setTimeout(() => stage.happen('a moment later'), 1)
  await settled(operation.name, over)
  clock.clearTimeout(soon)
  must(operation.pauses !== true || placed === 0, `D13: ${placed} samples were placed in a pause`)
  watch.unsubscribe()
  stage.happen('ended')
  stage.disarm()

  if (!run.closing) {
    if (operation.pauses === true) {
      must(supervisor.getSnapshot().phase === 'paused', `the run is in phase ${supervisor.getSnapshot().phase}`)
      await settled('resume', supervisor.resume())
    }
    // The others go on, whatever has become of b; where there are none, it has to be well first.
    const hasOthers = supervisor.getSnapshot().instances.some(({ id, state }) => id !== 'b' && state !== 'draining')
    world.submit(5, 2)
    if (hasOthers) await rollouts('rollouts')
    must(supervisor.getSnapshot().phase === 'rollout', `the run stays in phase ${supervisor.getSnapshot().phase}`)
    b.heal()
    b.thaw()
    b.stayBusy(0)
    if (isLost) b.die()
    if (!b.alive) b.revive()
    await clock.advance(COMES_BACK_MS)
    const isBack = (): boolean => supervisor.getSnapshot().instances.every(({ state }) => /idle$|trial$/.test(state))
    for (let waitedMs = 0; waitedMs < PATIENCE_MS && !isBack(); waitedMs += COMES_BACK_MS)
      await clock.advance(COMES_BACK_MS)
    // On trial it wants a generation.
    world.submit(5, 8)
    await rollouts('rollouts of a fleet that is well')
    for (const { id, state, version } of supervisor.getSnapshot().instances) {
      must(state === 'serving.idle', `${id} has not come back: it is ${state}`)
      must(version === String(supervisor.version), `${id} has version ${version}, the fleet ${supervisor.version}`)
    }
    mustBeOpen('after it')
  }
  for (const { what, work } of background) await settled(what, work)
  await settled('close()', supervisor.close())
  invariants.whenIdle()
  must(clock.pending === 0, `I12: ${clock.pending} timers are left`)
  mustBeOpen('by close()')
  return { outcome, calls: stage.calls, happened: stage.hasHappened(), broken: invariants.broken }
}

/** False where it does not. */
function settles(clock: VirtualClock, work: Promise<unknown>): Promise<boolean> {
  return clock.run(
    new Promise((resolve) => {
      const timer = clock.setTimeout(() => resolve(false), PATIENCE_MS)
      const settle = (): void => {
        clock.clearTimeout(timer)
        resolve(true)
      }
      work.then(settle, settle)
    }),
  )
}

function outcomeOf(result: unknown): string {
  if (Array.isArray(result)) return result.every(({ complete }) => complete) ? 'ok' : 'incomplete'
  const { instances } = result as { instances: readonly { id: string; ok: boolean; step: string | null }[] }
  const found = instances.find(({ id }) => id === 'b')
  return found === undefined || found.ok ? 'ok' : found.step!
}

/** With the steps that its message names, of whom if not of b. */
function failureOf(error: unknown): string {
  const { code, message } = error as RolloutError
  const steps = [...message.matchAll(/\n {2}(\w+) \((\w+)\)/g)].map(([, id, step]) => (id === 'b' ? step : id))
  return [code, ...steps].join(' ')
}
