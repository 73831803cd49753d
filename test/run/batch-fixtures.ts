/**
 * What the tests of batches share: sources that count what is taken from them, and readers under the virtual clock.
 */
import { expect } from 'vitest'
import type { Batch, RolloutError, Task } from '../../src/index.ts'
import { closeSimulation, type Simulation } from '../simulate.ts'

/** Endless tasks of two samples, of 10 tokens unless `lengths` says otherwise, numbered in their meta. */
export function endless(lengths: readonly number[] = [10]) {
  const state = { drawn: 0, returned: 0 }
  function* tasks(): Generator<Task<number>> {
    try {
      for (let index = 0; ; index++) {
        state.drawn++
        yield { id: `g${index}`, prompt: [index, lengths[index % lengths.length]!], samples: 2, meta: index }
      }
    } finally {
      state.returned++
    }
  }
  return { state, source: tasks() }
}

/** The first of them. */
export function upTo(count: number): Task<number>[] {
  const { source } = endless()
  return Array.from({ length: count }, () => source.next().value as Task<number>)
}

export function next<M>({ clock }: Simulation, batches: AsyncIterator<Batch<M>>): Promise<Batch<M>> {
  return clock.run(batches.next()).then(({ value }) => value as Batch<M>)
}

export function numbers(batch: Batch<number>): number[] {
  return batch.groups.map(({ meta }) => meta)
}

export function failure({ clock }: Simulation, work: Promise<unknown>): Promise<RolloutError> {
  return clock.run(
    work.then(
      () => expect.fail('it did not fail'),
      (error: unknown) => error as RolloutError,
    ),
  )
}

/** Nothing runs, nothing waits, no stream is open, no timer is left (I5, I12). */
export async function expectNothingLeft(simulation: Simulation): Promise<void> {
  const { clock, supervisor, servers } = simulation
  await clock.settle()
  expect(supervisor.getSnapshot()).toMatchObject({ batches: [], conservation: { waiting: 0, running: 0 } })
  expect(servers.map(({ running }) => running)).toEqual(servers.map(() => 0))
  expect(clock.pending).toBe(0)
  expect(await closeSimulation(simulation)).toBe(0)
}
