/**
 * Every way in which a control call goes wrong, in every step of an update, in every mode: nothing is lost, every token is of the version that
 * it is stamped with, nothing is sent inside the gate, no server is left paused, and the run goes on (F2, I8, I10).
 */
import { describe, expect, test } from 'vitest'
import type { UpdateMode } from '../../src/index.ts'
import { createRandom } from '../../src/testing/random.ts'
import {
  type ControlCall,
  type ControlFailure,
  logprobOf,
  simulateServer,
  tokenOf,
} from '../../src/testing/simulated-fleet.ts'
import { closeSimulation, startSimulation } from '../simulate.ts'

const MODES: readonly UpdateMode[] = ['abort', 'restart', 'keep', 'drain']
/** By the step that they belong to. */
const CALLS: readonly ControlCall[] = [
  'abort',
  'load',
  'pause',
  'updateWeights',
  'flush',
  'weightVersion',
  'resume',
  'probe',
]
const FAILURES: readonly ControlFailure[] = [
  400,
  404,
  500,
  503,
  'hang',
  'hangAfter',
  'failAfter',
  'lie',
  'dieBefore',
  'dieAfter',
  'restartBefore',
  'restartAfter',
]

/** What can happen besides, once the update has begun. */
const EVENTS = ['nothing', 'cancel', 'submit', 'add', 'remove', 'close'] as const

/** A server that restarts while it is asked for its load, its label or to abort breaks a connection, which simulated ones have none of. */
function isUnnoticed(call: ControlCall, how: ControlFailure): boolean {
  return String(how).startsWith('restart') && (call === 'load' || call === 'abort' || call === 'probe')
}

async function survives(
  mode: UpdateMode,
  faults: readonly (readonly [ControlCall, ControlFailure])[],
  event: (typeof EVENTS)[number],
  { rolling, isOurs }: { readonly rolling: boolean; readonly isOurs: boolean },
): Promise<void> {
  const simulation = await startSimulation(
    [
      { capacity: 2, chunkTokens: 3 },
      { capacity: 2, chunkTokens: 3 },
    ],
    {
      breaker: { failures: 3, resetMs: 100, maxResetMs: 1_000 },
      minInstances: 0,
    },
  )
  const { clock, supervisor, servers } = simulation
  const [, b] = servers
  await clock.run(supervisor.updateWeights({ version: 1, path: '/w/1' }))
  const submit = (key: number) => ({ key, rollout: supervisor.submit({ prompt: [key, 40], samples: 2 }) })
  const tasks = [1, 2, 3].map(submit)
  await clock.advance(85)
  for (const [call, how] of faults) b!.fail(call, how)
  const apply = async ({ id }: { id: string }): Promise<void> => simulation.server(id).load('2')
  const how = isOurs ? { path: '/w/2' } : { apply }
  const update = supervisor.updateWeights({
    version: 2,
    mode,
    ...how,
    ...(rolling ? { rolling: 1 } : {}),
    timeoutMs: 20_000,
  })
  const updated = update.then(
    (report) => report,
    () => null,
  )
  await clock.advance(1)
  if (event === 'cancel') tasks[0]!.rollout.cancel()
  if (event === 'submit') tasks.push(submit(9))
  if (event === 'add') {
    const { id, url, engine } = simulateServer(clock, { id: 'late', capacity: 2 })
    supervisor.add({ id, url, engine })
  }
  const removed = event === 'remove' ? supervisor.remove('b') : Promise.resolve()
  if (event !== 'close') {
    await clock.run(Promise.all([updated, removed]))
    b!.heal()
    await clock.run(Promise.all(tasks.map(({ rollout }) => rollout.result)))
    for (const { key, rollout } of tasks) {
      for (const { tokenIds, logprobs, versions, outcome } of (await rollout.result).completions) {
        if (event === 'cancel' && key === 1) continue
        expect([outcome, [...tokenIds]]).toEqual(['completed', Array.from({ length: 40 }, (_, at) => tokenOf(key, at))])
        for (const span of versions)
          for (let at = span.start; at < span.end && span.mixed !== true; at++)
            expect(logprobs[at], `token ${at}, version ${span.version}`).toBe(logprobOf(span.version, at))
        if (mode === 'restart' && !rolling) expect(versions).toHaveLength(1)
      }
    }
    await clock.advance(30_000)
    expect(servers.map(({ paused, waiting, running }) => [paused, waiting, running])).toEqual(
      servers.map(() => [null, 0, 0]),
    )
    expect(supervisor.getSnapshot().phase).toBe('rollout')
  }
  expect(await closeSimulation(simulation)).toBe(0)
  await updated
  expect(servers.map(({ paused }) => paused)).toEqual([null, null])
}

describe.each(MODES)('%s', (mode) => {
  test.each(CALLS)('%s that goes wrong in any way', { timeout: 60_000 }, async (call) => {
    for (const how of FAILURES) {
      if (isUnnoticed(call, how)) continue
      // A flush that lies is found by nothing but its tokens.
      if (call === 'flush' && how === 'lie') continue
      // A function of the user's own is followed by a flush of its own step.
      for (const isOurs of call === 'flush' ? [false] : call === 'weightVersion' ? [true, false] : [true]) {
        const which = `${call} ${how} ${isOurs ? 'path' : 'apply'}`
        await survives(mode, [[call, how]], 'nothing', { rolling: how === 500, isOurs }).catch((error: Error) => {
          throw new Error(`${which}: ${error.message}`, { cause: error })
        })
      }
    }
  })

  test.each(EVENTS)('with %s while a call hangs', { timeout: 60_000 }, async (event) => {
    for (const call of CALLS) {
      await survives(mode, [[call, 'hang']], event, { rolling: false, isOurs: true }).catch((error: Error) => {
        throw new Error(`${call}: ${error.message}`, { cause: error })
      })
    }
  })
})

test('two faults of one update, drawn from seeds 0 to 79', { timeout: 60_000 }, async () => {
  for (let seed = 0; seed < 80; seed++) {
    const random = createRandom(seed)
    const draw = <T>(list: readonly T[]): T => list[random.int(list.length)]!
    const faults = [0, 1].map(() => [draw(CALLS), draw(FAILURES)] as const)
    if (faults.some(([call, how]) => isUnnoticed(call, how) || (call === 'flush' && how === 'lie'))) continue
    const options = { rolling: random.int(3) === 0, isOurs: random.int(2) === 0 }
    await survives(draw(MODES), faults, draw(EVENTS), options).catch((error: Error) => {
      throw new Error(`seed ${seed}, ${JSON.stringify(faults)}: ${error.message}`, { cause: error })
    })
  }
})
