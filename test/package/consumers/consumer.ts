/**
 * A user of the packed package in TypeScript: what the types promise, and the same program at run time.
 */
import {
  type Completion,
  createSupervisor,
  type Group,
  type PlacementPolicy,
  RolloutError,
  type SupervisorEvent,
  type SupervisorOptions,
} from 'rollout-supervisor'
import { instanceMachine } from 'rollout-supervisor/machines'
import { startEmbeddedEngine } from 'rollout-supervisor/testing'

interface Meta {
  readonly question: number
}

const engine = await startEmbeddedEngine({ stepMs: 0, perSequenceMs: 0 })
const options: SupervisorOptions = {
  instances: [{ url: engine.url, engine: 'sglang', capacity: 4 }],
  policy: { name: 'round-robin', strict: true },
  timeouts: { waitMs: 10_000 },
  instanceMachine: instanceMachine.provide({ guards: { takesWork: ({ context }) => context.leases < 2 } }),
}
await using supervisor = createSupervisor(options)
const placements: string[] = []
supervisor.events$.subscribe((event: SupervisorEvent) => {
  if (event.type === 'sample.placed') placements.push(event.instance)
})
await supervisor.start()
const meta: Meta = { question: 1 }
const group: Group<Meta> = await supervisor.submit({ prompt: [5], samples: 3, sampling: { maxTokens: 4 }, meta }).result
const question: number = group.meta.question
const first: Completion<Meta> | undefined = group.completions[0]
const tokens: Int32Array | undefined = first?.tokenIds
if (question !== 1 || tokens === undefined || placements.length !== 3) throw new Error('not what the types say')

// @ts-expect-error a policy is a known name or an object with pick
const wrong: SupervisorOptions = { policy: 'least-requests' }
const policies: PlacementPolicy[] = []
try {
  createSupervisor(wrong)
  throw new Error('an unknown policy was taken')
} catch (error) {
  if (!RolloutError.isInstance(error) || error.code !== 'INVALID_OPTIONS') throw error
}
await engine.close()
console.log(
  `TypeScript: ${tokens.length} tokens, ${placements.length} placements, ${policies.length} policies of its own`,
)
