/**
 * Prints the line coverage of src and machines, the least covered files first, and fails under a floor in per cent.
 * usage: node check-coverage.mjs coverage-summary.json FLOOR
 */
import { existsSync, readFileSync } from 'node:fs'
import { relative } from 'node:path'

const [path = '', floor = '90'] = process.argv.slice(2)
if (!existsSync(path)) {
  console.error(`no coverage summary at ${path}: the tests did not run to their end`)
  process.exit(1)
}
const { total, ...files } = JSON.parse(readFileSync(path, 'utf8'))
const worst = Object.entries(files)
  .map(([file, { lines }]) => ({ file: relative(process.cwd(), file), missed: lines.total - lines.covered, lines }))
  .filter(({ missed }) => missed > 0)
  .sort((a, b) => a.lines.pct - b.lines.pct)
for (const { file, missed, lines } of worst.slice(0, 15)) {
  console.log(`${String(lines.pct).padStart(6)} %  ${file} (${missed} of ${lines.total} lines never run)`)
}
console.log(`line coverage of src and machines: ${total.lines.pct} % (${total.lines.covered} of ${total.lines.total})`)
if (!(total.lines.pct >= Number(floor))) {
  console.error(`under ${floor} %`)
  process.exit(1)
}
