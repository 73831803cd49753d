/**
 * Phase operations of a random life: updates in every mode, evaluations in every style, pauses, and servers whose control calls go wrong.
 */
import type { Task } from '../../src/index.ts'
import type { Supervisor } from '../../src/supervisor.ts'
import type { ControlCall, ControlFailure, SimulatedServer } from '../../src/testing/simulated-fleet.ts'
import type { Dice } from './dice.ts'
import type { Expected, Invariants } from './invariants.ts'

export interface PhaseCommands {
  update(): void
  evaluate(): void
  stopEvaluation(): void
  stopEvaluations(): void
  pause(): void
  misbehave(): void
}

/** Every call that a server can be made to get wrong. */
export const CONTROL_CALLS: readonly ControlCall[] = [
  'probe',
  'load',
  'weightVersion',
  'abort',
  'pause',
  'resume',
  'updateWeights',
  'flush',
  'release',
  'reclaim',
]
/** A flush that lies cannot be found out but by its tokens, which is what R2 is about: it is left out. */
const FAILURES: readonly ControlFailure[] = [
  400,
  404,
  500,
  503,
  'hang',
  'hangAfter',
  'failAfter',
  'dieBefore',
  'dieAfter',
  'restartBefore',
  'restartAfter',
]

export function phaseCommands(life: {
  readonly dice: Dice
  readonly supervisor: Supervisor
  readonly servers: ReadonlyMap<string, SimulatedServer>
  readonly invariants: Invariants
  readonly quietly: (work: Promise<unknown>) => void
  readonly evaluationTask: () => { readonly expected: Expected; readonly given: Task }
  readonly nextVersion: () => number
}): PhaseCommands {
  const { supervisor, servers, invariants, quietly, evaluationTask, nextVersion } = life
  const { chance, pick, between, maybe } = life.dice
  const evaluations: AbortController[] = []

  function update(): void {
    const version = nextVersion()
    const mode = pick(['abort', 'restart', 'keep', 'drain'] as const)!
    const rolling = chance(0.3) ? { rolling: between(1, 3) } : {}
    const isOurs = chance(0.7)
    const given = { version, mode, timeoutMs: between(50, 2_000), ...rolling }
    const apply = async ({ id }: { id: string }): Promise<void> => {
      const each = servers.get(id)!
      if (each.released) throw new Error('no memory')
      each.load(String(version))
    }
    quietly(supervisor.updateWeights(isOurs ? { ...given, path: `/w/${version}` } : { ...given, apply }))
  }
  function evaluate(): void {
    const tasks = Array.from({ length: between(1, 3) }, () => evaluationTask())
    const controller = new AbortController()
    const interrupt = pick(['resume', 'resume', 'restart', 'drain', 'share'] as const)!
    const timeoutMs = maybe(0.4, 10, 600)
    const options = { interrupt, signal: controller.signal, ...(timeoutMs === undefined ? {} : { timeoutMs }) }
    const given = tasks.map((each) => each.given)
    const expected = tasks.map((each) => each.expected)
    invariants.expectAll(expected, () => {
      quietly(
        supervisor.evaluate(given, options).then((groups) => {
          if (groups.some(({ taskId }, index) => taskId !== expected[index]!.id))
            invariants.broken.push('F10: the groups of an evaluation are not those of its tasks, in order')
        }),
      )
    })
    evaluations.push(controller)
  }
  function pause(): void {
    const mode = pick(['drain', 'abort', 'keep'] as const)!
    const release = mode !== 'keep' && chance(0.4)
    quietly(supervisor.pause({ mode, release, ...(chance(0.5) ? { timeoutMs: between(0, 500) } : {}) }))
  }
  /** Restarts that nobody could notice are left out: there a connection would break, of which simulated servers have none. */
  function misbehave(): void {
    const call = pick(CONTROL_CALLS)!
    const how = pick(FAILURES)!
    const isUnnoticed = String(how).startsWith('restart') && (call === 'load' || call === 'probe' || call === 'abort')
    if (!isUnnoticed) pick([...servers.values()])!.fail(call, how, between(1, 2))
  }

  return {
    update,
    evaluate,
    stopEvaluation: () => pick(evaluations)?.abort(new Error('enough')),
    stopEvaluations: () => {
      for (const each of evaluations) each.abort(new Error('enough'))
    },
    pause,
    misbehave,
  }
}
