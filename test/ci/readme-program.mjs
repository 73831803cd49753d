/**
 * Writes the program of the README to a file, as a reader would paste it: the first fenced block of JavaScript or
 * TypeScript that imports the package.
 * usage: node readme-program.mjs README.md OUT.ts
 */
import { readFileSync, writeFileSync } from 'node:fs'

const [readme = 'README.md', out = ''] = process.argv.slice(2)
const blocks = [
  ...readFileSync(readme, 'utf8').matchAll(/^```(?:js|javascript|ts|typescript|mjs)\b[^\n]*\n(.*?)^```/gms),
]
const program = blocks.map(([, code = '']) => code).find((code) => /from 'rollout-supervisor'/.test(code))
if (program === undefined) {
  console.error(`${readme}: no fenced js or ts block imports 'rollout-supervisor'`)
  process.exit(1)
}
writeFileSync(out, program)
console.log(`${readme}: a program of ${program.trimEnd().split('\n').length} lines`)
