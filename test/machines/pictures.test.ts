/**
 * The committed pictures of the statecharts are those of the code: drawn again in memory and compared byte by byte.
 * After a change of a machine, `npm run pictures` writes them anew.
 */
import { readFileSync } from 'node:fs'
import { beforeAll, describe, expect, it } from 'vitest'
import type { AnyStateNode } from 'xstate'
import { instanceMachine, supervisorMachine } from '../../machines/index.ts'
import { type Chart, type ChartState, chartOf } from '../tools/chart-model.mjs'
import { drawChart } from '../tools/chart-svg.mjs'

const MACHINES = [
  { name: 'instance', machine: instanceMachine, title: 'Statechart of one inference server' },
  { name: 'supervisor', machine: supervisorMachine, title: 'Statechart of the run' },
] as const

describe.each(MACHINES)('machines/$name.svg', ({ name, machine, title }) => {
  let chart: Chart
  let svg: string

  beforeAll(async () => {
    chart = chartOf(machine)
    svg = await drawChart(chart, title)
  })

  it('is what the machine is now; if not, run `npm run pictures`', () => {
    const committed = readFileSync(new URL(`../../machines/${name}.svg`, import.meta.url), 'utf8')
    expect(committed === svg).toBe(true)
  })

  it('shows every state once, under a stable id', () => {
    const ids = flatten(chart.root)
      .filter(({ kind }) => kind !== 'any')
      .map(({ id }) => id)
    for (const id of ids) expect(svg.split(`id="${id}"`)).toHaveLength(2)
    for (const path of paths(machine.root)) expect(ids).toContain(`state-${path.join('-')}`)
  })

  it('names every event of the machine', () => {
    for (const event of machine.events.filter((type) => !type.startsWith('xstate.'))) expect(svg).toContain(event)
  })

  it('holds no script and follows the reader into the dark', () => {
    expect(svg).not.toMatch(/<script|\son[a-z]+=|javascript:|<foreignObject/i)
    expect(svg).not.toMatch(/NaN|undefined|Infinity/)
    expect(svg).toContain('prefers-color-scheme: dark')
  })
})

function flatten(state: ChartState): ChartState[] {
  return [state, ...state.children.flatMap(flatten)]
}

function paths(node: AnyStateNode): string[][] {
  return Object.values(node.states).flatMap((child) => [child.path, ...paths(child)])
}
