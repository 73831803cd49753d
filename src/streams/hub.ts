/**
 * The hot streams of a run (decision 15): they replay nothing and never fail. Events are built only while somebody listens,
 * so callers ask `listens` first.
 */
import { Subject } from 'rxjs'
import type { Completion } from '../rollout/completion.ts'
import type { Group } from '../rollout/group.ts'
import type { LiveTask } from '../rollout/sample.ts'
import type { SupervisorEvent } from '../telemetry/events.ts'

export interface Hub {
  readonly completions: Subject<Completion>
  readonly groups: Subject<Group>
  readonly events: Subject<SupervisorEvent>
  listens(task: LiveTask | null): boolean
  /** Tells the listeners of the run, and those of one task. */
  tell(event: SupervisorEvent, task: LiveTask | null): void
  /** Told after anything a view of the fleet shows has changed. */
  readonly onChange: Set<() => void>
  changed(): void
  complete(): void
}

export function createHub(): Hub {
  const completions = new Subject<Completion>()
  const groups = new Subject<Group>()
  const events = new Subject<SupervisorEvent>()
  const onChange = new Set<() => void>()
  return {
    completions,
    groups,
    events,
    onChange,
    listens: (task) => events.observed || (task !== null && task.listeners !== null),
    tell(event, task) {
      if (events.observed) events.next(event)
      if (task !== null && task.listeners !== null) for (const listener of task.listeners) listener(event)
    },
    changed() {
      if (onChange.size > 0) for (const listener of onChange) listener()
    },
    complete() {
      completions.complete()
      groups.complete()
      events.complete()
    },
  }
}
