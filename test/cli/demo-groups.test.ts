/**
 * Groups in flight: each is taken once, in the order of their beginning, also those that outlived a step; cancelled ones end the wait.
 */
import { describe, expect, it } from 'vitest'
import { createOpenGroups, type Prompt } from '../../src/cli/demo-groups.ts'
import type { Group, Supervisor, Task } from '../../src/index.ts'

function openGroups() {
  const end: ((outcome: 'completed' | 'cancelled') => void)[] = []
  const submit = (task: Task<Prompt>) => {
    let resolve = (_: Group<Prompt>): void => {}
    const result = new Promise<Group<Prompt>>((done) => {
      resolve = done
    })
    const finish = (outcome: string) =>
      resolve({ taskId: task.id, meta: task.meta, outcome } as unknown as Group<Prompt>)
    end.push(finish)
    return { result, cancel: () => finish('cancelled') }
  }
  return { end, open: createOpenGroups({ submit } as unknown as Supervisor) }
}

const tasks = (...ids: string[]): Task<Prompt>[] => ids.map((id) => ({ id, prompt: [1], meta: { digit: 1 } }))
const ids = (groups: readonly Group[]) => groups.map(({ taskId }) => taskId)

describe('groups in flight', () => {
  it('a step takes as many as it wants, in the order of their beginning; a late one is of a later step', async () => {
    const { open, end } = openGroups()
    open.begin(tasks('a', 'b', 'c'))
    const first = open.take(2)
    end[2]!('completed')
    end[0]!('completed')
    expect(ids(await first)).toEqual(['a', 'c'])
    open.begin(tasks('d', 'e'))
    end[4]!('completed')
    end[1]!('completed')
    expect(ids(await open.take(2))).toEqual(['b', 'e'])
    expect(open.done).toBe(0)
  })

  it('a cancel ends the wait, and whatever is begun later', async () => {
    const { open } = openGroups()
    open.begin(tasks('a', 'b'))
    const taken = open.take(2)
    open.cancel('stop')
    expect(ids(await taken)).toEqual(['a', 'b'])
    open.begin(tasks('c'))
    expect(ids(await open.take(1))).toEqual(['c'])
  })
})
