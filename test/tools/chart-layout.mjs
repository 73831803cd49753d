/**
 * Where the states and arrows of a chart go: one run of Graphviz for each compound state, inner ones first, so that a
 * compound state is a box of known size to its neighbours. An arrow that crosses the border of a compound state is
 * drawn from border to border and says in words which inner state it leaves or enters.
 *
 * @typedef {import('./chart-model.mjs').Chart} Chart
 * @typedef {import('./chart-model.mjs').ChartState} ChartState
 * @typedef {import('./chart-model.mjs').ChartEdge} ChartEdge
 * @typedef {import('./chart-model.mjs').ChartStep} ChartStep
 * @typedef {{ text: string, note: boolean }} Row  a line of a label; a note is a guard or a name of an inner state
 * @typedef {{ x: number, y: number, width: number, height: number }} Box  centre and size in pixels, y downwards
 *
 * @typedef {object} Arrow
 * @property {string} from
 * @property {string} to
 * @property {Row[]} rows
 * @property {boolean} timed  taken by the clock
 * @property {number[][]} points  a chain of cubic Bézier curves
 * @property {number[]} tip
 * @property {number[] | null} label  its centre
 * @property {number[] | null} start  centre of the dot that an initial arrow starts from
 *
 * @typedef {{ width: number, height: number, boxes: Map<string, Box>, arrows: Arrow[] }} Layout
 * @typedef {Map<string, { from: string, to: string, rows: Row[], timed: boolean }>} Merged
 * @typedef {Awaited<ReturnType<typeof instance>>} Viz
 */
import { instance } from '@viz-js/viz'

export const NAME = { size: 14, advance: 7.9, line: 18 }
export const CODE = { size: 11, advance: 6.65, line: 14 }
export const DOT = 11
const CHOICE = 16
const PADDING = 12
/** Distance between parts that no arrow connects, and the grid on which room for them is looked for. */
const GAP = 20
const STEP = 8
/** Characters after which a guard goes to a line of its own. */
const WRAP = 18

/** @param {Chart} chart @returns {Promise<Layout>} */
export async function layChart(chart) {
  return layGroup(await instance(), chart.root, chart.edges)
}

/** @param {ChartStep[]} steps @returns {Row[]} */
export function rowsOf(steps) {
  return steps.flatMap(({ event, guard }) => {
    if (guard === '') return event === '' ? [] : [{ text: event, note: false }]
    if (event === '') return [{ text: `[${guard}]`, note: true }]
    const whole = `${event} [${guard}]`
    if (whole.length <= WRAP) return [{ text: whole, note: false }]
    return [{ text: event, note: false }, ...`[${guard}]`.split(/(?<=,) /).map((text) => ({ text, note: true }))]
  })
}

/** @param {ChartState} state */
export function textHeight(state) {
  return NAME.line + rowsOf(state.steps).length * CODE.line
}

/** @param {ChartState} state */
function textWidth(state) {
  return Math.max(state.name.length * NAME.advance, widthOf(rowsOf(state.steps)))
}

/** @param {Row[]} rows */
function widthOf(rows) {
  return Math.max(0, ...rows.map((row) => row.text.length * CODE.advance))
}

/**
 * Lays out the children of a compound state; the size is that of what is inside, without title and border.
 * States that no arrow connects with the others, however far, are laid out apart and put where there is room.
 * @param {Viz} viz @param {ChartState} group @param {readonly ChartEdge[]} edges @returns {Layout}
 */
function layGroup(viz, group, edges) {
  /** @type {Map<string, Layout>} */
  const inner = new Map()
  for (const child of group.children) {
    if (child.kind === 'compound') inner.set(child.id, layGroup(viz, child, edges))
  }
  const between = edgesBetween(group, edges)
  const parts = islands(group.children, between).map((states) => layIsland(viz, states, inner, between))
  return pack(parts)
}

/**
 * Groups of states that arrows connect, the largest first.
 * @param {readonly ChartState[]} states @param {Merged} edges @returns {ChartState[][]}
 */
function islands(states, edges) {
  const island = new Map(states.map(({ id }) => [id, id]))
  for (const { from, to } of edges.values()) {
    const [kept, gone] = [island.get(from) ?? from, island.get(to)]
    for (const [id, name] of island) if (name === gone) island.set(id, kept)
  }
  const groups = [...new Set(island.values())].map((name) => states.filter(({ id }) => island.get(id) === name))
  return groups.sort((a, b) => weightOf(b) - weightOf(a))
}

/** @param {ChartState[]} states @returns {number} */
function weightOf(states) {
  return states.reduce((sum, state) => sum + 1 + weightOf(state.children), 0)
}

/**
 * One run of Graphviz.
 * @param {Viz} viz @param {ChartState[]} states @param {Map<string, Layout>} inner @param {Merged} edges @returns {Layout}
 */
function layIsland(viz, states, inner, edges) {
  const answer = /** @type {GraphvizAnswer} */ (viz.renderJSON(dot(states, inner, edges), { engine: 'dot' }))
  const [, , width = 0, height = 0] = numbers(answer.bb)
  const flip = (/** @type {string} */ text) => {
    const [x = 0, y = 0] = numbers(text)
    return [x, height - y]
  }
  /** @type {Layout} */
  const layout = { width, height, boxes: new Map(), arrows: [] }
  for (const { name, pos, width: w, height: h } of answer.objects) {
    const [x = 0, y = 0] = flip(pos)
    const box = { x, y, width: Number(w) * 72, height: Number(h) * 72 }
    layout.boxes.set(name, box)
    const inside = inner.get(name)
    if (inside !== undefined) place(inside, x - inside.width / 2, y + box.height / 2 - PADDING - inside.height, layout)
  }
  for (const { id, pos, lp } of answer.edges ?? []) {
    const parts = pos.split(' ')
    const points = parts.filter((part) => !/^[es],/.test(part)).map(flip)
    const end = parts.find((part) => part.startsWith('e,'))
    const tip = end === undefined ? (points.at(-1) ?? [0, 0]) : flip(end.slice(2))
    const { from, to, rows, timed } = edges.get(id) ?? { from: id, to: id, rows: [], timed: false }
    const dotBox = edges.has(id) ? undefined : layout.boxes.get(`start-${id}`)
    const start = dotBox === undefined ? null : [dotBox.x, dotBox.y]
    layout.arrows.push({ from, to, rows, timed, points, tip, label: lp === undefined ? null : flip(lp), start })
  }
  return layout
}

/** Adds a layout to another, moved. @param {Layout} part @param {number} dx @param {number} dy @param {Layout} out */
function place(part, dx, dy, out) {
  const move = (/** @type {number[]} */ [x = 0, y = 0]) => [x + dx, y + dy]
  for (const [id, { x, y, ...size }] of part.boxes) out.boxes.set(id, { x: x + dx, y: y + dy, ...size })
  for (const arrow of part.arrows) {
    const label = arrow.label === null ? null : move(arrow.label)
    const start = arrow.start === null ? null : move(arrow.start)
    out.arrows.push({ ...arrow, points: arrow.points.map(move), tip: move(arrow.tip), label, start })
  }
}

/**
 * Puts layouts into one, each where it makes the whole grow least without touching what is there.
 * @param {Layout[]} parts  the first one stays where it is @returns {Layout}
 */
function pack(parts) {
  /** @type {Layout} */
  const whole = { width: 0, height: 0, boxes: new Map(), arrows: [] }
  for (const part of parts) {
    const taken = obstacles(whole)
    let best = { x: whole.width === 0 ? 0 : whole.width + GAP, y: 0, area: Number.POSITIVE_INFINITY }
    for (let y = 0; y <= whole.height; y += STEP) {
      for (let x = 0; x <= whole.width; x += STEP) {
        const area = Math.max(whole.width, x + part.width) * Math.max(whole.height, y + part.height)
        if (area < best.area && taken.every((box) => isClear(box, x, y, part))) best = { x, y, area }
      }
    }
    place(part, best.x, best.y, whole)
    whole.width = Math.max(whole.width, best.x + part.width)
    whole.height = Math.max(whole.height, best.y + part.height)
  }
  return whole
}

/** Whether a part of this size, put with its corner at x, y, keeps its distance from a box. @param {Box} box @param {number} x @param {number} y @param {Layout} part */
function isClear(box, x, y, { width, height }) {
  return (
    Math.abs(x + width / 2 - box.x) >= (width + box.width) / 2 + GAP ||
    Math.abs(y + height / 2 - box.y) >= (height + box.height) / 2 + GAP
  )
}

/** What a layout covers: states, labels, and points along the arrows. @param {Layout} layout @returns {Box[]} */
function obstacles({ boxes, arrows }) {
  const labels = arrows.flatMap(({ label, rows }) => {
    const [x = 0, y = 0] = label ?? []
    return label === null ? [] : [{ x, y, width: widthOf(rows), height: rows.length * CODE.line }]
  })
  return [...boxes.values(), ...labels, ...arrows.flatMap(({ points }) => curve(points))]
}

/** Points along a chain of Bézier curves, as boxes without size. @param {number[][]} points @returns {Box[]} */
function curve(points) {
  /** @type {Box[]} */
  const found = []
  for (let i = 0; i + 3 < points.length; i += 3) {
    const [[ax = 0, ay = 0] = [], [bx = 0, by = 0] = [], [cx = 0, cy = 0] = [], [ex = 0, ey = 0] = []] = points.slice(i)
    for (let t = 0; t <= 1; t += 0.1) {
      const mix = (/** @type {number[]} */ [a = 0, b = 0, c = 0, e = 0]) =>
        (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t ** 2 * c + t ** 3 * e
      found.push({ x: mix([ax, bx, cx, ex]), y: mix([ay, by, cy, ey]), width: 0, height: 0 })
    }
  }
  return found
}

/**
 * The arrows between the direct children of a compound state, merged to one for each pair.
 * @param {ChartState} group @param {readonly ChartEdge[]} edges
 * @returns {Merged}
 */
function edgesBetween(group, edges) {
  const owner = new Map(group.children.flatMap((child) => idsOf(child).map(({ id, name }) => [id, { child, name }])))
  /** @type {Map<string, { from: string, to: string, steps: Map<string, { step: ChartStep, inner: string[] }> }>} */
  const merged = new Map()
  for (const { from, to, steps } of edges) {
    const [source, target] = [owner.get(from), owner.get(to)]
    if (source === undefined || target === undefined || source.child === target.child) continue
    const ends = { from: source.child.id, to: target.child.id }
    const id = `${ends.from}>${ends.to}`
    const edge = merged.get(id) ?? { ...ends, steps: new Map() }
    merged.set(id, edge)
    for (const step of steps) {
      const key = `${step.event}[${step.guard}]${target.child.id === to ? '' : to}`
      const entry = edge.steps.get(key) ?? { step, inner: [] }
      if (from !== source.child.id) entry.inner.push(source.name)
      edge.steps.set(key, entry)
    }
  }
  return new Map(
    [...merged].map(([id, { from, to, steps }]) => {
      const entries = [...steps.values()]
      const rows = entries.flatMap(({ step, inner }) => [
        ...rowsOf([step]),
        ...(inner.length === 0 ? [] : [{ text: `in ${inner.join(', ')}`, note: true }]),
      ])
      return [id, { from, to, rows, timed: entries.every(({ step }) => step.event.startsWith('after ')) }]
    }),
  )
}

/** @param {ChartState} state @returns {{ id: string, name: string }[]} */
function idsOf(state) {
  return [{ id: state.id, name: state.name }, ...state.children.flatMap(idsOf)]
}

/**
 * @typedef {object} GraphvizAnswer
 * @property {string} bb
 * @property {{ name: string, pos: string, width: string, height: string }[]} objects
 * @property {{ id: string, pos: string, lp?: string }[]} [edges]
 */

/** @param {ChartState[]} states @param {Map<string, Layout>} inner @param {Merged} edges */
function dot(states, inner, edges) {
  const nodes = states.flatMap((child) => {
    const inside = inner.get(child.id)
    const width = Math.max(textWidth(child) + 24, inside === undefined ? 72 : inside.width + 2 * PADDING)
    const height = textHeight(child) + (inside === undefined ? 14 : inside.height + PADDING + 12)
    const shape = child.kind === 'choice' ? `shape=diamond ${size(CHOICE, CHOICE)}` : size(width, height)
    const node = `"${child.id}" [${shape}]`
    if (!child.initial) return [node]
    const start = `"start-${child.id}" [shape=circle ${size(DOT, DOT)}]`
    return [start, node, `"start-${child.id}" -> "${child.id}" [id="${child.id}" weight=4]`]
  })
  const ids = new Set(states.map(({ id }) => id))
  const arrows = [...edges]
    .filter(([, { from }]) => ids.has(from))
    .map(([id, { from, to, rows }]) => {
      const label = rows.length === 0 ? '' : ` label=${blank(widthOf(rows) + 10, rows.length * CODE.line + 4)}`
      return `"${from}" -> "${to}" [id="${id}"${label}]`
    })
  return `digraph {
  graph [rankdir=TB nodesep=0.2 ranksep=0.2 pad=0]
  node [shape=box fixedsize=true label=""]
  edge [arrowsize=0.8]
  ${[...nodes, ...arrows].join('\n  ')}
}`
}

/** @param {number} width @param {number} height  both in pixels */
function size(width, height) {
  return `width=${(width / 72).toFixed(4)} height=${(height / 72).toFixed(4)}`
}

/** A label of a fixed size with nothing in it. @param {number} width @param {number} height */
function blank(width, height) {
  return `<<table border="0" cellborder="0" fixedsize="true" width="${Math.ceil(width)}" height="${Math.ceil(height)}"><tr><td></td></tr></table>>`
}

/** @param {string} text */
function numbers(text) {
  return text.split(',').map(Number)
}
