/**
 * Draws the machines of the package, from the built code: `npm run pictures` writes machines/instance.svg and
 * machines/supervisor.svg. A test draws them again from the sources and compares.
 * usage: node statecharts.mjs [FOLDER]
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { chartOf } from './chart-model.mjs'
import { drawChart } from './chart-svg.mjs'

const folder = process.argv[2] ?? 'machines'
const built = new URL('../../dist/machines/index.js', import.meta.url)
/** @type {typeof import('../../machines/index.ts')} */
const { instanceMachine, supervisorMachine } = await import(built.href)

mkdirSync(folder, { recursive: true })
for (const [name, machine, title] of /** @type {const} */ ([
  ['instance', instanceMachine, 'Statechart of one inference server'],
  ['supervisor', supervisorMachine, 'Statechart of the run'],
])) {
  const path = join(folder, `${name}.svg`)
  writeFileSync(path, await drawChart(chartOf(machine), title))
  console.log(path)
}
