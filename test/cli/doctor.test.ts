/**
 * `doctor`: what it says of servers that work, that lack something, and that are none; it always ends.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { type AddressInfo, createServer as createSocketServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, describe, expect, it, onTestFinished } from 'vitest'
import { runCommand } from '../../src/cli/command.ts'
import { doctorText, remarksOn } from '../../src/cli/doctor-report.ts'
import { createStyle } from '../../src/cli/io.ts'
import { type Capabilities, type Probe, probeInstance } from '../../src/index.ts'
import { type EmbeddedEngineOptions, startEmbeddedEngine } from '../../src/testing/index.ts'
import { fakeIo } from './fake-io.ts'

const closers: (() => Promise<void> | void)[] = []
afterEach(async () => {
  for (const close of closers.splice(0)) await close()
})
afterAll(() => expect(closers).toEqual([]))

async function engine(options: EmbeddedEngineOptions = {}): Promise<string> {
  const { url, close } = await startEmbeddedEngine(options)
  closers.push(close)
  return url
}

async function listen(server: Pick<Server, 'listen' | 'address'> & { close(): unknown }): Promise<string> {
  await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve))
  closers.push(() => void server.close())
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

/** Takes connections and never says anything. */
function frozen(): Promise<string> {
  const server = createSocketServer((socket) => closers.push(() => void socket.destroy()))
  return listen(server as unknown as Server)
}

async function doctor(...args: string[]) {
  const io = fakeIo()
  const code = await runCommand(['doctor', ...args], io)
  return { code, out: io.out, err: io.err, io }
}

describe('doctor', () => {
  it('says what a server is, what works and what to change', async () => {
    const url = await engine({ capacity: 5, weightVersion: '7', contextLength: 2_000 })
    const { code, out, err } = await doctor(url)
    expect({ code, err }).toEqual({ code: 0, err: '' })
    for (const words of [
      `${url}  can be used`,
      'sglang 0.5.23',
      '5 sequences at once',
      'version "7"',
      '2,000 tokens',
      'works       token ids in and out',
      'advice      start it with --incremental-streaming-output',
    ])
      expect(out).toContain(words)
    expect(out).toMatch(/^ {2}lacks {7}giving its GPU memory .*: it needs --enable-memory-saver\n {2}advice/m)
  })

  it('breaks long lines at blanks on a terminal, and keeps its columns; elsewhere a line stays a line', async () => {
    const url = await engine({ profile: 'openai' })
    const io = fakeIo({ isTTY: true, columns: 60 })
    await runCommand(['doctor', url, '--no-color'], io)
    const lines = io.out.trimEnd().split('\n')
    for (const line of lines) expect(line.length).toBeLessThanOrEqual(60)
    for (const line of lines.slice(1)) expect(line).toMatch(/^ {2}[a-z ]{11} \S/)
    const { out } = await doctor(url)
    const inWords = (text: string): string => text.replace(/\s+/g, ' ')
    expect(inWords(io.out)).toBe(inWords(out))
    expect(Math.max(...out.split('\n').map(({ length }) => length))).toBeGreaterThan(100)
  })

  it('gives the same as one JSON object', async () => {
    const url = await engine({ capacity: 5 })
    const { code, out } = await doctor(url, '--engine', 'sglang', '--json')
    expect(code).toBe(0)
    expect(JSON.parse(out)).toMatchObject({
      ok: true,
      instances: [{ url, usable: true, engine: 'sglang', capacity: 5, capabilities: { tokenIds: true }, fault: null }],
    })
  })

  it('names what is wrong with each server that cannot be used, and ends with 1', async () => {
    const good = await engine()
    const locked = await engine({ apiKey: 'secret' })
    const page = await listen(createServer((_, response) => response.end('<html>')))
    const nothing = 'http://127.0.0.1:1'
    const { code, out } = await doctor(good, locked, page, nothing)
    expect(code).toBe(1)
    for (const words of [
      `${good}  can be used`,
      `${locked}  cannot be used`,
      '401',
      'check the api key',
      'expected one of the engines sglang',
      'ECONNREFUSED',
      '1 of 4 servers can be used',
    ])
      expect(out).toContain(words)
    const json = JSON.parse((await doctor(good, nothing, '--json')).out)
    expect(json).toMatchObject({
      ok: false,
      instances: [{ fault: null }, { usable: false, fault: { code: 'UNREACHABLE' } }],
    })
  })

  it('takes the key from the environment and servers from the config file', async () => {
    const url = await engine({ apiKey: 'secret' })
    const io = fakeIo()
    io.env = { ROLLOUT_SUPERVISOR_API_KEY: 'secret', ROLLOUT_SUPERVISOR_URL: url }
    expect(await runCommand(['doctor'], io)).toBe(0)
    expect(io.out).not.toContain('secret')
  })

  it('names every mistake of flags, environment and config file at once', async () => {
    const io = fakeIo()
    const folder = mkdtempSync(join(tmpdir(), 'rollout-supervisor-doctor-'))
    onTestFinished(() => rmSync(folder, { recursive: true }))
    const path = join(folder, 'wrong.json')
    writeFileSync(path, JSON.stringify({ typo: 1, instances: [{ url: 'a' }, { url: 'http://b', weight: -1 }] }))
    io.env = { ROLLOUT_SUPERVISOR_CONFIG: path, ROLLOUT_SUPERVISOR_JSON: 'maybe' }
    expect(await runCommand(['doctor', '--weights', 'x', '--timeout', 'soon'], io)).toBe(2)
    for (const words of [
      'typo: expected one of',
      'instances[0].url: expected a base URL',
      'instances[1].weight: expected a number',
      'ROLLOUT_SUPERVISOR_JSON: expected true or false',
      '--timeout: expected a time',
      '--weights: expected --conformance',
      '--weights: expected two checkpoints',
    ])
      expect(io.err).toContain(words)
  })

  it('ends within its time at a server that is silent, and at one that never stops talking', async () => {
    const silent = await frozen()
    const endless = await listen(
      createServer((_, response) => {
        const timer = setInterval(() => response.write(' '), 5)
        response.on('close', () => clearInterval(timer))
      }),
    )
    const { code, out } = await doctor(silent, endless, '--timeout', '200ms')
    expect(code).toBe(1)
    expect(out.match(/expected answers within 0.2 s, found none/g)).toHaveLength(2)
  })

  it('SIGINT ends it at once with 130', async () => {
    const url = await frozen()
    const io = fakeIo()
    const result = runCommand(['doctor', url], io)
    await new Promise((resolve) => setImmediate(resolve))
    while (io.listeners.get('SIGINT') === undefined) await new Promise((resolve) => setImmediate(resolve))
    io.listeners.get('SIGINT')!()
    expect(await result).toBe(130)
    expect(io.out).toBe('')
  })

  it.each([
    [[], 'expected the urls of servers'],
    [['10.0.0.1:80'], 'instances[0].url: expected a base URL'],
    [['http://a', 'http://a'], 'instances[1].url: expected another url than that of instances[0]'],
    [['http://a', '--url', 'http://b'], 'found both'],
    [['http://a', '--engine', 'tgi'], '--engine: expected one of sglang'],
    [['http://a', '--timeout', '0'], '--timeout: expected a time above 0'],
    [['http://a', '--pause'], '--pause: expected --conformance with it'],
    [['http://a', '--conformance', '--weights', '/a'], '--weights: expected two checkpoints'],
  ])('%j is refused with 2', async (args, words) => {
    const { code, out, err } = await doctor(...args)
    expect({ code, out }).toEqual({ code: 2, out: '' })
    expect(err).toContain(words)
  })
})

describe('doctor --conformance', () => {
  it('tries everything out, and says what works, what does not, and what that means for training data', async () => {
    const url = await engine({ profile: 'openai' })
    const { code, out, err } = await doctor(url, 'http://127.0.0.1:1', '--conformance', '--idle', '1ms')
    expect({ code, err }).toEqual({ code: 1, err: '' })
    for (const words of [
      url,
      /^ {2}stream +works +\d+ characters in \d+ chunks$/m,
      /^ +-> tokens are kept as they come: an interruption loses none$/m,
      /^ {2}log-probabilities +not offered +the server shows no token ids$/m,
      /^ +-> no importance ratios/m,
      / {2}openai .*: 2 work, 0 do not, \d+ not offered, 0 skipped/,
      'http://127.0.0.1:1  cannot be used',
    ])
      expect(out).toMatch(words)
  })

  it('gives the same as one JSON object', async () => {
    const url = await engine({ profile: 'openai' })
    const { code, out } = await doctor(url, '--conformance', '--idle', '1ms', '--json')
    expect(code).toBe(0)
    const { ok, instances } = JSON.parse(out)
    expect(ok).toBe(true)
    expect(instances).toMatchObject([{ url, fault: null, report: { engine: 'openai', conforms: true } }])
    expect(instances[0].report.results[0]).toMatchObject({ name: 'probe', outcome: 'not offered' })
  })
})

describe('the report', () => {
  const capabilities: Capabilities = {
    tokenIds: false,
    logprobs: 'raw',
    abortById: false,
    versions: 'none',
    updateWeights: false,
    loadReport: false,
    pause: [],
    release: false,
  }
  const probe: Probe = {
    engine: 'openai',
    engineVersion: null,
    capacity: null,
    weightVersion: null,
    vocabularySize: null,
    contextLength: null,
    paused: true,
    capabilities,
    advice: [],
  }

  it('says of every capability that is missing what that means', () => {
    expect(remarksOn(probe).filter(({ good }) => good)).toEqual([])
    expect(remarksOn(probe)).toHaveLength(Object.keys(capabilities).length)
    const text = doctorText([{ url: 'http://a', probe, fault: null }], createStyle(false), Number.POSITIVE_INFINITY)
    for (const words of ['paused', 'it does not say', 'no version', 'lacks       token ids', 'begins again'])
      expect(text).toContain(words)
    expect(text).not.toContain('works')
  })
})

describe('probeInstance', () => {
  it('is over when its signal is, with the reason', async () => {
    const url = await frozen()
    const controller = new AbortController()
    const result = probeInstance({ url }, { signal: controller.signal })
    controller.abort()
    await expect(result).rejects.toMatchObject({ code: 'CANCELLED' })
  })

  it('refuses options that cannot be used', async () => {
    await expect(probeInstance({ url: 'nowhere' })).rejects.toMatchObject({ code: 'INVALID_OPTIONS' })
  })
})
