/**
 * Runs every example, one after another. Each must end by itself with exit code 0 within a minute and be shorter
 * than 60 lines.
 * usage: node run-examples.mjs FOLDER
 */
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

const LIMIT_MS = 60_000
const MOST_LINES = 60

const folder = process.argv[2] ?? 'examples'
const files = readdirSync(folder).filter((name) => /\.(js|mjs)$/.test(name))
const problems = files.length === 0 ? [`no examples in ${folder}/`] : []
for (const name of files) {
  const path = join(folder, name)
  const lines = readFileSync(path, 'utf8').trimEnd().split('\n').length
  if (lines >= MOST_LINES) problems.push(`${path}: ${lines} lines, must be under ${MOST_LINES}`)
  const began = performance.now()
  const run = spawnSync(process.execPath, [path], {
    encoding: 'utf8',
    timeout: LIMIT_MS,
    killSignal: 'SIGKILL',
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const seconds = ((performance.now() - began) / 1000).toFixed(1)
  const ok = run.status === 0
  console.log(`${ok ? 'ok    ' : 'FAILED'} ${path} (${lines} lines, ${seconds} s)`)
  if (ok) {
    console.log(indent(run.stdout.split('\n').slice(0, 8).join('\n')))
  } else {
    problems.push(`${path}: ${run.signal === null ? `exit code ${run.status}` : `still running after ${LIMIT_MS} ms`}`)
    console.log(indent(`${run.stdout}\n${run.stderr}`))
  }
}
for (const problem of problems) console.error(problem)
process.exit(problems.length === 0 ? 0 : 1)

/** @param {string} text */
function indent(text) {
  return text.trimEnd().replace(/^/gm, '       | ')
}
