/**
 * Rule 1 of the house: imports run one way. The table below is the plan of the house; the tests compare it with the
 * import statements in the code. Rule 2 and 3 follow from it: decisions and machines can reach no effect.
 */
import { builtinModules } from 'node:module'
import ts from 'typescript'
import { describe, expect, it } from 'vitest'
import { type Import, lineOf, type Source, sources, walk } from './sources.ts'

type Room =
  | 'base'
  | 'rollout'
  | 'scheduling'
  | 'machines'
  | 'engines'
  | 'streams'
  | 'telemetry'
  | 'input'
  | 'options'
  | 'run'
  | 'supervisor'
  | 'index'
  | 'testing'
  | 'gateway'
  | 'cli'

interface Rule {
  /** Rooms whose code this room may run. Its own room is always open. */
  readonly runs: readonly Room[]
  /** Rooms of which it may know the types as well. */
  readonly types: readonly Room[]
  /** Packages and kinds of Node modules it may use at run time; `node:` stands for all Node modules. */
  readonly packages: readonly string[]
}

const PARTS: readonly Room[] = ['base', 'rollout', 'scheduling', 'machines', 'engines', 'streams', 'telemetry']

const HOUSE: Record<Room, Rule> = {
  base: { runs: [], types: [], packages: [] },
  rollout: { runs: ['base'], types: [], packages: [] },
  scheduling: { runs: ['base', 'rollout'], types: [], packages: [] },
  machines: { runs: [], types: ['base', 'rollout', 'scheduling', 'telemetry'], packages: ['xstate'] },
  engines: { runs: ['base', 'rollout'], types: PARTS, packages: ['undici', 'node:'] },
  streams: { runs: ['base', 'rollout'], types: PARTS, packages: ['rxjs'] },
  telemetry: { runs: ['base', 'rollout'], types: PARTS, packages: ['rxjs'] },
  input: { runs: ['base', 'rollout'], types: [], packages: ['node:'] },
  options: { runs: PARTS, types: [], packages: ['node:'] },
  run: { runs: [...PARTS, 'options'], types: [], packages: ['xstate', 'rxjs', 'node:'] },
  supervisor: { runs: [...PARTS, 'options', 'run'], types: [], packages: ['xstate', 'rxjs', 'pino', 'node:'] },
  index: { runs: [...PARTS, 'input', 'options', 'run', 'supervisor'], types: [], packages: [] },
  testing: { runs: ['base', 'rollout', 'scheduling'], types: PARTS, packages: ['node:'] },
  gateway: { runs: ['index'], types: [], packages: ['node:'] },
  cli: { runs: ['index', 'input', 'testing'], types: [], packages: ['pino', 'node:'] },
}

/** Names that reach the clock, chance, the process or the network without an import. */
const EFFECTS = new Set([
  'setTimeout',
  'setInterval',
  'setImmediate',
  'Date',
  'performance',
  'process',
  'console',
  'fetch',
])
/** Rooms of pure decisions and of machines (rule 2). */
const PURE: readonly Room[] = ['rollout', 'scheduling', 'machines']

const files = sources(['src', 'machines'])

function roomOf(path: string): Room {
  if (/^src\/(errors|problems|clock|checks)\.ts$/.test(path)) return 'base'
  const name = /^(?:src\/)?([a-z]+)(?:\/|\.ts$)/.exec(path)?.[1] ?? path
  if (name in HOUSE) return name as Room
  throw new Error(`${path} is in no room of the house: put it in one, or add the room to ${import.meta.filename}`)
}

function offence(from: Source, { specifier, target, typeOnly, line }: Import): string | null {
  const room = roomOf(from.path)
  const rule = HOUSE[room]
  const where = `${from.path}:${line} imports ${specifier}`
  if (target === null) {
    const name = builtinModules.includes(specifier) ? `node:${specifier}` : specifier
    const allowed = rule.packages.some((p) =>
      p === 'node:' ? name.startsWith(p) : name === p || name.startsWith(`${p}/`),
    )
    return allowed || typeOnly ? null : `${where}: ${room} may use ${rule.packages.join(', ') || 'no package'}`
  }
  const to = roomOf(target)
  if (to === room) return null
  if (rule.runs.includes(to)) {
    const aside = room === 'cli' && to === 'testing' && target !== 'src/testing/index.ts'
    return aside ? `${where}: use ../testing/index.ts` : null
  }
  if (rule.types.includes(to)) return typeOnly ? null : `${where}: ${room} may know only types of ${to} (import type)`
  return `${where}: ${room} may not know ${to}`
}

/** Whether a name is read from the global scope: not a property, a declaration's own name or a type. */
function isGlobalUse(node: ts.Node): boolean {
  if (!ts.isIdentifier(node)) return false
  const { parent } = node
  return !ts.isTypeReferenceNode(parent) && !('name' in parent && parent.name === node)
}

/** The circles of run-time imports. */
function cycles(): string[] {
  const targets = new Map(
    files.map((file) => [file.path, file.imports.filter((i) => !i.typeOnly && i.target !== null)]),
  )
  const done = new Set<string>()
  const found: string[] = []
  const visit = (path: string, way: readonly string[]): void => {
    const at = way.indexOf(path)
    if (at >= 0) found.push([...way.slice(at), path].join(' -> '))
    if (at >= 0 || done.has(path)) return
    for (const { target } of targets.get(path) ?? []) visit(target ?? '', [...way, path])
    done.add(path)
  }
  for (const path of targets.keys()) visit(path, [])
  return found
}

describe('rule 1: imports run one way', () => {
  it('every file of src and machines is in a room of the house', () => {
    expect(files.length).toBeGreaterThan(0)
    for (const file of files) expect(HOUSE).toHaveProperty(roomOf(file.path))
  })

  it('no file imports from a room or a package that its own room may not know', () => {
    const offences = files.flatMap((file) => file.imports.map((i) => offence(file, i))).filter((o) => o !== null)
    expect(offences).toEqual([])
  })

  it('every import names a file that is there, with its .ts ending', () => {
    const paths = new Set(files.map((file) => file.path))
    const lost = files.flatMap((file) =>
      file.imports
        .filter(({ target }) => target !== null && !paths.has(target))
        .map(({ specifier, line }) => `${file.path}:${line} imports ${specifier}`),
    )
    expect(lost).toEqual([])
  })

  it('no imports run in a circle', () => {
    expect(cycles()).toEqual([])
  })
})

describe('rules 2 and 3: decisions and machines are pure', () => {
  it('no clock, timer, chance, process, console or socket inside rollout, scheduling and machines', () => {
    const found: string[] = []
    for (const file of files.filter(({ path }) => PURE.includes(roomOf(path)))) {
      walk(file.tree, (node) => {
        const text = node.getText(file.tree)
        const line = lineOf(file.tree, node)
        if (text === 'Math.random') found.push(`${file.path}:${line} uses ${text}`)
        if (isGlobalUse(node) && EFFECTS.has(text)) found.push(`${file.path}:${line} uses ${text}`)
      })
    }
    expect(found).toEqual([])
  })
})
