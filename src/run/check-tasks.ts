/**
 * The tasks of one call, all or none: everything wrong with any of them is said in one error, by its place in the list.
 */
import { RolloutError } from '../errors.ts'
import { type Problem, problemList } from '../problems.ts'
import { checkTask } from '../rollout/check-task.ts'
import type { CheckedTask, Task, TaskKind } from '../rollout/task.ts'
import type { Run } from './run.ts'

/** A task that may be admitted. */
export interface Entrant {
  readonly id: string | undefined
  readonly spec: CheckedTask
}

/** What takes tasks of the other kind. */
const ELSEWHERE: Readonly<Record<TaskKind, string>> = {
  rollout: 'submit() takes the other',
  evaluation: 'evaluate() is for the other',
}

/** @throws RolloutError INVALID_TASK or DUPLICATE_TASK */
export function checkTasks(run: Run, tasks: readonly Task[], kind: TaskKind): Entrant[] {
  const problems: Problem[] = []
  const ids = new Set<string>()
  const entrants: Entrant[] = []
  // By index: a hole in the list is no task either.
  for (let index = 0; index < tasks.length; index++) {
    const task = tasks[index]!
    const at = `tasks[${index}]`
    try {
      const spec = checkTask(task, run.vocabularySize)
      const { id } = task
      if ((task.kind ?? kind) !== kind)
        problems.push({ path: `${at}.kind`, expected: `'${kind}' (${ELSEWHERE[spec.kind]})`, found: `'${spec.kind}'` })
      if (id !== undefined && (run.tasks.has(id) || ids.has(id))) throw duplicate(at, id)
      if (id !== undefined) ids.add(id)
      entrants.push({ id, spec: spec.kind === kind ? spec : { ...spec, kind } })
    } catch (error) {
      if (!RolloutError.isInstance(error) || error.code !== 'INVALID_TASK') throw error
      problems.push(...error.problems.map((problem) => ({ ...problem, path: pathIn(at, problem.path) })))
    }
  }
  if (problems.length === 0) return entrants
  throw new RolloutError('INVALID_TASK', `nothing was admitted:\n${problemList(problems)}`, { problems })
}

/** What is no task at all has no path but its place. */
function pathIn(at: string, path: string): string {
  return path === 'task' ? at : `${at}.${path}`
}

function duplicate(at: string, id: string): RolloutError {
  const text = `${at}.id: expected an id that no live task and no other of the list has, found ${JSON.stringify(id)}`
  return new RolloutError('DUPLICATE_TASK', text)
}
