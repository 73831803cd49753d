/**
 * Checks what `npm pack --json` says it packed: the built code with its types, the sources its maps point at, the
 * examples, the papers; no test, no configuration, nothing large.
 * usage: node check-pack.mjs pack.json
 */
import { readFileSync } from 'node:fs'

const text = readFileSync(process.argv[2] ?? '', 'utf8')
const parsed = JSON.parse(text.slice(text.indexOf('[')))
const [pack] = parsed
/** @type {string[]} */
const paths = pack.files.map((/** @type {{ path: string }} */ file) => file.path)
const required = ['package.json', 'README.md', 'LICENSE', 'CHANGELOG.md', 'docs/engines.md', 'examples/train.js']
for (const entry of ['src/index', 'machines/index', 'src/testing/index', 'src/cli/main']) {
  required.push(`dist/${entry}.js`, `dist/${entry}.d.ts`, `${entry}.ts`)
}
const problems = required.filter((path) => !paths.includes(path)).map((path) => `missing: ${path}`)
const allowed = /^(dist|src|machines|docs)\/|^examples\/[^/]+\.js$|^(package\.json|README\.md|LICENSE|CHANGELOG\.md)$/
problems.push(...paths.filter((path) => !allowed.test(path)).map((path) => `does not belong in the package: ${path}`))
for (const path of paths.filter((path) => path.startsWith('dist/') && path.endsWith('.js'))) {
  const source = path.replace(/^dist\//, '').replace(/\.js$/, '.ts')
  if (!paths.includes(source)) problems.push(`built from no source: ${path}`)
}
if (pack.size > 1_000_000) problems.push(`packed size is ${pack.size} bytes, more than 1 MB`)
console.log(`${pack.filename}: ${paths.length} files, ${pack.size} bytes packed, ${pack.unpackedSize} unpacked`)
for (const problem of problems) console.error(problem)
process.exit(problems.length === 0 ? 0 : 1)
