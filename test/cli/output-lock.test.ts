/**
 * The lock beside an output, looked at in the middle of being made, and on file systems that have no links.
 */
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, expect, test, vi } from 'vitest'
import { lockOutput } from '../../src/cli/output-lock.ts'

/** Called between the making of a file and its writing, which is one call only to those who make it. */
let inBetween = (): void => {}
let hasLinks = true

vi.mock('node:fs', async (original) => {
  const real = await original<typeof fs>()
  return {
    ...real,
    writeFileSync(path: string, text: string, { flag = 'w' }: { flag?: string } = {}) {
      const file = real.openSync(path, flag)
      inBetween()
      real.writeSync(file, text)
      real.closeSync(file)
    },
    linkSync(from: string, to: string) {
      if (hasLinks) real.linkSync(from, to)
      else throw Object.assign(new Error('links are not there'), { code: 'EPERM' })
    },
  }
})

const folder = fs.mkdtempSync(join(tmpdir(), 'rollout-supervisor-lock-'))
const path = join(folder, 'out.jsonl')
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }))
afterEach(() => {
  inBetween = () => {}
  hasLinks = true
})

test('is never there and empty, which another run would take for one that nobody holds', () => {
  let looks = 0
  inBetween = () => {
    looks += 1
    expect(fs.existsSync(`${path}.lock`)).toBe(false)
  }
  const unlock = lockOutput(path)
  expect(looks).toBe(1)
  expect(JSON.parse(fs.readFileSync(`${path}.lock`, 'utf8'))).toMatchObject({ pid: process.pid })
  expect(fs.readdirSync(folder)).toEqual(['out.jsonl.lock'])
  unlock()
  expect(fs.readdirSync(folder)).toEqual([])
})

test('keeps a second run out where there are no links, too', () => {
  hasLinks = false
  const unlock = lockOutput(path)
  expect(() => lockOutput(path)).toThrow('expected an output that no other run writes')
  unlock()
  lockOutput(path)()
  expect(fs.readdirSync(folder)).toEqual([])
})
