/**
 * A placement policy of your own: evaluations go to one instance while it has room, everything else to the emptiest.
 * A policy is told of every change, and picks an instance with a free slot, or null to let the sample wait.
 */
import { createSupervisor } from 'rollout-supervisor'
import { startEmbeddedEngine } from 'rollout-supervisor/testing'

/** @type {Map<string, import('rollout-supervisor').InstanceLoad>} */
const loads = new Map()
const hasRoom = (/** @type {import('rollout-supervisor').InstanceLoad | undefined} */ load) =>
  load !== undefined && load.running < load.limit

/** @type {import('rollout-supervisor').PlacementPolicy} */
const policy = {
  name: 'evaluations-first-floor',
  add: (instance) => void loads.set(instance.id, instance),
  remove: (id) => void loads.delete(id),
  changed: () => {}, // the objects handed to `add` change in place
  pick(sample) {
    if (sample.kind === 'evaluation' && hasRoom(loads.get('eval'))) return 'eval'
    const open = [...loads.values()].filter(hasRoom)
    return open.sort((a, b) => a.running / a.limit - b.running / b.limit)[0]?.id ?? null
  },
}

const engines = await Promise.all([1, 2, 3].map((seed) => startEmbeddedEngine({ seed, capacity: 4 })))
const supervisor = createSupervisor({
  instances: engines.map(({ url }, index) => ({ url, id: index === 0 ? 'eval' : `train-${index}` })),
  policy,
})
supervisor.events$.subscribe((event) => {
  if (event.type === 'sample.placed')
    console.log(`${event.taskId}/${event.sample} (${event.kind}) on ${event.instance}`)
})
await supervisor.start()
const evaluation = supervisor.submit({ prompt: [4], samples: 3, kind: 'evaluation', sampling: { maxTokens: 16 } })
const training = supervisor.submit({ prompt: [6], samples: 6, sampling: { maxTokens: 16 } })
await Promise.all([evaluation.result, training.result])

await supervisor.close()
await Promise.all(engines.map((engine) => engine.close()))
