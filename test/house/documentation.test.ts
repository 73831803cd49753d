/**
 * The public face is documented: every name that a user can import has a doc comment at its declaration, and the
 * README names every option of createSupervisor. Both are read by the compiler from the code itself.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import ts from 'typescript'
import { beforeAll, describe, expect, it } from 'vitest'
import { root } from './sources.ts'

const ENTRIES = ['src/index.ts', 'machines/index.ts', 'src/testing/index.ts']
const OPTIONS = { file: 'src/options.ts', type: 'SupervisorOptions' }

let program: ts.Program
let checker: ts.TypeChecker

beforeAll(() => {
  const config = ts.getParsedCommandLineOfConfigFile(
    join(root, 'tsconfig.json'),
    { noEmit: true },
    {
      ...ts.sys,
      onUnRecoverableConfigFileDiagnostic: (d) => expect.fail(ts.flattenDiagnosticMessageText(d.messageText, '\n')),
    },
  )
  program = ts.createProgram(config?.fileNames ?? [], config?.options ?? {})
  checker = program.getTypeChecker()
}, 60_000)

describe('the public face', () => {
  it.each(ENTRIES)('every export of %s has a doc comment at its declaration', (entry) => {
    const names = exportsOf(entry)
    expect(names.length).toBeGreaterThan(0)
    const silent = names
      .map((symbol) => ({ name: symbol.name, target: declared(symbol) }))
      .filter(({ target }) => target.getDocumentationComment(checker).length === 0)
      .map(({ name, target }) => `${name} (${placeOf(target)})`)
    expect(silent).toEqual([])
  })

  it('the README names every option of createSupervisor', () => {
    const readme = readFileSync(join(root, 'README.md'), 'utf8')
    const type = exportsOf(OPTIONS.file).find((symbol) => symbol.name === OPTIONS.type)
    expect(type, `${OPTIONS.file} exports ${OPTIONS.type}`).toBeDefined()
    const options = type === undefined ? [] : optionNames(checker.getDeclaredTypeOfSymbol(type))
    expect(options.length).toBeGreaterThan(0)
    const unnamed = options.filter((path) => !new RegExp(`\\b${path.split('.').at(-1)}\\b`).test(readme))
    expect(unnamed).toEqual([])
  })
})

function exportsOf(path: string): ts.Symbol[] {
  const file = program.getSourceFile(join(root, path))
  const module = file && checker.getSymbolAtLocation(file)
  if (module === undefined) expect.fail(`${path} is not there, or exports nothing`)
  return checker.getExportsOfModule(module)
}

/** The symbol that an export stands for, in whichever file it is declared. */
function declared(symbol: ts.Symbol): ts.Symbol {
  return symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol
}

function placeOf(symbol: ts.Symbol): string {
  const declaration = symbol.declarations?.[0]
  if (declaration === undefined) return 'declared nowhere'
  const file = declaration.getSourceFile()
  const { line } = file.getLineAndCharacterOfPosition(declaration.getStart())
  return `${file.fileName.slice(root.length)}:${line + 1}`
}

/** Paths of the options of a type, down through the option types that are declared beside it. */
function optionNames(type: ts.Type, prefix = '', seen: ReadonlySet<ts.Type> = new Set()): string[] {
  if (seen.has(type)) return []
  return checker.getPropertiesOfType(type).flatMap((property) => {
    const path = `${prefix}${property.name}`
    const parts = unionOf(checker.getNonNullableType(checker.getTypeOfSymbol(property)))
    const nested = parts.flatMap((part) => {
      const element = checker.getIndexTypeOfType(part, ts.IndexKind.Number) ?? part
      return isOwn(element) ? optionNames(element, `${path}.`, new Set([...seen, type])) : []
    })
    return [path, ...nested]
  })
}

function unionOf(type: ts.Type): readonly ts.Type[] {
  return type.isUnion() ? type.types : [type]
}

/** Whether a type is an option record declared in the options file. */
function isOwn(type: ts.Type): boolean {
  if (!(type.flags & ts.TypeFlags.Object) || type.getCallSignatures().length > 0) return false
  const files = type.getSymbol()?.declarations?.map((declaration) => declaration.getSourceFile().fileName) ?? []
  return files.includes(join(root, OPTIONS.file))
}
