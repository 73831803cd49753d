/**
 * What the tests of episodes share: a conversation that the simulated servers check token by token, and the end of everything.
 */
import { expect } from 'vitest'
import type { EpisodeResult } from '../../src/index.ts'
import { tokenOf } from '../../src/testing/simulated-fleet.ts'
import type { VirtualClock } from '../../src/testing/virtual-clock.ts'
import { closeSimulation, type Simulation } from '../simulate.ts'

export const KEY = 7
export const PROMPT = [KEY, 1_000]

/** Tokens of the whole conversation, which the servers check in every prompt: a tool says what they expect there. */
export function tokens(from: number, until: number): number[] {
  return Array.from({ length: until - from }, (_, at) => tokenOf(KEY, from + at))
}

export function sleep(clock: VirtualClock, ms: number): Promise<void> {
  return new Promise<void>((resolve) => void clock.setTimeout(resolve, ms))
}

/** Nothing of an episode is left, here or at the servers. */
export async function expectNothingLeft(simulation: Simulation): Promise<void> {
  const { clock, supervisor, servers } = simulation
  await clock.settle()
  const { conservation, episodes, instances } = supervisor.getSnapshot()
  expect([conservation.waiting, conservation.running, episodes.running]).toEqual([0, 0, 0])
  expect(instances.map(({ running }) => running)).toEqual(servers.map(() => 0))
  expect(servers.map(({ running }) => running)).toEqual(servers.map(() => 0))
  expect(await closeSimulation(simulation)).toBe(0)
}

/** The one end of an episode whose code does something that it should not. */
export async function endOf<T>(result: Promise<EpisodeResult<T>>, clock: VirtualClock) {
  const { outcome, error, value, attempts } = await clock.run(result)
  return { outcome, code: error?.code, message: error?.message, cause: error?.cause, value, attempts }
}
