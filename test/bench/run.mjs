/**
 * Runs every benchmark, each in a process of its own, one after the other: `npm run build && npm run bench [-- --quick]`.
 * Names after it choose some: `npm run bench -- placement fleet`.
 */
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const all = [
  'placement',
  'sample-life',
  'fleet',
  'http-overhead',
  'run-cli',
  'batches',
  'training',
  'fidelity',
  'interruptions',
  'update-cost',
]
const options = process.argv.slice(2).filter((argument) => argument.startsWith('--'))
const chosen = process.argv.slice(2).filter((argument) => !argument.startsWith('--'))
const unknown = chosen.filter((name) => !all.includes(name))
if (unknown.length > 0) throw new Error(`expected benchmarks among ${all.join(', ')}, found ${unknown.join(', ')}`)

for (const name of chosen.length > 0 ? chosen : all) {
  console.log(`\n# ${name}`)
  const file = fileURLToPath(new URL(`${name}.mjs`, import.meta.url))
  const { status } = spawnSync(process.execPath, ['--expose-gc', file, ...options], { stdio: 'inherit' })
  if (status !== 0) process.exit(status ?? 1)
}
