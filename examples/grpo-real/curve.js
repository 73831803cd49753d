/**
 * The learning curve as an SVG: rewards of every step, scores of the evaluations, seconds below.
 */
const [WIDTH, HEIGHT, EDGE] = [720, 320, 44]

/**
 * @typedef {{ readonly seconds: number, readonly value: number }} Point
 * @param {string} title
 * @param {{ readonly reward: readonly Point[], readonly score: readonly Point[] }} curves
 * @param {number} goal
 */
export function curveSvg(title, { reward, score }, goal) {
  const last = Math.max(1, ...[...reward, ...score].map(({ seconds }) => seconds))
  const x = (/** @type {number} */ seconds) => (EDGE + (seconds / last) * (WIDTH - 2 * EDGE)).toFixed(1)
  const y = (/** @type {number} */ value) => (HEIGHT - EDGE - value * (HEIGHT - 2 * EDGE)).toFixed(1)
  const line = (/** @type {readonly Point[]} */ points) =>
    points.map(({ seconds, value }) => `${x(seconds)},${y(value)}`).join(' ')
  const grid = [0, 0.25, 0.5, 0.75, 1].map(
    (value) =>
      `<path d="M${EDGE} ${y(value)}H${WIDTH - EDGE}" stroke="#ddd"/><text x="${EDGE - 6}" y="${y(value)}" text-anchor="end" dy="4">${value}</text>`,
  )
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="12">
<rect width="${WIDTH}" height="${HEIGHT}" fill="#fff"/>
<text x="${EDGE}" y="22" font-size="14">${title}</text>
${grid.join('\n')}
<path d="M${EDGE} ${y(goal)}H${WIDTH - EDGE}" stroke="#2a7" stroke-dasharray="4 4"/>
<polyline points="${line(reward)}" fill="none" stroke="#47c" stroke-width="1.5"/>
${score.map(({ seconds, value }) => `<circle cx="${x(seconds)}" cy="${y(value)}" r="4" fill="#c63"/>`).join('\n')}
<text x="${WIDTH - EDGE}" y="${HEIGHT - 14}" text-anchor="end">${last.toFixed(0)} s of training</text>
<text x="${EDGE}" y="${HEIGHT - 14}"><tspan fill="#47c">mean reward of a step</tspan>  <tspan fill="#c63">evaluation, greedy</tspan></text>
</svg>
`
}
