/**
 * The faults of embedded engines, as a bare client sees them: each strikes when and as often as it was asked to.
 */
import { expect, onTestFinished, test } from 'vitest'
import { createTinyWeights, type EmbeddedEngineOptions, startEmbeddedEngine } from '../../src/testing/index.ts'
import { call, generate, stream, until } from './client.ts'

const PROMPT = [7, 1, 12]
const short = (count: number) => ({ input_ids: PROMPT, sampling_params: { max_new_tokens: count, ignore_eos: true } })

async function start(options: EmbeddedEngineOptions = {}) {
  const engine = await startEmbeddedEngine({ stepMs: 1, perSequenceMs: 0, ...options })
  onTestFinished(() => engine.close())
  return engine
}

test('scripts strike once, by requests, tokens or time', async () => {
  const struck: string[] = []
  const engine = await start({
    faults: [
      { afterRequests: 2, run: () => struck.push('requests') },
      { afterTokens: 30, run: () => struck.push('tokens') },
      { afterMs: 1, run: () => struck.push('time') },
    ],
  })
  await until('it is time', () => struck.includes('time'))
  await generate(engine, short(5))
  expect(struck).toEqual(['time'])
  await generate(engine, short(5))
  expect(struck).toEqual(['time', 'requests'])
  await generate(engine, short(40))
  await generate(engine, short(40))
  expect(struck).toEqual(['time', 'requests', 'tokens'])
})

test('scripts that cannot be used are named', async () => {
  const faults = [{ run: () => {} }]
  await expect(startEmbeddedEngine({ faults })).rejects.toMatchObject({ problems: [{ path: 'faults' }] })
})

test('a cut lets the events before it through, and strikes as often as asked', async () => {
  const engine = await start()
  engine.faults.cut({ afterEvents: 3, times: 1 })
  const cut = await stream(engine, short(10))
  await expect(cut.ended).rejects.toThrow()
  expect(cut.events).toHaveLength(3)
  const whole = await stream(engine, short(10))
  expect((await whole.ended).output_ids).toHaveLength(10)
  expect(engine.faults.counters).toMatchObject({ cut: 1 })
  await until('the cut one has left', () => engine.counters.running === 0)
})

test('it dies, and comes back on its port with the weights that it is given', async () => {
  const engine = await start({ weightVersion: '3' })
  await engine.faults.die()
  await expect(call(engine, '/health')).rejects.toThrow()
  const weights = createTinyWeights({ seed: 9 })
  await engine.faults.restart({ weights, weightVersion: '7' })
  expect(engine.weights).toBe(weights)
  expect((await generate(engine, short(3))).meta_info.weight_version).toBe('7')
  await engine.faults.restart()
  expect((await generate(engine, short(3))).meta_info.weight_version).toBe('3')
  expect(engine.faults.counters.restarts).toBe(2)
})

test('frozen it answers and generates nothing; healed it goes on where it was', async () => {
  const engine = await start()
  const open = await stream(engine, short(200))
  await until('it runs', () => engine.counters.tokensDelivered > 3)
  engine.faults.freeze()
  const { tokensGenerated } = engine.counters
  expect((await call(engine, '/health')).status).toBe(200)
  expect(engine.counters).toMatchObject({ tokensGenerated, running: 1 })
  engine.faults.heal()
  expect((await open.ended).output_ids).toHaveLength(200)
})

test('answers, errors in streams and a dead engine speak for the engine, and only where it generates', async () => {
  const engine = await start()
  engine.faults.answer(429, { retryAfterS: 7 })
  const busy = await fetch(`${engine.url}/generate`, {
    method: 'POST',
    body: JSON.stringify({ stream: true, ...short(3) }),
  })
  expect([busy.status, busy.headers.get('retry-after')]).toEqual([429, '7'])
  await busy.text()
  engine.faults.errorInStream(503, { message: 'full' })
  const refused = await stream(engine, short(3))
  expect(await refused.ended).toMatchObject({ error: { code: 503, message: 'full' } })
  engine.faults.deadEngine()
  expect((await call(engine, '/generate', short(3))).status).toBe(500)
  expect((await call(engine, '/health')).status).toBe(200)
  engine.faults.heal()
  expect((await generate(engine, short(3))).output_ids).toHaveLength(3)
})
