/**
 * Settings in layers: flags win over the environment, which wins over the config file; every problem of every layer is named.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { readRunOptions } from '../../src/cli/run-options.ts'

const folder = mkdtempSync(join(tmpdir(), 'rollout-supervisor-settings-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

let files = 0
function config(value: unknown): string {
  const path = join(folder, `${++files}.json`)
  writeFileSync(path, typeof value === 'string' ? value : JSON.stringify(value))
  return path
}
const read = (args: string[], env: Record<string, string> = {}) => readRunOptions(['in.jsonl', ...args], env)!

describe('settings', () => {
  it('flags win over the environment, which wins over the config file', () => {
    const path = config({
      url: 'http://file',
      maxTokens: 1,
      temperature: 0.1,
      samples: 1,
      quiet: true,
      retry: { attempts: 2 },
    })
    const env = {
      ROLLOUT_SUPERVISOR_CONFIG: path,
      ROLLOUT_SUPERVISOR_URL: 'http://a, http://b',
      ROLLOUT_SUPERVISOR_MAX_TOKENS: '2',
      ROLLOUT_SUPERVISOR_TEMPERATURE: '0.2',
      ROLLOUT_SUPERVISOR_SEED: ' ',
      ROLLOUT_SUPERVISOR_STOP: '["a b"]',
      ROLLOUT_SUPERVISOR_QUIET: '0',
    }
    const options = read(['--max-tokens', '3'], env)
    expect(options.instances.map(({ url }) => url)).toEqual(['http://a', 'http://b'])
    expect(options.sampling).toEqual({ maxTokens: 3, temperature: 0.2, stop: ['a b'] })
    expect(options).toMatchObject({ samples: 1, quiet: false, supervisor: { retry: { attempts: 2 } } })
    expect(read(['--url', 'http://c'], env).instances).toEqual([{ url: 'http://c' }])
  })

  it('servers of the config file keep what they say, and get the rest from flags', () => {
    const instances = [{ url: 'http://a', engine: 'vllm', capacity: 3 }, { url: 'http://b' }]
    const path = config({ instances, url: ['http://c'] })
    expect(read(['--config', path, '--engine', 'sglang', '--api-key', 'k']).instances).toEqual([
      { url: 'http://c', engine: 'sglang', apiKey: 'k' },
      { url: 'http://a', engine: 'vllm', capacity: 3, apiKey: 'k' },
      { url: 'http://b', engine: 'sglang', apiKey: 'k' },
    ])
    expect(read(['--config', path, '--demo-fleet']).demoFleet).toBe(true)
  })

  it.each([
    ['{"samples": ', 'expected a file with a JSON object, found: Unexpected end'],
    ['[1]', 'expected a JSON object, found an array'],
    ['null', 'expected a JSON object, found null'],
    [{ sample: 1 }, 'sample: expected one of url, engine'],
    [{ instances: {} }, 'instances: expected an array of { url, engine }'],
  ])('a config file of %j is refused in words', (value, words) => {
    expect(() => read(['--config', config(value), '--url', 'http://a'])).toThrow(words)
  })

  it('a config file that is not there, or a folder, is refused in words', () => {
    expect(() => read(['--config', join(folder, 'none.json'), '--url', 'http://a'])).toThrow('ENOENT')
    expect(() => read(['--config', folder, '--url', 'http://a'])).toThrow('EISDIR')
  })

  it('names every problem of every layer at once', () => {
    const instances = [
      { url: 'http://a', capacity: 0 },
      { url: 'b', typo: 1 },
    ]
    const path = config({ samples: 0, maxTokens: 'x', typo: 1, instances, timeouts: { waitMs: 'long' } })
    const problems = [
      'expected one file of prompts, or - for stdin, found 2',
      'instances[0].capacity: expected an integer',
      'instances[1].url: expected a base URL',
      'instances[1].typo: expected',
      'timeouts.waitMs: expected a number',
      `${path}: samples: expected a whole number from 1 to 1024, found 0`,
      `${path}: maxTokens: expected a whole number`,
      `${path}: typo: expected one of`,
      'ROLLOUT_SUPERVISOR_TEMPERATURE: expected a number from 0 to 100, found "hot"',
      'ROLLOUT_SUPERVISOR_JSON: expected true or false, found "maybe"',
      '--grace: expected a time above 0 such as 500ms, 10s or 2m, found "soon"',
    ]
    const env = { ROLLOUT_SUPERVISOR_TEMPERATURE: 'hot', ROLLOUT_SUPERVISOR_JSON: 'maybe' }
    for (const problem of problems)
      expect(() => read(['--config', path, '--grace', 'soon', 'more.jsonl'], env)).toThrow(problem)
  })

  it.each([
    [[], 'expected servers: --url'],
    [['--url', 'http://a', '--demo-fleet'], 'expected either --url or --demo-fleet, found both'],
    [['more.jsonl', '--demo-fleet'], 'expected one file of prompts, or - for stdin, found 2'],
    [['--demo-fleet', '--retry-failed'], '--retry-failed: expected together with --output'],
    [['--url', ''], '--url: expected something that is not empty'],
  ])('%j is refused in words', (args, words) => {
    expect(() => read(args)).toThrow(words)
  })

  it('a number may be below zero', () => {
    expect(read(['--demo-fleet', '--top-k', '-1']).sampling.topK).toBe(-1)
    expect(() => read(['--demo-fleet', '--seed', '-1'])).toThrow('--seed: expected a whole number from 0')
  })

  it('durations have units, and are seconds without one', () => {
    const graceMs = (grace: string) => read(['--demo-fleet', '--grace', grace]).graceMs
    expect(['500ms', '1.5s', '2', '3m', '1h'].map(graceMs)).toEqual([500, 1_500, 2_000, 180_000, 3_600_000])
    expect(read(['--demo-fleet']).graceMs).toBe(25_000)
  })
})
