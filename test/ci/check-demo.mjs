/**
 * Checks what the demo left in its folder: a timeline that is one whole SVG document without scripts, and only files
 * with something in them.
 * usage: node check-demo.mjs FOLDER
 */
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'

const folder = process.argv[2] ?? ''
const files = readdirSync(folder)
const problems = []
for (const name of files) {
  const { size } = statSync(join(folder, name))
  console.log(`${String(size).padStart(9)}  ${name}`)
  if (size === 0) problems.push(`${name} is empty`)
}
const pictures = files.filter((name) => name.endsWith('.svg'))
if (pictures.length === 0) problems.push('no SVG timeline was written')
for (const name of pictures) {
  const svg = readFileSync(join(folder, name), 'utf8')
  if (!/<svg[\s>]/.test(svg) || !svg.trimEnd().endsWith('</svg>')) problems.push(`${name} is not a whole SVG document`)
  if (/<script|javascript:|\son[a-z]+=/i.test(svg)) problems.push(`${name} holds a script`)
  if (/\b(NaN|undefined|Infinity)\b/.test(svg)) problems.push(`${name} holds NaN, undefined or Infinity`)
}
for (const problem of problems) console.error(problem)
process.exit(problems.length === 0 ? 0 : 1)
