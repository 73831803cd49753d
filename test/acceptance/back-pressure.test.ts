/**
 * Readers that are slow: they hold back new tasks and nothing else (F14, D11).
 */
import { describe, expect, test } from 'vitest'
import { closeSimulation, startSimulation } from '../simulate.ts'

test('D11: under back-pressure only new tasks say so: samples of started ones, and evaluations, wait for a slot', async () => {
  const simulation = await startSimulation([{ capacity: 1 }])
  const { clock, supervisor } = simulation
  const reader = supervisor.completions({ highWaterMark: 1 })
  const first = reader.next()
  const started = supervisor.submit({ prompt: [1, 10], samples: 4 })
  await clock.advance(250)
  const fresh = supervisor.submit({ prompt: [1, 10] })
  const evaluation = supervisor.submit({ prompt: [1, 10], kind: 'evaluation' })
  expect([...started.waitingFor]).toEqual([[3, 'capacity']])
  expect([...fresh.waitingFor.values(), ...evaluation.waitingFor.values()]).toEqual(['backPressure', 'capacity'])
  expect(supervisor.getSnapshot().waiting).toMatchObject({ backPressure: 1, capacity: 2 })
  await first
  await reader.return!()
  await clock.run(supervisor.drainAll())
  expect(await closeSimulation(simulation)).toBe(0)
})

describe('F14: a slow consumer slows admission down', () => {
  test('nothing is dropped, and at most its mark and the samples of started tasks are held', async () => {
    const simulation = await startSimulation([{ capacity: 4 }])
    const { clock, supervisor } = simulation
    const highWaterMark = 3
    const reader = supervisor.completions({ highWaterMark })
    const read: string[] = []
    const take = async (): Promise<void> => {
      read.push((await reader.next()).value.id)
    }
    const first = take()
    const tasks = Array.from({ length: 20 }, (_, key) =>
      supervisor.submit({ id: `t${key}`, prompt: [key, 2], samples: 4 }),
    )
    const evaluation = supervisor.submit({ prompt: [99, 2], samples: 4, kind: 'evaluation' })
    await clock.advance(100_000)
    await first
    const { ended } = supervisor.getSnapshot().conservation
    // Evaluations go on, and are not in the reader.
    expect((await evaluation.result).complete).toBe(true)
    expect(ended.completed - 4 - read.length).toBeLessThanOrEqual(highWaterMark + 2 * 4)
    expect(ended.completed).toBeLessThan(20)
    expect([...tasks.at(-1)!.waitingFor.values()]).toEqual(new Array(4).fill('backPressure'))
    while (read.length < 80) {
      await take()
      await clock.advance(1_000)
    }
    expect(new Set(read).size).toBe(80)
    expect(supervisor.getSnapshot().conservation.waiting).toBe(0)
    expect(await closeSimulation(simulation)).toBe(0)
  })

  test('a reader that never began, or has left, holds nobody up', async () => {
    const simulation = await startSimulation([{ capacity: 4 }])
    const { clock, supervisor } = simulation
    supervisor.completions({ highWaterMark: 1 })
    const left = supervisor.completions({ highWaterMark: 1 })
    const pending = left.next()
    await left.return!()
    expect((await pending).done).toBe(true)
    // Tasks of their own: the samples of one that has started are not held up by anybody.
    for (let key = 0; key < 40; key++) supervisor.submit({ prompt: [key, 2] })
    await clock.advance(10_000)
    expect(supervisor.getSnapshot().conservation).toMatchObject({ waiting: 0, ended: { completed: 40 } })
    expect(await closeSimulation(simulation)).toBe(0)
  })
})
