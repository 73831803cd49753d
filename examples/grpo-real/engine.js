/**
 * A real engine for the example: installed where it is missing, started on a free port with the learner's first weights, ended with this process.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { homedir } from 'node:os'
import { join } from 'node:path'

const SCRIPTS = join(import.meta.dirname, '../../test/e2e/engines')
/** Sequences at once: a tiny model costs the same for one and for many. */
export const SLOTS = 32

const FLAGS = {
  sglang: ['--max-running-requests', String(SLOTS), '--incremental-streaming-output'],
  vllm: ['--max-num-seqs', String(SLOTS)],
}

/** @typedef {keyof typeof FLAGS} Engine */

const folder = process.env.ROLLOUT_SUPERVISOR_ENGINES ?? join(homedir(), '.cache/rollout-supervisor/engines')

/** @param {Engine} engine */
export const pythonOf = (engine) => join(folder, engine, 'bin/python')

/** @param {Engine} engine */
export async function install(engine) {
  await script('install', [engine, folder])
}

/**
 * @param {Engine} engine
 * @param {string} weights
 */
export async function startEngine(engine, weights) {
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const { port } = /** @type {import('node:net').AddressInfo} */ (probe.address())
  probe.close()
  await script('start', [engine, folder, String(port), ...FLAGS[engine]], {
    MODEL: weights,
    OWNER: String(process.pid),
  })
  return { url: `http://127.0.0.1:${port}`, stop: () => script('stop', [folder, engine, String(port)]) }
}

/**
 * @param {string} name
 * @param {readonly string[]} args
 * @param {Record<string, string>} env
 */
async function script(name, args, env = {}) {
  const child = spawn(join(SCRIPTS, name), args, {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  const [code] = await once(child, 'close')
  if (code !== 0 && name !== 'stop') throw new Error(`${name} ${args.join(' ')}: expected exit code 0, found ${code}`)
}
