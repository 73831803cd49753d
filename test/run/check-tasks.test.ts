/**
 * Lists of tasks: everything wrong with them is said at once, by place, and nothing of them is admitted.
 */
import { expect, test } from 'vitest'
import type { RolloutError } from '../../src/index.ts'
import { closeSimulation, startSimulation } from '../simulate.ts'

test.each(['rollout', 'evaluate'] as const)('%s names the place of all that is wrong', async (call) => {
  const simulation = await startSimulation([{ capacity: 4 }])
  const { clock, supervisor } = simulation
  const other = call === 'rollout' ? 'evaluation' : 'rollout'
  const failure = async (tasks: readonly unknown[]): Promise<RolloutError> =>
    supervisor[call](tasks as never).then(
      () => expect.fail('it was admitted'),
      (error: RolloutError) => error,
    )
  const good = { id: 'good', prompt: [1, 5] }
  const hole = Object.assign(new Array(2), { 0: good })
  expect((await failure(hole)).problems.map(({ path }) => path)).toEqual(['tasks[1]'])
  const error = await failure([good, { prompt: [1, -5] }, 7, null, { ...good, id: 'kind', kind: other }])
  expect(error.code).toBe('INVALID_TASK')
  expect(error.problems.map(({ path, found }) => `${path} ${found}`)).toEqual([
    'tasks[1].prompt[1] -5 (number)',
    'tasks[2] 7 (number)',
    'tasks[3] null',
    `tasks[4].kind '${other}'`,
  ])
  expect(await failure([good, good])).toMatchObject({
    code: 'DUPLICATE_TASK',
    message: expect.stringMatching(/^tasks\[1\]\.id: .*"good"$/),
  })
  supervisor.submit(good)
  expect(await failure([{ ...good, id: 'free' }, good])).toMatchObject({ code: 'DUPLICATE_TASK' })
  expect(supervisor.getSnapshot().conservation.submitted).toBe(1)
  await clock.run(supervisor.drainAll())
  const groups = await clock.run(supervisor[call]([good, { prompt: [1, 5], samples: 2 }]))
  expect(groups.map(({ taskId, kind, complete }) => [taskId, kind, complete])).toEqual([
    ['good', call === 'rollout' ? 'rollout' : 'evaluation', true],
    [groups[1]!.taskId, groups[0]!.kind, true],
  ])
  expect(await closeSimulation(simulation)).toBe(0)
})
