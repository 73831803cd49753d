/**
 * A user's own code that throws, everywhere at once, over real HTTP: nothing of it changes the supervisor or a sample (F17).
 */
import { config } from 'rxjs'
import { describe, expect, test } from 'vitest'
import type { PlacementPolicy } from '../../src/index.ts'
import { engines, expectEmpty, expectExact, PROFILES, supervise, task } from './fleet.ts'

/** What subscribers threw, which RxJS tells their own process, a turn later. */
const unhandled: unknown[] = []
config.onUnhandledError = (error) => unhandled.push(error)

const fail = (): never => {
  throw new Error('a bug of the user')
}

/** Throws at every second call. */
function throwing(): PlacementPolicy {
  const ids = new Set<string>()
  let calls = 0
  const maybe = (): void => {
    if (calls++ % 2 === 0) fail()
  }
  return {
    name: 'throwing',
    add({ id }) {
      ids.add(id)
      maybe()
    },
    remove(id) {
      ids.delete(id)
      maybe()
    },
    changed: maybe,
    pick() {
      maybe()
      return [...ids][calls % ids.size] ?? null
    },
  }
}

describe.each(PROFILES)('$name', (profile) => {
  test('inspector, logger, policy and subscribers that throw change nothing (F17)', async () => {
    unhandled.length = 0
    const servers = await engines(profile, 2)
    const supervisor = await supervise(profile, servers, {
      inspect: fail,
      logger: { debug: fail, info: fail, warn: fail, error: fail },
      policy: throwing(),
    })
    supervisor.completions$.subscribe(fail)
    supervisor.groups$.subscribe(fail)
    supervisor.events$.subscribe(fail)
    supervisor.states$.subscribe(fail)
    servers[0]!.faults.cut({ afterEvents: 1, times: 3 })
    const rollouts = Array.from({ length: 10 }, () => supervisor.submit(task(profile, 4, 40)))
    const groups = await Promise.all(rollouts.map(({ result }) => result))
    for (const { completions } of groups) for (const completion of completions) expectExact(profile, completion, 40)
    await expectEmpty(supervisor, servers)
    expect(supervisor.getSnapshot().conservation).toMatchObject({ submitted: 40, waiting: 0, running: 0 })
    expect(unhandled.length).toBeGreaterThan(0)
  })
})
