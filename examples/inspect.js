/**
 * Watch the machines: `inspect` takes what XState's createActor takes, so the Stately inspector works too
 * (`createBrowserInspector().inspect`, `createWebSocketInspector(...).inspect`). Here every transition is printed.
 * A guard of your own decides what a server may take.
 */
import { createSupervisor } from 'rollout-supervisor'
import { instanceMachine } from 'rollout-supervisor/machines'
import { startEmbeddedEngine } from 'rollout-supervisor/testing'

const engine = await startEmbeddedEngine({ seed: 3, capacity: 4 })
/** @type {Map<string, string>} */
const last = new Map()

const supervisor = createSupervisor({
  instances: [{ url: engine.url, id: 'gpu-0' }],
  // The machine is the authority on whether its server takes work: this one never runs more than two at once.
  instanceMachine: instanceMachine.provide({ guards: { takesWork: ({ context }) => context.leases < 2 } }),
  inspect(event) {
    if (event.type !== '@xstate.snapshot' || !('value' in event.snapshot)) return
    const state = JSON.stringify(event.snapshot.value)
    const actor = /** @type {import('xstate').AnyActorRef} */ (event.actorRef).id
    if (last.get(actor) !== state) console.log(`${actor}: ${state} on ${event.event.type}`)
    last.set(actor, state)
  },
})
await supervisor.start()
await supervisor.submit({ prompt: [5], samples: 4, sampling: { maxTokens: 8 } }).result
await supervisor.drain('gpu-0')
console.log(`at most ${engine.counters.maxRunning} ran at once`)

await supervisor.close()
await engine.close()
