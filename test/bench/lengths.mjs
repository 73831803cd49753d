/**
 * Lengths of grouped rollouts for the benchmarks: recorded ones where there is a folder of traces, else drawn from a lognormal distribution
 * of the same shape, most of whose spread is the prompt's.
 */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createRandom } from '../../dist/src/testing/index.js'

/** @typedef {{ readonly name: string, readonly groups: readonly (readonly number[])[] }} Workload */

const SAMPLES = 16
const GROUPS = 256
/** Share of the variance of log-lengths that is the prompt's, as measured on prompts of RL runs. */
const SHARED = 0.65

/** @returns {Workload[]} */
export function workloads() {
  const at = process.argv.indexOf('--traces')
  const folder = at < 0 ? '../shared/traces' : (process.argv[at + 1] ?? '')
  const path = join(folder, 'grouped_rollouts.csv')
  return existsSync(path) ? recorded(path) : [drawn('lognormal', 670, 1.1), drawn('lognormal, hard', 7_200, 0.6)]
}

/** @param {string} path @returns {Workload[]} */
function recorded(path) {
  /** @type {Map<string, Map<string, number[]>>} */
  const regimes = new Map()
  for (const line of readFileSync(path, 'utf8').trim().split('\n').slice(1)) {
    const [regime = '', group = '', , , output = ''] = line.split(',')
    const groups = regimes.get(regime) ?? new Map()
    regimes.set(regime, groups)
    const lengths = groups.get(group) ?? []
    groups.set(group, lengths)
    lengths.push(Number(output))
  }
  return [...regimes].map(([name, groups]) => ({ name, groups: [...groups.values()] }))
}

/** @param {string} name @param {number} median @param {number} sigma @returns {Workload} */
function drawn(name, median, sigma) {
  const random = createRandom(1)
  // Box and Muller; never the logarithm of 0.
  const normal = () => Math.sqrt(-2 * Math.log(1 - random.next())) * Math.cos(2 * Math.PI * random.next())
  const groups = Array.from({ length: GROUPS }, () => {
    const shared = Math.sqrt(SHARED) * normal()
    return Array.from({ length: SAMPLES }, () => {
      const log = sigma * (shared + Math.sqrt(1 - SHARED) * normal())
      return Math.min(32_768, Math.max(1, Math.round(median * Math.exp(log))))
    })
  })
  return { name, groups }
}
