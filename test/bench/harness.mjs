/**
 * What the benchmarks share: the machine's name, rounds that interleave what is compared, medians, tables and JSON files.
 * Timings are printed and kept, never asserted. CPU time counts more than wall time: it is what a busy neighbour disturbs least.
 * They import the built package (dist), as users do: a test runner would resolve xstate's development build.
 */
import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { cpus, loadavg, totalmem } from 'node:os'
import { fileURLToPath } from 'node:url'

/** @typedef {{ readonly min: number, readonly median: number, readonly max: number }} Spread */
/**
 * @template T
 * @typedef {{ readonly wallMs: number, readonly cpuMs: number, readonly value: T }} Measured
 */

const results = new URL('./results/', import.meta.url)

/** `--quick` takes fewer and shorter rounds: to see that everything runs, not to measure. */
export const quick = process.argv.includes('--quick')

/** What the figures were measured on. */
function machine() {
  const require = createRequire(import.meta.url)
  const versions = Object.fromEntries(['xstate', 'rxjs', 'undici'].map((name) => [name, packageVersion(require, name)]))
  return {
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    node: process.version,
    platform: `${process.platform} ${process.arch}`,
    packages: versions,
    commit: commit(),
    loadAverage: loadavg().map((load) => Number(load.toFixed(1))),
    at: new Date().toISOString(),
  }
}

/** @param {NodeJS.Require} require @param {string} name @returns {string} */
function packageVersion(require, name) {
  const entry = require.resolve(name)
  const folder = entry.slice(0, entry.lastIndexOf(`node_modules/${name}/`) + `node_modules/${name}/`.length)
  return JSON.parse(readFileSync(`${folder}package.json`, 'utf8')).version
}

function commit() {
  try {
    const cwd = fileURLToPath(new URL('.', import.meta.url))
    return execFileSync('git', ['describe', '--always', '--dirty'], { cwd, encoding: 'utf8', stdio: 'pipe' }).trim()
  } catch {
    return null
  }
}

export function describeMachine({ cpu, cores, memoryGiB, node, packages, loadAverage } = machine()) {
  const list = Object.entries(packages).map(([name, version]) => `${name} ${version}`)
  return `${cpu}, ${cores} cores, ${memoryGiB} GiB; node ${node}; ${list.join(', ')}; load average ${loadAverage[0]}`
}

/**
 * Runs `work` and says what it took of this process, garbage collection and compilation included.
 * @template T
 * @param {() => T | Promise<T>} work
 * @returns {Promise<Measured<T>>}
 */
async function measure(work) {
  globalThis.gc?.()
  const cpuBefore = process.cpuUsage()
  const before = performance.now()
  const value = await work()
  const wallMs = performance.now() - before
  const { user, system } = process.cpuUsage(cpuBefore)
  return { wallMs, cpuMs: (user + system) / 1000, value }
}

/**
 * Measures each case once a round, in an order that turns, so that what disturbs the machine disturbs all alike. The first
 * rounds warm up and are not counted.
 * @template {string} K
 * @template T
 * @param {Record<K, () => T | Promise<T>>} cases
 * @param {number} rounds
 * @param {number} warmUp
 * @returns {Promise<Record<K, Measured<T>[]>>}
 */
export async function interleave(cases, rounds, warmUp = 1) {
  const names = /** @type {K[]} */ (Object.keys(cases))
  const found = /** @type {Record<K, Measured<T>[]>} */ (
    /** @type {unknown} */ (Object.fromEntries(names.map((name) => [name, []])))
  )
  for (let round = 0; round < warmUp + rounds; round++) {
    for (let turn = 0; turn < names.length; turn++) {
      const name = /** @type {K} */ (names[(turn + round) % names.length])
      const sample = await measure(cases[name])
      if (round >= warmUp) found[name].push(sample)
    }
  }
  return found
}

/** @param {readonly number[]} values @returns {Spread} */
export function spread(values) {
  const sorted = [...values].sort((a, b) => a - b)
  const at = (/** @type {number} */ index) => sorted[index] ?? Number.NaN
  const last = sorted.length - 1
  const median = (at(Math.floor(last / 2)) + at(Math.ceil(last / 2))) / 2
  return { min: at(0), median, max: at(last) }
}

/** @param {number} value */
export function format(value, digits = 1) {
  return value.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits })
}

/** `median (min to max)` @param {Spread} values */
export function formatSpread({ min, median, max }, digits = 1) {
  return `${format(median, digits)} (${format(min, digits)} to ${format(max, digits)})`
}

/**
 * Prints rows of cells as a Markdown table.
 * @param {string} title
 * @param {readonly string[]} head
 * @param {readonly (readonly string[])[]} rows
 */
export function table(title, head, rows) {
  const lines = [head, ...rows]
  const widths = head.map((_, column) => Math.max(...lines.map((row) => row[column]?.length ?? 0)))
  const line = (/** @type {readonly string[]} */ row) =>
    `| ${row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(' | ')} |`
  console.log(`\n${title}\n`)
  console.log(line(head))
  console.log(`| ${widths.map((width) => '-'.repeat(width)).join(' | ')} |`)
  for (const row of rows) console.log(line(row))
}

/**
 * Writes test/bench/results/<name>.json with the machine it was measured on.
 * @param {string} name
 * @param {object} data
 */
export function save(name, data) {
  mkdirSync(results, { recursive: true })
  const text = JSON.stringify({ benchmark: name, quick, machine: machine(), ...data }, null, 2)
  writeFileSync(new URL(`${name}.json`, results), `${text}\n`)
}
