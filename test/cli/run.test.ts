/**
 * `run` over embedded engines: both input forms, what cannot be used, and layers of settings.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { Readable } from 'node:stream'
import { beforeAll, describe, expect, it } from 'vitest'
import { runCommand } from '../../src/cli/command.ts'
import { engineNames } from '../../src/index.ts'
import type { EmbeddedEngine } from '../../src/testing/index.ts'
import { fakeIo } from './fake-io.ts'
import { fastEngine, fileOf, freshPath, keysOf, keysOfPrompts, prompts, rowsIn, rowsOf, run } from './run-fixtures.ts'

let engine: EmbeddedEngine
let fleet: string[]
beforeAll(async () => {
  engine = await fastEngine()
  const second = await fastEngine({ seed: 2 })
  fleet = ['--url', engine.url, '--url', second.url, '--max-tokens', '8']
})

describe('run', () => {
  it('writes one line for each sample to stdout, and the summary to stderr', async () => {
    const { code, out, err } = await run([fileOf(prompts(10, 2)), ...fleet])
    expect(code).toBe(0)
    const rows = rowsOf(out)
    expect(keysOf(rows)).toEqual(keysOfPrompts(10, 2))
    for (const row of rows) {
      expect(row).toMatchObject({ outcome: 'completed', error: null, meta: null })
      expect(row.logprobs).toHaveLength(row.tokenIds.length)
    }
    expect(err).toMatch(/^20 completed, 0 failed, [\d,]+ tokens in [\d.]+ s \([\d,]+ a second\)\n$/)
  })

  it('takes text, messages and ids, samples, sampling and meta from the line before the flags', async () => {
    const path = fileOf([
      { id: 'text', prompt: 'abc', meta: { mine: [1] } },
      { id: 5, promptTokenIds: [3], samples: 1, sampling: { maxTokens: 1 } },
    ])
    const { code, out } = await run([path, ...fleet, '--samples', '3', '--engine', 'sglang'])
    expect(code).toBe(0)
    const rows = rowsOf(out)
    expect(keysOf(rows)).toEqual(['5/0', 'text/0', 'text/1', 'text/2'])
    const numbered = rows.find(({ id }) => (id as unknown) === 5)
    expect(numbered?.tokenIds).toHaveLength(1)
    expect(rows.find(({ id }) => id === 'text')?.meta).toEqual({ mine: [1] })
  })

  it('answers the OpenAI batch form in that form, one line for each request', async () => {
    const lines = Array.from({ length: 4 }, (_, index) => ({
      custom_id: `r${index}`,
      method: 'POST',
      url: '/v1/completions',
      body: { model: 'm', prompt: [index], n: 3, max_tokens: 4 },
    }))
    const { code, out } = await run([fileOf(lines), ...fleet])
    expect(code).toBe(0)
    const answers = rowsOf(out) as unknown as {
      custom_id: string
      error: null
      response: { body: { choices: { index: number }[] } }
    }[]
    expect(answers.map((each) => each.custom_id).toSorted()).toEqual(['r0', 'r1', 'r2', 'r3'])
    for (const { error, response } of answers) {
      expect(error).toBeNull()
      expect(response.body.choices.map(({ index }) => index)).toEqual([0, 1, 2])
    }
  })

  it('says why samples failed, of which the output has the rest', async () => {
    const path = fileOf([{ id: 'long', promptTokenIds: Array.from({ length: 5_000 }, () => 1), samples: 2 }])
    const { code, err } = await run([path, ...fleet])
    expect(code).toBe(1)
    expect(err).toMatch(
      /^0 completed, 2 failed, 0 tokens in \S+ s\nfirst failure, sample \d of "long": .*context length/,
    )
  })

  it('the same seed samples the same, line by line', async () => {
    const steady = await fastEngine({ deterministic: true })
    const sample = async () => {
      const args = [fileOf(prompts(5, 2)), '--url', steady.url, '--seed', '4', '--max-tokens', '8']
      return rowsOf((await run(args)).out)
        .map(({ id, sample: index, tokenIds }) => `${id}/${index} ${tokenIds}`)
        .toSorted()
    }
    expect(await sample()).toEqual(await sample())
  })

  it('reads stdin', async () => {
    const text = prompts(3)
      .map((line) => JSON.stringify(line))
      .join('\n')
    const { code, out } = await run(['-', ...fleet], (io) => {
      io.input = Readable.from([Buffer.from(text.slice(0, 20)), Buffer.from(text.slice(20))])
    })
    expect(code).toBe(0)
    expect(keysOf(rowsOf(out))).toEqual(keysOfPrompts(3))
  })

  it('--demo-fleet needs no server', async () => {
    const { code, out } = await run([
      fileOf([{ id: 'a', prompt: 'hello' }]),
      '--demo-fleet',
      '--max-tokens',
      '4',
      '--quiet',
    ])
    expect(code).toBe(0)
    expect(keysOf(rowsOf(out))).toEqual(['a/0'])
  })

  it('reports each line that cannot be used with its number, runs the others, and ends with 1', async () => {
    const path = freshPath()
    const good = (id: string) => `${JSON.stringify({ id, promptTokenIds: [1] })}\n`
    const bad = [
      good('a'),
      '{"id": "torn\n',
      good('a'),
      '\n',
      '{"id":"b"}\n',
      Buffer.from([0x22, 0xff, 0x22, 10]),
      '{"id":"c","promptTokenIds":[-1]}\n',
      '{"id":"d","prompt":"x","sampling":{"temprature":1}}\n',
      good('c'),
      '{"custom_id":"f","method":"POST","url":"/v1/completions","body":{"prompt":[],"max_tokens":-1}}\n',
      good('e').trimEnd(),
    ]
    writeFileSync(path, Buffer.concat(bad.map((part) => Buffer.from(part))))
    const { code, out, err } = await run([path, ...fleet, '--json'])
    expect(code).toBe(1)
    expect(keysOf(rowsOf(out))).toEqual(['a/0', 'c/0', 'e/0'])
    const lines = err.trimEnd().split('\n')
    expect(JSON.parse(lines.pop()!)).toMatchObject({ ok: false, lines: 10, unusable: 7, completed: 3, failed: 0 })
    expect(lines).toEqual([
      expect.stringContaining('line 2: expected a JSON object'),
      expect.stringContaining('line 3: expected an id of its own, found "a" also in line 1'),
      expect.stringContaining('line 5: prompt | messages | promptTokenIds: expected one of them'),
      expect.stringContaining('line 6: expected UTF-8'),
      expect.stringContaining('line 7: promptTokenIds[0]: expected a token id'),
      expect.stringContaining('line 8: sampling.temprature: expected one of'),
      expect.stringMatching(/^line 10: body.prompt: expected at least one .*; body.max_tokens: expected an integer/),
    ])
  })

  it('takes an input of another encoding where it says so', async () => {
    const path = freshPath()
    writeFileSync(path, Buffer.from(`\ufeff${JSON.stringify({ id: 'é', prompt: 'x' })}\r\n`, 'utf16le'))
    const { code, out } = await run([path, ...fleet])
    expect(code).toBe(0)
    expect(keysOf(rowsOf(out))).toEqual(['é/0'])
  })

  it.each([
    ['a file that is not there', () => [freshPath(), ...fleet], 'expected a file of prompts, found: ENOENT'],
    ['a folder', () => [folderPath(), ...fleet], 'expected a file of prompts, found a folder'],
    ['two servers with one url', () => [fileOf([]), '--url', engine.url, '--url', engine.url], 'expected another url'],
    ['an output that is a folder', () => [fileOf([]), ...fleet, '--output', folderPath()], 'found a folder'],
    [
      'wrong options in the config file',
      () => [fileOf([]), ...fleet, '--config', wrong()],
      'timeouts.waitMs: expected a number',
    ],
  ])('%s is refused with 2', async (_, args, words) => {
    const { code, out, err } = await run(args())
    expect({ code, out }).toEqual({ code: 2, out: '' })
    expect(err).toContain(words)
  })

  it('an output that is the input is refused, and stays as it is', async () => {
    const path = fileOf(prompts(2))
    const before = readFileSync(path, 'utf8')
    const { code, err } = await run([path, ...fleet, '--output', path])
    expect(code).toBe(2)
    expect(err).toContain('expected another file than the prompts')
    expect(readFileSync(path, 'utf8')).toBe(before)
  })

  it('a fleet that does not answer, or refuses the key, ends with 1 and says so; nothing is written', async () => {
    const locked = await fastEngine({ apiKey: 'secret' })
    for (const [url, words] of [
      ['http://127.0.0.1:1', 'ECONNREFUSED'],
      [locked.url, '401'],
    ] as const) {
      const output = freshPath()
      const { code, err } = await run([fileOf(prompts(1)), '--url', url, '--output', output])
      expect(code).toBe(1)
      expect(err).toContain(words)
      expect(readFileSync(output, 'utf8')).toBe('')
    }
  })

  it('goes on with the servers that answer, and names the one that does not', async () => {
    const { code, out, err } = await run([fileOf(prompts(4)), ...fleet, '--url', 'http://127.0.0.1:1'])
    expect(code).toBe(0)
    expect(rowsOf(out)).toHaveLength(4)
    expect(err).toContain('http://127.0.0.1:1')
  })

  it.each(engineNames)(
    'a wrong key for one of two %s: the lines are done by the other, and it is said which (decision 17)',
    async (profile) => {
      const options = { profile, ...(profile === 'vllm' ? { logprobsMode: 'processed_logprobs' as const } : {}) }
      const [locked, free] = [
        await fastEngine({ ...options, apiKey: 'right' }),
        await fastEngine({ ...options, apiKey: 'k' }),
      ]
      const path = fileOf(Array.from({ length: 4 }, (_, index) => ({ id: `p${index}`, prompt: 'abc' })))
      const args = [path, '--api-key', 'k', '--max-tokens', '4', '--url', locked.url]
      const { code, out, err } = await run([...args, '--url', free.url])
      expect(err).toContain(locked.url)
      expect(err).toMatch(/found 401: .*; check the api key of this instance/)
      expect(code).toBe(0)
      expect(keysOf(rowsOf(out))).toEqual(keysOfPrompts(4))
      const alone = await run([...args, '--engine', profile])
      expect({ code: alone.code, out: alone.out }).toEqual({ code: 1, out: '' })
      expect(alone.err).toMatch(/found 401: .*; check the api key of this instance/)
    },
  )

  it.each([
    [{}, true],
    [{ NO_COLOR: '1' }, false],
  ])('colours on a terminal with %j: %s', async (env, colours) => {
    const io = fakeIo({ isTTY: true })
    io.env = env
    expect(await runCommand(['run', fileOf(prompts(2)), ...fleet], io)).toBe(0)
    expect(io.err.includes('\u001b[1m')).toBe(colours)
    // Before the first server has answered.
    expect(io.err.startsWith('\r\u001b[2Kasking the servers what they are')).toBe(true)
  })

  it('log-probabilities of before temperature are taken only where --logprob-basis says so, and named', async () => {
    const raw = await fastEngine({ profile: 'vllm' })
    const args = [fileOf(prompts(1)), '--url', raw.url, '--temperature', '0.5', '--max-tokens', '4']
    const refused = await run(args)
    expect(refused.code).toBe(1)
    expect(rowsOf(refused.out)).toMatchObject([{ outcome: 'failed' }])
    const taken = await run([...args, '--logprob-basis', 'raw'])
    expect(taken.code).toBe(0)
    expect(rowsOf(taken.out)).toMatchObject([{ outcome: 'completed', logprobBasis: 'raw' }])
  })

  it('--verbose shows the log of the supervisor', async () => {
    const { code, err } = await run([fileOf(prompts(1)), ...fleet, '--verbose'])
    expect(code).toBe(0)
    expect(err).toContain('"msg":"instance answers"')
  })

  it('takes settings from the environment below flags', async () => {
    const { code, out } = await run([fileOf([{ id: 'p0', prompt: 'x' }]), '--max-tokens', '2'], (io) => {
      io.env = {
        ROLLOUT_SUPERVISOR_URL: engine.url,
        ROLLOUT_SUPERVISOR_SAMPLES: '2',
        ROLLOUT_SUPERVISOR_MAX_TOKENS: '9',
      }
    })
    expect(code).toBe(0)
    expect(keysOf(rowsOf(out))).toEqual(['p0/0', 'p0/1'])
    for (const { tokenIds } of rowsOf(out)) expect(tokenIds.length).toBeLessThanOrEqual(2)
  })
})

function folderPath(): string {
  const path = freshPath()
  mkdirSync(path)
  return path
}

function wrong(): string {
  return fileOf([{ timeouts: { waitMs: 'long' } }])
}

describe('the output of an earlier run', () => {
  it('is gone on from: nothing twice, nothing missing, and --retry-failed runs again what failed', async () => {
    const input = fileOf(prompts(6, 2))
    const output = freshPath()
    expect((await run([input, ...fleet, '--output', output])).code).toBe(0)
    const rows = rowsIn(output)
    const failed = { ...rows[0]!, outcome: 'failed', error: { code: 'TRANSPORT' } }
    writeFileSync(output, [...rows.slice(4), failed].map((row) => `${JSON.stringify(row)}\n`).join(''))

    const again = await run([input, ...fleet, '--output', output])
    expect(again.code).toBe(1)
    expect(again.err).toContain('3 completed, 0 failed, 9 done before')
    expect(again.err).toContain('1 failed in an earlier run: --retry-failed runs them again')
    expect(keysOf(rowsIn(output))).toEqual(keysOfPrompts(6, 2))

    const retried = await run([input, ...fleet, '--output', output, '--retry-failed', '--json'])
    expect(retried.code).toBe(0)
    expect(JSON.parse(retried.out)).toMatchObject({ ok: true, completed: 1, skipped: 11, failedBefore: 0 })
    expect(keysOf(rowsIn(output))).toEqual(keysOfPrompts(6, 2))
    expect(rowsIn(output).every(({ outcome }) => outcome === 'completed')).toBe(true)
  })

  it('is gone on from in the batch form as well', async () => {
    const input = fileOf(
      [0, 1].map((n) => ({ custom_id: `r${n}`, url: '/v1/completions', body: { prompt: [n], n: 2 } })),
    )
    const output = freshPath()
    await run([input, ...fleet, '--output', output])
    const [first] = readFileSync(output, 'utf8').split('\n')
    writeFileSync(output, `${first}\n{"id":"batch_req_`)
    const { code, err } = await run([input, ...fleet, '--output', output])
    expect(code).toBe(0)
    expect(err).toContain('2 completed, 0 failed, 2 done before')
    expect(
      rowsIn(output)
        .map((row) => row.custom_id)
        .toSorted(),
    ).toEqual(['r0', 'r1'])
  })
})
