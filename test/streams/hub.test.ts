/**
 * `completions$`, `groups$` and `events$`: hot, replaying nothing, evaluations included, complete on close and at once after it (decision 15).
 */
import type { Observable } from 'rxjs'
import { expect, test } from 'vitest'
import { closeSimulation, startSimulation } from '../simulate.ts'

test('who comes late is told of what comes then, and evaluations are among it', async () => {
  const simulation = await startSimulation([{ capacity: 2 }])
  const { clock, supervisor } = simulation
  await clock.run(supervisor.submit({ id: 'early', prompt: [1, 5] }).result)
  const told: string[] = []
  supervisor.completions$.subscribe(({ id }) => told.push(id))
  supervisor.groups$.subscribe(({ taskId }) => told.push(taskId))
  expect(told).toEqual([])
  supervisor.submit({ id: 'rollout', prompt: [1, 5] })
  supervisor.submit({ id: 'evaluation', prompt: [1, 5], kind: 'evaluation' })
  await clock.run(supervisor.drainAll())
  expect(told).toEqual(['rollout/0', 'rollout', 'evaluation/0', 'evaluation'])
  expect(await closeSimulation(simulation)).toBe(0)
})

test('all complete on close, after the last of what they carry, and at once for whoever comes after it', async () => {
  const simulation = await startSimulation([{ capacity: 1 }])
  const { supervisor } = simulation
  const told: string[] = []
  const listen = (): void => {
    for (const name of ['completions$', 'groups$', 'events$'] as const) {
      const stream: Observable<unknown> = supervisor[name]
      stream.subscribe({
        next: () => name !== 'events$' && told.push(name),
        error: () => told.push(`error of ${name}`),
        complete: () => told.push(`end of ${name}`),
      })
    }
  }
  listen()
  supervisor.submit({ prompt: [1, 500], samples: 2 })
  expect(await closeSimulation(simulation)).toBe(0)
  const ends = ['end of completions$', 'end of groups$', 'end of events$']
  expect(told).toEqual(['completions$', 'completions$', 'groups$', ...ends])
  told.length = 0
  listen()
  expect(told).toEqual(ends)
})
