/**
 * Puts a run together: machines, ledger, policy, queue and streams, wired but not started.
 */
import { randomBytes } from 'node:crypto'
import { createActor, type InspectionEvent } from 'xstate'
import { instanceMachine, supervisorMachine } from '../../machines/index.ts'
import { messageOf, RolloutError, type RolloutErrorCode } from '../errors.ts'
import type { CheckedOptions, SupervisorOptions } from '../options.ts'
import { createLedger } from '../rollout/ledger.ts'
import { createPolicy } from '../scheduling/policies.ts'
import { createQueue } from '../scheduling/queue.ts'
import { createSessions } from '../scheduling/sessions.ts'
import { createCompletionSinks } from '../streams/completions.ts'
import { createHub } from '../streams/hub.ts'
import { safeLogger } from '../telemetry/logger.ts'
import { lose } from './fleet.ts'
import { createLine } from './line.ts'
import { walled } from './own-machine.ts'
import { createPaces, setPaces } from './pace.ts'
import { place } from './placement.ts'
import type { Run } from './run.ts'
import { changed } from './tracks.ts'
import { wake } from './wake.ts'

export function createRun(options: CheckedOptions): Run {
  const { clock } = options
  const log = safeLogger(options.logger)
  const hub = createHub()
  const tellFault = (code: RolloutErrorCode) => (message: string, cause: unknown) => {
    const error = new RolloutError(code, `${message}${cause === undefined ? '' : `: ${messageOf(cause)}`}`, { cause })
    log.error({ code }, error.message)
    if (hub.listens(null)) hub.tell({ type: 'run.fault', at: clock.now(), error }, null)
  }
  const policy = createPolicy(options.policy, tellFault('POLICY_FAILED'))
  const own = options.instanceMachine
  const inspect = safeInspect(options.inspect)
  const machine = supervisorMachine.provide({
    actors: { instance: own === undefined ? instanceMachine : walled(own, tellFault('MACHINE_FAILED')) },
    actions: {
      place: ({ context }) => {
        // An action that throws would end the actor and with it the run: a defect here is reported instead.
        try {
          place(run, context.paused)
        } catch (cause) {
          log.error({ err: cause }, `placement failed: ${messageOf(cause)}`)
        }
      },
      lose: ({ event }) => {
        const { actorId, error } = event as unknown as { readonly actorId: string; readonly error: unknown }
        lose(run, actorId, error)
      },
    },
  })
  const run: Run = {
    options,
    clock,
    log,
    actor: createActor(machine, { id: 'supervisor', clock, ...(inspect === undefined ? {} : { inspect }) }),
    ledger: createLedger((account) => changed(run, account)),
    policy,
    queue: createQueue(),
    instances: new Map(),
    joining: new Set(),
    leaving: new Set(),
    tasks: new Map(),
    attempts: new Map(),
    parked: new Set(),
    tokenizing: new Map(),
    paces: createPaces(clock),
    spareControllers: [],
    passing: null,
    counts: { submitted: 0, waiting: 0, running: 0, ended: { completed: 0, failed: 0, cancelled: 0, expired: 0 } },
    sessions: createSessions(),
    episodes: { live: new Map(), submitted: 0, ended: { completed: 0, failed: 0, cancelled: 0, expired: 0 }, last: 0 },
    hub,
    sinks: createCompletionSinks(() => {
      setPaces(run)
      if (!run.sinks.full) wake(run, 'queue.changed')
    }),
    steps: 0,
    lastTask: 0,
    lastRequest: 0,
    lastOrder: 0,
    runId: options.runId ?? randomBytes(4).toString('hex'),
    version: null,
    lastUpdate: null,
    line: createLine(clock),
    isHalted: false,
    pausesWaiting: 0,
    evaluation: null,
    oneVersion: null,
    closing: false,
    tracks: [],
    vocabularySize: null,
    smallestVocabulary: null,
    carried: new Set(),
    kept: new Map(),
    orphans: new Set(),
    carriedSamples: 0,
    feeds: new Set(),
    onVersion: new Set(),
    onIdle: new Set(),
    onReleased: new Set(),
    onClosing: new Set(),
  }
  run.actor.start()
  return run
}

/** XState lets a throwing inspector throw into `send`; this one cannot (F17). */
function safeInspect(inspect: SupervisorOptions['inspect']): ((event: InspectionEvent) => void) | undefined {
  if (inspect === undefined) return undefined
  return (event) => {
    try {
      if (typeof inspect === 'function') inspect(event)
      else inspect.next?.(event)
    } catch {
      // The inspector is the user's own; its failure must not become ours.
    }
  }
}
