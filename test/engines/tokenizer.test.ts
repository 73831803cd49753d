/**
 * How long a tokenizer may take: longer for a longer text, on every engine that has one.
 */
import { expect, test } from 'vitest'
import { type EngineName, engineFactory } from '../../src/engines/index.ts'
import { options, refusal, serve } from './fake-server.ts'

/** Fires each timer when it is set, and says for when it was. */
function hasty() {
  const delays: number[] = []
  return {
    delays,
    now: () => 0,
    setTimeout(callback: () => void, ms: number) {
      delays.push(ms)
      return setImmediate(callback)
    },
    clearTimeout: (handle: unknown) => clearImmediate(handle as NodeJS.Immediate),
  }
}

const TEXT = 'x'.repeat(1_000_000)

test.each(['sglang', 'vllm', 'llama-server'] satisfies EngineName[])(
  'of %s: 10 s, and 50 ms more for every 1,000 characters',
  async (name) => {
    const server = await serve(() => {})
    const clock = hasty()
    const driver = engineFactory(name)(options(server.url, { clock }))
    const ends = [TEXT, [{ role: 'user', content: TEXT }], 'short'].map((prompt) => driver.tokenize!(prompt))
    for (const end of ends) expect((await refusal(end)).code).toBe('UNREACHABLE')
    expect(clock.delays).toEqual([60_000, 60_000, 10_001])
    await driver.close()
  },
)
