/**
 * The rules of style that a machine can check: one concept a file and none too long, one folder level inside src,
 * every file opened by a comment that says what it answers for, no `any`, nothing left for later.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import ts from 'typescript'
import { describe, expect, it } from 'vitest'
import { lineOf, root, sources, walk } from './sources.ts'

/** Lines a file may have (architecture: most are under 120, none over 350). */
const MOST_LINES = 350
/** Lines the opening comment of a file of the package may have; shorter ones say too little, longer ones are docs. */
const MOST_OPENING_LINES = 24

const shipped = sources(['src', 'machines'])
const all = sources(['src', 'machines', 'test', 'examples'])
interface Locked {
  readonly resolved?: string
  readonly integrity?: string
  readonly optional?: boolean
  readonly optionalDependencies?: Readonly<Record<string, string>>
}

const own = /^test\/house\//

describe('the files of the project', () => {
  it('none is longer than 350 lines', () => {
    const long = all.filter((file) => file.lines > MOST_LINES).map((file) => `${file.path}: ${file.lines} lines`)
    expect(long).toEqual([])
  })

  it('src has one folder level, machines none', () => {
    const deep = shipped
      .map((file) => file.path)
      .filter((path) => !/^(src\/([a-z-]+\/)?|machines\/)[a-z0-9-]+\.ts$/.test(path))
    expect(deep).toEqual([])
  })

  it('each opens with a block comment that says what it is responsible for', () => {
    const silent = all
      .filter(({ path }) => !/^test\/(package\/consumers\/|e2e\/engines\/[\w-]+\.mjs$)/.test(path))
      .filter((file) => opening(file.text) === null)
      .map((file) => file.path)
    expect(silent).toEqual([])
    const talkative = shipped.filter((file) => (opening(file.text)?.split('\n').length ?? 0) > MOST_OPENING_LINES)
    expect(talkative.map((file) => file.path)).toEqual([])
  })

  it('none says any', () => {
    const found: string[] = []
    for (const file of all) {
      walk(file.tree, (node) => {
        if (node.kind === ts.SyntaxKind.AnyKeyword) found.push(`${file.path}:${lineOf(file.tree, node)}`)
      })
    }
    expect(found).toEqual([])
  })

  it('none is left for later: no TODO, FIXME, XXX or placeholder, no switched-off checks', () => {
    const found = all
      .filter((file) => !own.test(file.path))
      .flatMap((file) =>
        file.text
          .split('\n')
          .map((line, index) => ({ line, where: `${file.path}:${index + 1}` }))
          .filter(({ line }) => /\b(TODO|FIXME|XXX|HACK)\b|\bplaceholder\b|@ts-(ignore|nocheck)/.test(line))
          .map(({ line, where }) => `${where}: ${line.trim()}`),
      )
    expect(found).toEqual([])
  })

  it('the lock file names no registry, and npm can check what it installs by it', () => {
    const lock = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as {
      packages: Record<string, Locked>
    }
    const packages = Object.entries(lock.packages).filter(([path]) => path !== '')
    expect(packages.filter(([, entry]) => entry.resolved !== undefined).map(([path]) => path)).toEqual([])
    // Binaries for other systems may lack it: not every registry has them.
    const unchecked = packages.filter(([, { integrity, optional }]) => integrity === undefined && optional !== true)
    expect(unchecked.map(([path]) => path)).toEqual([])
  })

  it('the lock file has an entry for every optional package, without which npm ci refuses it', () => {
    const lock = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as {
      packages: Record<string, Locked>
    }
    const missing = Object.entries(lock.packages).flatMap(([path, { optionalDependencies }]) =>
      Object.keys(optionalDependencies ?? {}).filter(
        (name) => !(`node_modules/${name}` in lock.packages) && !(`${path}/node_modules/${name}` in lock.packages),
      ),
    )
    expect(missing).toEqual([])
  })
})

function opening(text: string): string | null {
  return /^(?:#![^\n]*\n)?\s*(\/\*[\s\S]*?\*\/)/.exec(text)?.[1] ?? null
}
