/**
 * Servers that die, come back, stand still or only look alive: they get no work they cannot do, and nothing is lost with them.
 */
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { type AddressInfo, connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { type Completion, probeInstance } from '../../src/index.ts'
import { createTinyWeights, saveWeights } from '../../src/testing/index.ts'
import {
  arrived,
  endless,
  engine,
  engines,
  expectEmpty,
  expectExact,
  generated,
  PROFILES,
  supervise,
  task,
  until,
  viewOf,
  WEIGHTS,
} from './fleet.ts'

const TOKENS = 12

/** One address for servers that come one after another: the next takes over under a request that comes over a used connection. */
async function address(ports: readonly number[]) {
  const left = [...ports]
  const front = createServer((client) => {
    const port = left[0]!
    let requests = 0
    const back = connect(port, '127.0.0.1')
    client.on('data', (bytes) => {
      if (bytes.includes('POST /v1/completions') || bytes.includes('POST /generate')) requests++
      if (requests > 1 && left.length > 1) left.shift()
      if (port === left[0]) back.write(bytes)
      else client.destroy()
    })
    back.on('data', (bytes) => client.write(bytes))
    for (const [one, other] of [
      [client, back],
      [back, client],
    ] as const)
      one.on('close', () => other.destroy()).on('error', () => {})
  }).listen(0, '127.0.0.1')
  await once(front, 'listening')
  onTestFinished(() => void front.close())
  return { url: `http://127.0.0.1:${(front.address() as AddressInfo).port}`, moved: () => left.length === 1 }
}

/** Accepts connections and closes them at once, counting. */
async function hole(port = 0) {
  let connections = 0
  const server = createServer((socket) => {
    connections++
    socket.destroy()
  }).listen(port, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => void server.close())
  const address = server.address() as AddressInfo
  return { url: `http://127.0.0.1:${address.port}`, connections: () => connections }
}

describe.each(PROFILES)('$name', (profile) => {
  test('of four servers one is dead from the start: of 400 tasks none is lost, and it sees one probe (D2)', async () => {
    const alive = await engines(profile, 3, { stepMs: 0 })
    const measured = await hole()
    await probeInstance({ url: measured.url, engine: profile.name }).catch(() => {})
    const dead = await hole()
    const supervisor = await supervise(profile, [dead, ...alive])
    const rollouts = Array.from({ length: 400 }, () => supervisor.submit(task(profile, 1, TOKENS)))
    const groups = await Promise.all(rollouts.map(({ result }) => result))
    for (const { completions } of groups) expectExact(profile, completions[0]!, TOKENS)
    expect(dead.connections()).toBe(measured.connections())
    expect(viewOf(supervisor, dead)).toMatchObject({ placed: 0, state: 'unhealthy.open' })
  })

  test('of four servers one dies in the middle: of 400 tasks none is lost, and it sees its own work and one probe (D2)', async () => {
    const servers = await engines(profile, 4)
    const measured = await hole()
    await probeInstance({ url: measured.url, engine: profile.name }).catch(() => {})
    const supervisor = await supervise(profile, servers)
    const rollouts = Array.from({ length: 400 }, () => supervisor.submit(task(profile, 1, TOKENS)))
    const dying = servers[0]!
    await until('it works', () => dying.counters.tokensDelivered > 40)
    await dying.faults.die()
    const dead = await hole(dying.port)
    const groups = await Promise.all(rollouts.map(({ result }) => result))
    for (const { completions } of groups) expectExact(profile, completions[0]!, TOKENS)
    // Its breaker opens with its first broken stream: at most the slots that were being filled, and the probe that followed.
    expect(dead.connections()).toBeLessThanOrEqual(measured.connections() + 4)
    expect(viewOf(supervisor, dead).state).toBe('unhealthy.open')
  })

  test('a breaker opens on a server that fails, and only a real generation closes it', async () => {
    const [ill, well] = await engines(profile, 2)
    const breaker = { failures: 3, resetMs: 30, maxResetMs: 30 }
    const supervisor = await supervise(profile, [ill!, well!], { breaker, retry: { attempts: 20 } })
    const states: string[] = []
    supervisor.events$.subscribe((event) => {
      if (event.type === 'instance.state' && event.instance === viewOf(supervisor, ill!).id) states.push(event.state)
    })
    ill!.faults.answer(500, { times: 7 })
    const rollouts = Array.from({ length: 60 }, () => supervisor.submit(task(profile, 1, TOKENS)))
    const groups = await Promise.all(rollouts.map(({ result }) => result))
    for (const { completions } of groups) expectExact(profile, completions[0]!, TOKENS)
    // Its probes succeed all the while; work goes to it one by one, until one generation has come to its end.
    while (viewOf(supervisor, ill!).completed === 0) await supervisor.submit(task(profile, 8, TOKENS)).result
    expect(states).toContain('unhealthy.trial')
    const closed = states.findIndex((state, i) => state.startsWith('serving') && states[i - 1] === 'unhealthy.trial')
    expect(closed).toBeGreaterThan(0)
    expect(states.slice(0, closed).filter((state) => state === 'unhealthy.open').length).toBeGreaterThan(1)
    expect(ill!.faults.counters.answered).toBe(7)
    expect(viewOf(supervisor, ill!).state).toMatch(/^serving/)
  })

  test('a server that answers health checks but yields no token is found; its samples go on elsewhere (F6)', async () => {
    const [frozen, well] = await engines(profile, 2)
    const supervisor = await supervise(profile, [frozen!, well!], { watchdogMs: 300 })
    const rollout = supervisor.submit(task(profile, 8, 60))
    await until('both run', () => frozen!.counters.tokensDelivered > 8 && well!.counters.tokensDelivered > 8)
    frozen!.faults.freeze()
    const { completions } = await rollout.result
    for (const completion of completions) expectExact(profile, completion, 60)
    expect(viewOf(supervisor, frozen!)).toMatchObject({ state: 'unhealthy.open' })
    expect(viewOf(supervisor, frozen!).fault).toContain('stood still')
    expect(well!.counters.tokensGenerated).toBe(8 * 60 - arrived(completions))
    if (profile.tokenIds) expect(arrived(completions)).toBeGreaterThan(0)
    frozen!.faults.thaw()
    await expectEmpty(supervisor, [frozen!, well!])
  })

  test('an engine that is dead behind a living front, and then gone: its samples go on elsewhere (R6)', async () => {
    const [dying, well] = await engines(profile, 2)
    const supervisor = await supervise(profile, [dying!, well!], { breaker: { resetMs: 20, maxResetMs: 40 } })
    const rollout = supervisor.submit(task(profile, 24, 60))
    await until('both run', () => dying!.counters.tokensDelivered > 8 && well!.counters.tokensDelivered > 8)
    dying!.faults.deadEngine()
    await until('its streams have ended', () => dying!.counters.running === 0)
    const before = generated([dying!])
    await until('it was tried in vain', () => dying!.faults.counters.answered >= 3)
    await dying!.faults.die()
    const { completions } = await rollout.result
    for (const completion of completions) expectExact(profile, completion, 60)
    expect(generated([dying!])).toBe(before)
    if (profile.tokenIds) expect(well!.counters.tokensGenerated).toBe(24 * 60 - arrived(completions))
  })

  test('streams that are closed or aborted free their slots at once (R7)', async () => {
    const server = await engine(profile, { stepMs: 2 })
    const supervisor = await supervise(profile, [server])
    const rollout = supervisor.submit(task(profile, 4, 3000))
    await until('they run', () => server.counters.running === 4 && server.counters.tokensDelivered > 4)
    const { steps } = server.counters
    rollout.cancel()
    await until('it is quiet', () => server.counters.running === 0)
    // Steps, not time, which other processes take: 0.1 s are 50.
    expect(server.counters.steps - steps).toBeLessThan(250)
  })
})

describe.each(PROFILES.filter(({ versions }) => versions))('$name', (profile) => {
  test('a server that restarted with old weights gets no rollout before it is brought up to date (F1)', async () => {
    const path = await mkdtemp(join(tmpdir(), 'weights-'))
    onTestFinished(() => rm(path, { recursive: true }))
    const next = endless(createTinyWeights({ seed: 2 }))
    await saveWeights(path, next)
    const [restarting, staying] = await engines(profile, 2)
    const breaker = { failures: 3, resetMs: 20, maxResetMs: 40 }
    const supervisor = await supervise(profile, [restarting!, staying!], { breaker })
    await supervisor.updateWeights({ version: 1, path })
    const rollouts = Array.from({ length: 40 }, () => supervisor.submit(task(profile, 1, 60)))
    await until('both run', () => restarting!.counters.tokensDelivered > 8 && staying!.counters.tokensDelivered > 8)
    await restarting!.faults.restart()
    expect(restarting!.weightVersion).toBe('default')
    const before = restarting!.counters.tokensGenerated
    const generatedAtUpdate: number[] = []
    restarting!.faults.onRequest((_, route) => {
      if (/update_weights|collective_rpc/.test(route)) generatedAtUpdate.push(restarting!.counters.tokensGenerated)
    })
    const groups = await Promise.all(rollouts.map(({ result }) => result))
    await until('it is back', () => viewOf(supervisor, restarting!).version === '1')
    // Not one token was made with the weights that it came back with.
    expect(generatedAtUpdate[0]).toBe(before)
    expect(restarting!.weightVersion).toBe('1')
    while (restarting!.counters.tokensGenerated === before) await supervisor.submit(task(profile, 8, TOKENS)).result
    const late = (await supervisor.submit(task(profile, 8, 60)).result).completions
    for (const completion of [...groups.flatMap(({ completions }) => completions), ...late]) {
      expectExact(profile, completion, 60, next)
      expect(completion.versions).toEqual([{ version: 1, start: 0, end: 60 }])
    }
  })

  test.each([
    ['old weights', 'default'],
    ['the weights of now', '1'],
  ])(
    'a request whose connection a server with %s took over is not sent there before it is up to date (I9, F13)',
    async (_, weightVersion) => {
      const path = await mkdtemp(join(tmpdir(), 'weights-'))
      onTestFinished(() => rm(path, { recursive: true }))
      const next = endless(createTinyWeights({ seed: 2 }))
      await saveWeights(path, next)
      // Of these, vLLM has one label for the server, and SGLang stamps its answers.
      const old = await engine(profile, { scaleOut: false })
      const other = await engine(profile, {
        scaleOut: false,
        weightVersion,
        ...(weightVersion === '1' ? { weights: next } : {}),
      })
      const { url, moved } = await address([old.port, other.port])
      const supervisor = await supervise(profile, [{ url }])
      await supervisor.updateWeights({ version: 1, path })
      let last: Completion
      // One at a time, until a connection that was used before is used again.
      do [last] = (await supervisor.submit(task(profile, 1, TOKENS)).result).completions as [Completion]
      while (!moved())
      expectExact(profile, last, TOKENS, next)
      expect(last.versions).toEqual([{ version: 1, start: 0, end: TOKENS }])
      const isOld = weightVersion === 'default'
      expect(other.counters).toMatchObject({ updates: isOld ? 1 : 0, tokensGenerated: TOKENS })
      expect(viewOf(supervisor, { url }).failed).toBe(isOld ? 1 : 0)
    },
  )

  test('a fleet without versions trusts a server that restarted (decision 1)', async () => {
    const server = await engine(profile)
    const breaker = { failures: 3, resetMs: 20, maxResetMs: 40 }
    const supervisor = await supervise(profile, [server], { breaker, retry: { attempts: 50 } })
    const rollout = supervisor.submit(task(profile, 8, 60))
    await until('it works', () => server.counters.tokensDelivered > 8)
    await server.faults.restart()
    for (const completion of (await rollout.result).completions) expectExact(profile, completion, 60, WEIGHTS)
    expect(server.counters.updates).toBe(0)
  })
})
