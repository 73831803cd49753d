/**
 * Draws a chart as one SVG document: Graphviz decides where things are, chart-layout.mjs asks it, this file says how
 * they look. The same chart gives the same bytes on every machine: sizes come from constants, not from fonts. Light and
 * dark by the reader's own preference, no scripts, one element with a stable id for each state.
 *
 * @typedef {import('./chart-model.mjs').Chart} Chart
 * @typedef {import('./chart-model.mjs').ChartState} ChartState
 * @typedef {import('./chart-layout.mjs').Arrow} Arrow
 * @typedef {import('./chart-layout.mjs').Layout} Layout
 */
import { CODE, DOT, layChart, NAME, rowsOf, textHeight } from './chart-layout.mjs'

const MARGIN = 16

const STYLE = `
  .page { fill: #ffffff }
  .group { fill: #f6f8fa; stroke: #d0d7de }
  .box { fill: #ddf4ff; stroke: #54aeff; stroke-width: 1.25 }
  .choice, .dot { fill: #57606a; stroke: none }
  .final { fill: #f6f8fa; stroke: #57606a; stroke-width: 1.25 }
  .any { fill: none; stroke: #8c959f; stroke-dasharray: 3 3 }
  .edge path { fill: none; stroke: #6e7781; stroke-width: 1.2 }
  .edge polygon { fill: #6e7781 }
  .timed path { stroke-dasharray: 5 3 }
  text { fill: #1f2328; font: 600 ${NAME.size}px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; text-anchor: middle }
  .anyname { fill: #57606a; font-weight: 400 }
  .code { fill: #1f2328; font: ${CODE.size}px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace }
  .note { fill: #656d76 }
  .active > .box, .active > .group { stroke: #1a7f37; stroke-width: 2.5 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 }
    .group { fill: #151b23; stroke: #3d444d }
    .box { fill: #12283f; stroke: #388bfd }
    .choice, .dot { fill: #9198a1 }
    .final { fill: #151b23; stroke: #9198a1 }
    .any { stroke: #656c76 }
    .edge path { stroke: #9198a1 }
    .edge polygon { fill: #9198a1 }
    text, .code { fill: #f0f6fc }
    .anyname, .note { fill: #9198a1 }
    .active > .box, .active > .group { stroke: #3fb950 }
  }`

/**
 * @param {Chart} chart
 * @param {string} title
 * @returns {Promise<string>}
 */
export async function drawChart(chart, title) {
  const layout = await layChart(chart)
  const width = Math.ceil(layout.width + 2 * MARGIN)
  const height = Math.ceil(layout.height + 2 * MARGIN)
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-labelledby="title">`,
    `<title id="title">${escapeXml(title)}</title>`,
    `<style>${STYLE}\n</style>`,
    `<rect class="page" width="${width}" height="${height}" rx="8"/>`,
    `<g id="${chart.root.id}" transform="translate(${MARGIN} ${MARGIN})">`,
    ...chart.root.children.flatMap((child) => drawState(child, layout)),
    ...layout.arrows.map(drawArrow),
    '</g>',
    '</svg>',
  ]
  return `${parts.join('\n')}\n`
}

/** @param {ChartState} state @param {Layout} layout @returns {string[]} */
function drawState(state, layout) {
  const box = layout.boxes.get(state.id)
  if (box === undefined) throw new Error(`Graphviz gave no place to ${state.id}`)
  const { x, y, width, height } = box
  const title = state.description === '' ? state.name : `${state.name}: ${state.description}`
  const path = state.id.replace(/^state-/, '').replaceAll('-', '.')
  const open = `<g id="${state.id}" class="state" data-state="${path}"><title>${escapeXml(title)}</title>`
  const rect = (/** @type {string} */ look, inset = 0, radius = 8) =>
    `<rect class="${look}" x="${px(x - width / 2 + inset)}" y="${px(y - height / 2 + inset)}" width="${px(width - 2 * inset)}" height="${px(height - 2 * inset)}" rx="${radius}"/>`
  if (state.kind === 'choice') {
    const [dx, dy] = [width / 2, height / 2]
    const corners = [
      `${px(x)},${px(y - dy)}`,
      `${px(x + dx)},${px(y)}`,
      `${px(x)},${px(y + dy)}`,
      `${px(x - dx)},${px(y)}`,
    ]
    return [`${open}<polygon class="choice" points="${corners.join(' ')}"/></g>`]
  }
  if (state.kind === 'compound') {
    const children = state.children.flatMap((child) => drawState(child, layout))
    return [open, rect('group', 0, 10), ...drawTexts(state, x, y - height / 2 + 8), ...children, '</g>']
  }
  const shapes = { any: [rect('any')], final: [rect('final', 0, 10), rect('final', 3.5, 7)], atomic: [rect('box')] }
  return [open, ...shapes[state.kind], ...drawTexts(state, x, y - textHeight(state) / 2), '</g>']
}

/** @param {ChartState} state @param {number} x @param {number} top @returns {string[]} */
function drawTexts(state, x, top) {
  const look = state.kind === 'any' ? 'anyname' : 'name'
  const name = `<text class="${look}" x="${px(x)}" y="${px(top + NAME.size - 1)}">${escapeXml(state.name)}</text>`
  return [name, ...drawRows(rowsOf(state.steps), x, top + NAME.line)]
}

/** @param {import('./chart-layout.mjs').Row[]} rows @param {number} x @param {number} top */
function drawRows(rows, x, top) {
  return rows.map(({ text, note }, index) => {
    const look = note ? 'code note' : 'code'
    return `<text class="${look}" x="${px(x)}" y="${px(top + CODE.line * index + CODE.size)}">${escapeXml(text)}</text>`
  })
}

/** @param {Arrow} arrow */
function drawArrow({ from, to, rows, points, tip, label, timed, start }) {
  const [first = [0, 0], ...rest] = points
  const [x = 0, y = 0] = points.at(-1) ?? first
  const [tx = x, ty = y] = tip
  const length = Math.hypot(tx - x, ty - y) || 1
  const [ux, uy] = [(tx - x) / length, (ty - y) / length]
  const head = [
    [tx, ty],
    [tx - 8 * ux - 3.6 * uy, ty - 8 * uy + 3.6 * ux],
    [tx - 8 * ux + 3.6 * uy, ty - 8 * uy - 3.6 * ux],
  ]
  const [sx = 0, sy = 0] = start ?? []
  const dot = start === null ? '' : `<circle class="dot" cx="${px(sx)}" cy="${px(sy)}" r="${DOT / 2}"/>`
  const [lx = 0, ly = 0] = label ?? []
  const texts = drawRows(rows, lx, ly - (rows.length * CODE.line) / 2)
  const ends = start === null ? ` data-from="${from}" data-to="${to}"` : ''
  return `<g class="edge${timed ? ' timed' : ''}"${ends}>${dot}<path d="M${pair(first)}C${rest.map(pair).join(' ')}"/><polygon points="${head.map(pair).join(' ')}"/>${texts.join('')}</g>`
}

/** @param {number[]} point */
function pair([x = 0, y = 0]) {
  return `${px(x)},${px(y)}`
}

/** A length in pixels, to a tenth. @param {number} value */
function px(value) {
  return Number(value.toFixed(1))
}

/** @param {string} text */
function escapeXml(text) {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;')
}
