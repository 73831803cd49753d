/**
 * How instances join, at the start or while the run goes on (D9): into the books, and as machines of the supervisor's actor, spawned in one batch.
 * Asked for from inside a placement step, by whoever is told of it, they join when that step has ended: the actor spawns nothing before.
 */
import type { EngineDriver } from '../engines/driver.ts'
import { RolloutError } from '../errors.ts'
import type { CheckedInstance } from '../options.ts'
import { listen } from './fleet.ts'
import { LACKS_NOTHING } from './misfit.ts'
import type { Instance, Run } from './run.ts'

interface Joining {
  readonly spec: CheckedInstance
  readonly driver: EngineDriver
}

/** `joined` is called with each. @throws RolloutError DUPLICATE_INSTANCE, with none joined */
export function join(run: Run, specs: readonly CheckedInstance[], joined: (instance: Instance) => void): void {
  mustBeNew(run, specs)
  if (specs.length === 0) return
  const { breaker } = run.options
  // A factory may be the user's own, and throw: nothing has joined then.
  const joining = specs.map((spec): Joining => {
    const { id, url, apiKey, model, createDriver } = spec
    return { spec, driver: createDriver({ id, url, apiKey, model, clock: run.clock }) }
  })
  run.actor.send({
    type: 'instances.added',
    instances: specs.map(({ id, capacity }) => ({ id, capacity: capacity ?? 1, breaker })),
  })
  if (specs[0]!.id in run.actor.getSnapshot().children) {
    for (const each of joining) joined(enter(run, each))
    return
  }
  for (const spec of specs) run.joining.add(spec)
  queueMicrotask(() => {
    for (const spec of specs) run.joining.delete(spec)
    for (const each of joining) {
      if (run.closing) void each.driver.close().catch(() => {})
      else joined(enter(run, each))
    }
  })
}

function mustBeNew(run: Run, specs: readonly CheckedInstance[]): void {
  const others = [...run.instances.values()].map(({ spec }) => spec)
  for (const spec of specs) {
    for (const other of [...others, ...run.joining]) {
      if (other.id === spec.id || other.url === spec.url) {
        throw new RolloutError(
          'DUPLICATE_INSTANCE',
          `expected an id and url that no instance of the fleet has, found ${spec.id} (${spec.url}) beside ${other.id} (${other.url})`,
          { instance: spec.id },
        )
      }
    }
  }
}

function enter(run: Run, { spec, driver }: Joining): Instance {
  const instance: Instance = {
    id: spec.id,
    spec,
    driver,
    actor: run.actor.getSnapshot().children[spec.id] as Instance['actor'],
    account: run.ledger.add(spec.id, spec.weight),
    attempts: new Set(),
    totals: { placed: 0, completed: 0, failed: 0, interrupted: 0, tokens: 0, waitedMs: 0 },
    loadedVersion: null,
    version: run.version,
    isTrusted: true,
    gate: new Set(),
    held: null,
    frozenSince: null,
    isReleased: false,
    onLeaving: new Set(),
    loading: Promise.resolve(),
    bringing: { timer: null, tries: 0 },
    probe: null,
    lacks: LACKS_NOTHING,
    vocabulary: Number.POSITIVE_INFINITY,
    kind: '',
    tokenizes: true,
    tokenizerCalls: 0,
    heardAt: Number.NEGATIVE_INFINITY,
    watchdog: null,
    refusal: null,
    fault: null,
    onLeft: [],
  }
  run.instances.set(spec.id, instance)
  run.policy.add(instance.account)
  listen(run, instance)
  return instance
}
