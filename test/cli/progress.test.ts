/**
 * The live line: rewritten on a terminal and not too often, plain elsewhere, never wider than the window, without colours where none are wanted.
 */
import { describe, expect, it } from 'vitest'
import { createStyle, type Output, wantsColor } from '../../src/cli/io.ts'
import { createProgress, type ProgressState, progressLine, sparkline } from '../../src/cli/progress.ts'

const state: ProgressState = {
  step: 12,
  steps: 40,
  rewards: [0, 0.25, 0.5, 0.99],
  score: 0.9,
  done: 16,
  total: 32,
  running: 64,
  waiting: 64,
  tokensPerSecond: 5_123.4,
  utilisation: 0.934,
  failed: 0,
  elapsedMs: 12_300,
  etaMs: 30_100,
}

function output(isTTY: boolean, columns = 80): Output & { text: string } {
  const sink = {
    text: '',
    isTTY,
    columns: () => columns,
    drained: () => Promise.resolve(),
    write(text: string) {
      sink.text += text
    },
  }
  return sink
}

describe('progress line', () => {
  it('shows step, reward, evaluation, groups, running, waiting, speed, utilisation, failures and time', () => {
    expect(progressLine(state, { columns: 200, color: false })).toBe(
      'step 12/40  reward 0.99 ▁▃▅█  eval 0.90  groups 16/32  running 64  waiting 64  5123 tok/s  busy 93 %  failed 0  12 s, ~30 s left',
    )
    expect(
      progressLine(
        { ...state, steps: null, etaMs: null, rewards: [], score: null, tokensPerSecond: 51_234 },
        { columns: 200, color: false },
      ),
    ).toBe('step 12  groups 16/32  running 64  waiting 64  51.2k tok/s  busy 93 %  failed 0  12 s')
  })

  it('is never wider than the window', () => {
    for (let columns = 0; columns < 140; columns++) {
      expect(progressLine(state, { columns, color: false }).length).toBeLessThanOrEqual(columns)
    }
  })

  it('has colours only when asked to, and they take no room', () => {
    const plain = progressLine(state, { columns: 80, color: false })
    const colored = progressLine(state, { columns: 80, color: true })
    expect(plain).not.toContain('\u001b')
    expect(colored).toContain('\u001b[')
    // biome-ignore lint/suspicious/noControlCharactersInRegex: escape sequences begin with one
    expect(colored.replace(/\u001b\[\d+m/g, '')).toBe(plain)
  })

  it('on a terminal rewrites one line at most ten times a second', () => {
    const tty = output(true)
    let now = 0
    const progress = createProgress({ output: tty, color: false, rewrite: true, quiet: false, now: () => now })
    let built = 0
    for (; now < 1_000; now += 10) {
      progress.update(() => {
        built += 1
        return state
      })
    }
    expect(built).toBe(10)
    expect(tty.text).not.toContain('\n')
    expect(tty.text.match(/\r/g)).toHaveLength(10)
    progress.say('a fault')
    progress.end()
    expect(tty.text.endsWith('\r\u001b[2Ka fault\n')).toBe(true)
  })

  it('elsewhere writes a plain line every two seconds', () => {
    const pipe = output(false)
    let now = 0
    const progress = createProgress({ output: pipe, color: false, rewrite: false, quiet: false, now: () => now })
    for (; now < 10_000; now += 50) progress.update(() => state)
    progress.end()
    expect(pipe.text.match(/\n/g)).toHaveLength(5)
    // biome-ignore lint/suspicious/noControlCharactersInRegex: none shall be there
    expect(pipe.text).not.toMatch(/[\u001b\r]/)
  })

  it('says nothing when quiet', () => {
    const tty = output(true)
    const progress = createProgress({ output: tty, color: true, rewrite: true, quiet: true, now: () => 0 })
    progress.update(() => state)
    progress.say('hello')
    progress.end()
    expect(tty.text).toBe('')
  })
})

describe('sparkline', () => {
  it('draws one block for a value, and means when there are too many', () => {
    expect(sparkline([], 8)).toBe('')
    expect(sparkline([0, 1, -3, 9], 8)).toBe('▁█▁█')
    expect(sparkline([0, 0, 1, 1], 2)).toBe('▁█')
    expect(
      sparkline(
        Array.from({ length: 1_000 }, (_, index) => index / 999),
        8,
      ),
    ).toBe('▁▂▃▄▅▆▇█')
  })
})

describe('colours', () => {
  it.each([
    [true, {}, false, true],
    [false, {}, false, false],
    [true, { NO_COLOR: '1' }, false, false],
    [true, { NO_COLOR: '' }, false, true],
    [true, { TERM: 'dumb' }, false, false],
    [true, {}, true, false],
    [false, { FORCE_COLOR: '1' }, false, true],
    [true, { FORCE_COLOR: '0' }, false, false],
    [false, { FORCE_COLOR: '1', NO_COLOR: '1' }, false, false],
  ])('terminal %s, environment %j, --no-color %s: %s', (isTTY, env, noColor, expected) => {
    expect(wantsColor(output(isTTY), env, noColor)).toBe(expected)
  })

  it('style nothing when off', () => {
    expect(createStyle(false)('words', 'red')).toBe('words')
    expect(createStyle(true)('words', 'red')).toBe('\u001b[31mwords\u001b[0m')
  })
})
