/**
 * Three ways to follow completions as they end: an Observable, an AsyncIterable that slows admission down when you are slow,
 * and the events of one rollout.
 */

import { createSupervisor } from 'rollout-supervisor'
import { startEmbeddedEngine } from 'rollout-supervisor/testing'
import { bufferCount, filter } from 'rxjs'

const engine = await startEmbeddedEngine({ seed: 7, capacity: 4 })
const supervisor = createSupervisor({ instances: [{ url: engine.url }] })
await supervisor.start()

// RxJS: hot, one item per sample, never errors.
supervisor.completions$
  .pipe(
    filter(({ outcome }) => outcome === 'completed'),
    bufferCount(8),
  )
  .subscribe((batch) => console.log(`a batch of ${batch.length}`))

// One rollout, token by token.
const watched = supervisor.submit({ prompt: [9], sampling: { maxTokens: 12 } })
for await (const event of watched.events) {
  console.log(event.type === 'sample.tokens' ? `tokens ${event.tokenIds.join(' ')}` : event.type)
}

// An AsyncIterable with back-pressure: at most 4 completions wait for this loop before new tasks are held back.
const reader = supervisor.completions({ highWaterMark: 4 })
const first = reader.next()
for (let digit = 0; digit < 16; digit++) supervisor.submit({ prompt: [digit % 10], sampling: { maxTokens: 16 } })
console.log(`first to end: ${(await first).value.id}`)
let read = 1
for await (const completion of reader) {
  console.log(`${completion.id}: ${completion.text}`)
  if (++read === 16) break
}

await supervisor.close()
await engine.close()
