/**
 * All that a machine can do, found by trying every event in every state that can be reached.
 */
import type { AnyMachineSnapshot, AnyStateMachine, SnapshotFrom } from 'xstate'
import { getAdjacencyMap, getShortestPaths } from 'xstate/graph'

export interface Step<S, E> {
  readonly from: S
  readonly event: E
  readonly to: S
}

export interface Graph<S, E> {
  /** Names of all states that can be reached. */
  readonly states: readonly string[]
  /** Every event in every state but the final ones. */
  readonly steps: readonly Step<S, E>[]
  /** `state --event--> targets`, a line for each event that leads to another state, sorted. */
  readonly table: string
}

/** The state as an inspector shows it: `serving.busy`. */
export function nameOf({ value }: { readonly value: unknown }): string {
  return typeof value === 'string'
    ? value
    : Object.entries(value as object)
        .flat()
        .join('.')
}

export function explore<M extends AnyStateMachine, E extends { readonly type: string }>(
  machine: M,
  options: {
    readonly input?: unknown
    readonly events: readonly E[]
    /** Two snapshots of one text are one state. */
    readonly serializeState: (snapshot: SnapshotFrom<M>) => string
    readonly stopWhen?: (snapshot: SnapshotFrom<M>) => boolean
    /** The event in the table. */
    readonly label?: (event: E) => string
  },
): Graph<SnapshotFrom<M>, E> {
  const { label = (event: E) => event.type, ...traversal } = options
  const paths = getShortestPaths(machine as AnyStateMachine, traversal as never)
  const steps: Step<SnapshotFrom<M>, E>[] = []
  const targets = new Map<string, Set<string>>()
  for (const { state, transitions } of Object.values(getAdjacencyMap(machine as AnyStateMachine, traversal as never))) {
    const from = state as unknown as AnyMachineSnapshot
    if (from.status !== 'active') continue
    for (const each of Object.values(transitions) as unknown as { event: E; state: AnyMachineSnapshot }[]) {
      steps.push({ from: from as SnapshotFrom<M>, event: each.event, to: each.state as SnapshotFrom<M> })
      const row = `${nameOf(from)} --${label(each.event)}-->`
      if (!targets.has(row)) targets.set(row, new Set())
      targets.get(row)!.add(nameOf(each.state))
    }
  }
  const lines = [...targets].map(([row, names]) => `${row} ${[...names].sort().join(' | ')}`)
  return {
    states: [...new Set(paths.map(({ state }) => nameOf(state as unknown as AnyMachineSnapshot)))].sort(),
    steps,
    table: `\n${lines
      .filter((line) => !/^(\S+) --.*--> \1$/.test(line))
      .sort()
      .join('\n')}\n`,
  }
}
