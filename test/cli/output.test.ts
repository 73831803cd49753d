/**
 * The output file as memory: cut at any byte and opened again it holds whole lines only and knows what they are; what is not
 * ours is left alone; two runs never share it.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, describe, expect, it, onTestFinished, vi } from 'vitest'
import { batchLine, sampleLine } from '../../src/cli/completion-line.ts'
import { createLineSink } from '../../src/cli/line-sink.ts'
import { openOutput, outputFailure } from '../../src/cli/output.ts'
import { type Completion, RolloutError } from '../../src/index.ts'
import type { PromptLine } from '../../src/input/line-fields.ts'
import { fakeIo } from './fake-io.ts'

const folder = mkdtempSync(join(tmpdir(), 'rollout-supervisor-output-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))
let files = 0
const fresh = () => join(folder, `${++files}.jsonl`)

const { signal } = new AbortController()
const reopen = (path: string, retryFailed = false) => openOutput({ path, retryFailed, signal }, fakeIo())

function own(id: string | number, samples: number): PromptLine {
  return { id, prompt: 'x', samples, sampling: {}, meta: { of: id }, names: {}, batch: null }
}
const request: PromptLine & { batch: NonNullable<PromptLine['batch']> } = {
  ...own('req', 2),
  batch: { chat: true, model: 'm', logprobs: true, promptTokens: 3 },
}

function completion(sample: number, outcome: Completion['outcome'] = 'completed'): Completion {
  const failed = outcome !== 'completed'
  return {
    id: `t/${sample}`,
    taskId: 't',
    sample,
    kind: 'rollout',
    outcome,
    finishReason: failed ? null : 'stop',
    text: 'é"\\字}',
    tokenIds: Int32Array.of(1, 2),
    logprobs: Float32Array.of(-0.5, -1),
    versions: [{ version: null, start: 0, end: 2 }],
    logprobBasis: 'sampled',
    segments: [],
    timings: { waitedMs: 1.23456, firstTokenMs: null, totalMs: 2 },
    error: failed ? new RolloutError('TRANSPORT', 'it broke') : null,
    meta: null,
  }
}

const LINES = [
  sampleLine(own('a', 2), 0, completion(0)),
  sampleLine(own('a', 2), 1, completion(1, 'failed')),
  sampleLine(own(7, 1), 0, completion(0)),
  batchLine(request, [completion(0), completion(1)], 1),
  sampleLine(own('字"', 1), 0, completion(0)),
]
const KEYS = [own('a', 2), own(7, 1), request, own('字"', 1)]

describe('lines of the output', () => {
  it('carry the sample, its tokens and the meta of its line', () => {
    expect(JSON.parse(LINES[0]!)).toEqual({
      id: 'a',
      sample: 0,
      outcome: 'completed',
      finishReason: 'stop',
      text: 'é"\\字}',
      tokenIds: [1, 2],
      logprobs: [-0.5, -1],
      logprobBasis: 'sampled',
      versions: [{ version: null, start: 0, end: 2 }],
      error: null,
      timings: { waitedMs: 1.23, firstTokenMs: null, totalMs: 2 },
      meta: { of: 'a' },
    })
    const error = { code: 'TRANSPORT', message: 'it broke', retryable: true, instance: null, status: null }
    expect(JSON.parse(LINES[1]!)).toMatchObject({ outcome: 'failed', error })
  })

  it('answer a batch request in its own form, with what failed beside what did not', () => {
    const whole = JSON.parse(LINES[3]!)
    expect(whole).toMatchObject({ custom_id: 'req', error: null, response: { status_code: 200 } })
    const { body } = whole.response
    expect(body).toMatchObject({
      object: 'chat.completion',
      model: 'm',
      usage: { prompt_tokens: 3, completion_tokens: 4, total_tokens: 7 },
    })
    expect(body.choices[1]).toMatchObject({
      index: 1,
      message: { role: 'assistant', content: 'é"\\字}' },
      finish_reason: 'stop',
      logprobs: { content: [{ token: 'token_id:1', logprob: -0.5 }, { token: 'token_id:2' }] },
      token_ids: [1, 2],
    })
    const part = JSON.parse(batchLine(request, [completion(0), completion(1, 'failed')], 1))
    expect(part.error).toEqual({ code: 'TRANSPORT', message: 'it broke' })
    expect(part.response.body.choices).toHaveLength(1)
    const none = JSON.parse(batchLine(request, [completion(0, 'failed'), completion(1, 'expired')], 1))
    expect(none).toMatchObject({ response: null, error: { message: '2 samples failed; the first: it broke' } })
  })
})

describe('the output file', () => {
  it('cut anywhere: whole lines stay, the torn one goes, and each sample is known or missing as it should be', async () => {
    const text = Buffer.from(LINES.join(''))
    const path = fresh()
    const ends = LINES.map((_, index) => Buffer.byteLength(LINES.slice(0, index + 1).join('')))
    const cuts = Array.from({ length: text.length + 1 }, (_, cut) => cut).filter(
      (cut) => cut % 13 === 0 || ends.some((end) => Math.abs(cut - end) <= 3),
    )
    for (const cut of cuts) {
      writeFileSync(path, text)
      truncateSync(path, cut)
      const output = await reopen(path)
      const before = text.subarray(0, cut).toString().split('\n').length - 1
      // A last line that only lacks its line break is whole.
      const whole = ends.filter((end) => end - 1 <= cut).length
      expect([before, before + 1]).toContain(whole)
      const has = (index: number) => index < whole
      expect(KEYS.map((key) => output.memory.missing(key))).toEqual([
        [0, 1].filter((index) => !has(index)),
        has(2) ? [] : [0],
        has(3) ? [] : [0, 1],
        has(4) ? [] : [0],
      ])
      await output.put(LINES.slice(whole).join(''))
      await output.close()
      expect(readFileSync(path).equals(text)).toBe(true)
    }
    expect(existsSync(`${path}.lock`)).toBe(false)
  })

  it('with --retry-failed forgets what failed, and keeps the rest as it is', async () => {
    const path = fresh()
    const link = fresh()
    writeFileSync(path, LINES.join(''))
    symlinkSync(path, link)
    const plain = await reopen(link)
    expect(plain.memory.failed).toBe(1)
    await plain.close()
    const output = await reopen(link, true)
    expect(output.memory.failed).toBe(0)
    expect(output.memory.missing(KEYS[0]!)).toEqual([1])
    await output.put(LINES[1]!)
    await output.close()
    expect(readFileSync(path, 'utf8')).toBe([...LINES.filter((_, index) => index !== 1), LINES[1]].join(''))
    expect(existsSync(`${path}.retry`)).toBe(false)
  })

  it('reads lines whose fields another program has put in another order', async () => {
    const path = fresh()
    writeFileSync(path, '{"outcome":"completed","sample":1,"id":"a"}\n{"response":{},"error":null,"custom_id":"req"}\n')
    const output = await reopen(path)
    expect(KEYS.slice(0, 3).map((key) => output.memory.missing(key))).toEqual([[0], [0], []])
    await output.close()
  })

  it.each([
    ['notes\n', 'line 1 is not one that run has written'],
    ['notes', 'line 1 is not one that run has written'],
    [`${LINES[0]}[1,2]\n${LINES[2]}`, 'line 2 is not one that run has written'],
    [Buffer.from([0xff, 0xfe, 0xfd, 0x00, 0x80]), 'is not one that run has written'],
    [Buffer.from([0x89, 0x50, 0x4e, 0x47, 0xff]), 'is not one that run has written'],
  ])('that is somebody else’s is refused and not changed (%#)', async (content, words) => {
    const path = fresh()
    writeFileSync(path, content)
    await expect(reopen(path)).rejects.toThrow(words)
    expect(readFileSync(path).equals(Buffer.from(content))).toBe(true)
    expect(existsSync(`${path}.lock`)).toBe(false)
  })

  it('that is a folder, in no folder, or cannot be written is refused', async () => {
    await expect(reopen(folder)).rejects.toThrow('expected a file, found a folder')
    await expect(reopen(join(folder, 'none', 'x'))).rejects.toThrow(
      'expected a file that can be written, found: ENOENT',
    )
    await expect(reopen('/dev/null/x')).rejects.toThrow('expected a file that can be written')
  })

  it('a device is only written to, and a full one says so', async () => {
    const output = await reopen('/dev/full')
    const error: Error = await output.put(LINES[0]!).then(
      () => expect.fail('it was written'),
      (reason) => reason,
    )
    expect(outputFailure('/dev/full', error).message).toContain('no space left')
    await output.close()
  })
})

describe('a disk that says only at the end that it is full', () => {
  it('is named as such, and the output is unlocked', async () => {
    const path = fresh()
    const output = await reopen(path)
    await output.put(LINES[0]!)
    const file = await open(path, 'r')
    const prototype = Object.getPrototypeOf(file) as typeof file
    await file.close()
    const full = Object.assign(new Error('ENOSPC: no space left on device, fsync'), { code: 'ENOSPC' })
    const sync = vi.spyOn(prototype, 'sync').mockRejectedValue(full)
    onTestFinished(() => sync.mockRestore())
    await expect(output.close()).rejects.toThrow(`${path}: no space left; every line in it is whole`)
    expect(existsSync(`${path}.lock`)).toBe(false)
  })
})

describe('the lock of the output', () => {
  it('keeps a second run out until the first has closed', async () => {
    const path = fresh()
    const first = await reopen(path)
    await expect(reopen(path)).rejects.toThrow(`found that process ${process.pid} does (${path}.lock)`)
    await first.close()
    await (await reopen(path)).close()
  })

  it.each([
    ['of a dead process', () => JSON.stringify({ pid: deadPid(), host: hostname(), began: '1' })],
    ['of an earlier process with our number', () => JSON.stringify({ pid: process.pid, host: hostname(), began: '1' })],
    ['that was never written', () => ''],
  ])('%s is taken over', async (_, content) => {
    const path = fresh()
    writeFileSync(`${path}.lock`, content())
    await (await reopen(path)).close()
    expect(existsSync(`${path}.lock`)).toBe(false)
  })

  it.each([
    ['of a living process', () => JSON.stringify({ pid: process.ppid, host: hostname(), began: null })],
    ['of another machine', () => JSON.stringify({ pid: 1, host: 'elsewhere.example', began: '1' })],
  ])('%s counts', async (_, content) => {
    const path = fresh()
    writeFileSync(`${path}.lock`, content())
    await expect(reopen(path)).rejects.toThrow('expected an output that no other run writes')
    expect(readFileSync(`${path}.lock`, 'utf8')).toBe(content())
  })
})

describe('the line sink', () => {
  it('writes every line once, in order, and tells when', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.integer({ min: 0, max: 3 }), { maxLength: 50, size: 'max' }), async (pauses) => {
        let [text, told] = ['', 0]
        const sink = createLineSink(async (part) => {
          await Promise.resolve()
          text += part
        }, unexpected)
        for (const [index, pause] of pauses.entries()) {
          sink.write(`${index}\n`, () => told++)
          for (let turn = 0; turn < pause; turn++) await Promise.resolve()
        }
        await sink.flush()
        expect(text).toBe(pauses.map((_, index) => `${index}\n`).join(''))
        expect(told).toBe(pauses.length)
      }),
    )
  })

  it('ends with its first failure', async () => {
    const failures: Error[] = []
    const sink = createLineSink(
      () => Promise.reject(new Error('full')),
      (error) => failures.push(error),
    )
    sink.write('a\n', () => expect.fail('it was written'))
    await sink.flush()
    sink.write('b\n', () => expect.fail('it was written'))
    await sink.flush()
    expect(failures).toEqual([sink.failure])
  })
})

function unexpected(error: Error): never {
  throw error
}

/** The number of a process that has just ended. */
function deadPid(): number {
  return spawnSync(process.execPath, ['-e', '']).pid
}
