/**
 * Every phase operation, for trials: updates in each mode, all together and rolling, by path and by a function of the user's own; pauses in each
 * mode, with and without release; the resume after each; evaluations in each style. And everything that can go wrong, or happen, on the way.
 */
import type { ControlCall, ControlFailure } from '../../src/testing/simulated-fleet.ts'
import type { Operation } from './phase-trial.ts'
import type { ApplyFailure, Call, World } from './phase-world.ts'

export interface UpdateOperation extends Operation {
  readonly mode: 'abort' | 'restart' | 'keep' | 'drain'
  readonly way: 'path' | 'apply'
}

/** Beyond every deadline of a control call. */
const TIMEOUT_MS = 20_000

export const UPDATES: readonly UpdateOperation[] = (['abort', 'restart', 'keep', 'drain'] as const).flatMap((mode) =>
  [false, true].flatMap((isRolling) =>
    (['path', 'apply'] as const).map(
      (way): UpdateOperation => ({
        name: `updateWeights ${mode}${isRolling ? ', rolling' : ''}, ${way}`,
        mode,
        way,
        ask: ({ supervisor, apply }) =>
          supervisor.updateWeights({
            version: 2,
            mode,
            timeoutMs: TIMEOUT_MS,
            ...(way === 'path' ? { path: '/w/2' } : { apply: apply(2) }),
            ...(isRolling ? { rolling: 1 } : {}),
          }),
      }),
    ),
  ),
)

const PAUSE_OPTIONS = [
  { mode: 'abort' },
  { mode: 'keep' },
  { mode: 'drain' },
  { mode: 'abort', release: true },
  { mode: 'drain', release: true },
] as const

const nameOf = (options: (typeof PAUSE_OPTIONS)[number]): string =>
  `${options.mode}${'release' in options ? ', release' : ''}`

export const PAUSES: readonly Operation[] = PAUSE_OPTIONS.map((options) => ({
  name: `pause ${nameOf(options)}`,
  ask: ({ supervisor }) => supervisor.pause(options),
  pauses: true,
}))

export const RESUMES: readonly Operation[] = PAUSE_OPTIONS.map((options) => ({
  name: `resume after ${nameOf(options)}`,
  prepare: (supervisor) => supervisor.pause(options),
  ask: ({ supervisor }) => supervisor.resume(),
}))

export const EVALUATIONS: readonly Operation[] = (['resume', 'restart', 'drain', 'share'] as const).map((style) => ({
  name: `evaluate ${style}`,
  ask: ({ evaluate }) => evaluate(style),
}))

export const OPERATIONS: readonly Operation[] = [...UPDATES, ...PAUSES, ...RESUMES, ...EVALUATIONS]

/** What can happen besides, at any moment. */
export const EVENTS: Readonly<Record<string, (world: World) => void>> = {
  cancel: ({ tasks }) => tasks[0]!.cancel(),
  submit: ({ submit }) => void submit(20, 3),
  add: ({ supervisor, spare }) => void supervisor.add(spare()),
  'drain of b': ({ supervisor, later }) => later('drain', supervisor.drain('b')),
  'removal of b': ({ supervisor, later }) => later('remove', supervisor.remove('b')),
  'removal of a': ({ supervisor, later }) => later('remove', supervisor.remove('a')),
  'close()': ({ supervisor, later }) => later('close', supervisor.close()),
  'death of b': ({ b }) => b.die(),
  'restart of b': ({ b }) => {
    b.die()
    b.revive()
  },
  'frozen b': ({ b }) => b.freeze(),
  'strangers on b': ({ b }) => b.stayBusy(1),
}

export const FAILURES = [
  400,
  404,
  500,
  503,
  'hang',
  'hangAfter',
  'failAfter',
  'lie',
  'dieBefore',
  'dieAfter',
  'restartBefore',
  'restartAfter',
] as const satisfies readonly ControlFailure[]

export const APPLY_FAILURES: readonly ApplyFailure[] = ['throws', 'never', 'half', 'lies']

/** A table of outcomes: a call in each row, a failure in each column. */
export function outcomesOf(table: string): ReadonlyMap<ControlCall, ReadonlyMap<ControlFailure, string>> {
  const [columns, ...rows] = table.trim().split('\n')
  if (columns!.trim().split(/ +/).join() !== FAILURES.join()) throw new Error(`unexpected columns: ${columns}`)
  return new Map(
    rows.map((row) => {
      const [call, ...outcomes] = row.trim().split(/ +/)
      return [call as ControlCall, new Map(FAILURES.map((how, index) => [how, outcomes[index]!]))]
    }),
  )
}

/** A server that gave its memory away and said that it did not, or kept it and said the reverse: only its generations tell. */
export function isLost(call: Call, how: ControlFailure | ApplyFailure): boolean {
  return (call === 'release' && how === 'failAfter') || (call === 'reclaim' && how === 'lie')
}

/** What comes before weights are loaded is the same whoever loads them. */
export function isOfItsOwn(operation: UpdateOperation, call: Call): boolean {
  return operation.way === 'path' || call === 'apply' || call === 'flush' || call === 'weightVersion'
}
