/**
 * A trainer that is killed inside the gate, with a real process and SIGKILL: its servers stay paused in the middle of an update, one with the
 * new weights and one with the old or half-told ones. Another trainer finds them, opens them, brings both up to date and goes on (decision 7, F1, R10).
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, onTestFinished, test } from 'vitest'
import { connectInstance } from '../../src/index.ts'
import { createTinyWeights, type EmbeddedEngine, saveWeights } from '../../src/testing/index.ts'
import {
  endless,
  engines,
  expectEmpty,
  expectExact,
  PROFILES,
  type Profile,
  supervise,
  task,
} from '../failures/fleet.ts'

const TRAINER = fileURLToPath(new URL('./trainer-process.mjs', import.meta.url))
const LOADING = { sglang: '/update_weights_from_disk', vllm: '/collective_rpc' } as const
const NEW = endless(createTinyWeights({ seed: 102 }))

/** Folders of the weights of versions 1 and 2. */
async function savedWeights(): Promise<Readonly<Record<1 | 2, string>>> {
  const folder = await mkdtemp(join(tmpdir(), 'rollout-supervisor-killed-'))
  onTestFinished(() => rm(folder, { recursive: true, force: true }))
  const weights = { 1: join(folder, '1'), 2: join(folder, '2') }
  await saveWeights(weights[1], endless(createTinyWeights({ seed: 101 })))
  await saveWeights(weights[2], NEW)
  return weights
}

/** Its second load goes wrong; resolves when it has been told to begin it. */
function secondLoad({ faults }: EmbeddedEngine, path: string, how: 'hang' | 'hangAfter'): Promise<void> {
  let seen: 'nothing' | 'first load' | 'first load done' = 'nothing'
  return new Promise((resolve) => {
    faults.onRequest((_, asked) => {
      if (seen === 'nothing' && asked === path) {
        seen = 'first load'
      } else if (seen === 'first load') {
        seen = 'first load done'
        faults.route(path, how)
      } else if (seen === 'first load done' && asked === path) {
        resolve()
      }
    })
  })
}

async function isPaused(profile: Profile, { url }: EmbeddedEngine): Promise<boolean> {
  const { driver, probe } = await connectInstance({ url, engine: profile.name })
  await driver.close()
  return probe.paused
}

async function killInsideTheGate(
  profile: Profile & { readonly name: 'sglang' | 'vllm' },
  servers: readonly EmbeddedEngine[],
  mode: string,
  how: 'hang' | 'hangAfter',
  weights: Readonly<Record<1 | 2, string>>,
): Promise<void> {
  const [, second] = servers
  const path = LOADING[profile.name]
  const told = secondLoad(second!, path, how)
  const given = JSON.stringify({ urls: servers.map(({ url }) => url), engine: profile.name, mode, weights })
  const trainer = spawn(process.execPath, [TRAINER, given], { stdio: ['ignore', 'ignore', 'inherit'] })
  const ended = once(trainer, 'exit')
  onTestFinished(() => void trainer.kill('SIGKILL'))
  await told
  while (servers[0]!.weightVersion !== '2') await new Promise((resolve) => setImmediate(resolve))
  trainer.kill('SIGKILL')
  expect(await ended).toEqual([null, 'SIGKILL'])
  second!.faults.heal()
}

const VERSIONED = PROFILES.filter(({ versions }) => versions) as (Profile & { readonly name: 'sglang' | 'vllm' })[]

describe.each(VERSIONED)('$name', (profile) => {
  test.each([
    ['abort', 'hang'],
    ['abort', 'hangAfter'],
    ['keep', 'hang'],
    ['keep', 'hangAfter'],
  ] as const)('killed in an update with %s whose loading %s', async (mode, how) => {
    const weights = await savedWeights()
    const servers = await engines(profile, 2, { capacity: 4 })
    await killInsideTheGate(profile, servers, mode, how, weights)
    expect(await isPaused(profile, servers[1]!)).toBe(true)

    const said: string[] = []
    const logger = { debug() {}, info() {}, warn: (_: object, text?: string) => void said.push(text ?? ''), error() {} }
    const supervisor = await supervise(profile, servers, { logger })
    expect(said).toContain('the server was left paused; it is resumed')
    for (const server of servers) expect(await isPaused(profile, server)).toBe(false)
    const report = await supervisor.updateWeights({ version: 2, path: weights[2] })
    expect(report.instances.map(({ ok }) => ok)).toEqual([true, true])
    const { completions } = await supervisor.submit(task(profile, 8, 40)).result
    for (const completion of completions) {
      expectExact(profile, completion, 40, NEW)
      expect(completion.versions).toEqual([{ version: 2, start: 0, end: 40 }])
    }
    expect(new Set(completions.map(({ segments }) => segments[0]!.instance)).size).toBe(2)
    await expectEmpty(supervisor, servers)
  })
})
