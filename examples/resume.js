/**
 * Save and resume: the trainer writes the supervisor's state with its own checkpoint, and a new process goes on where it was, from the tokens
 * that had come. Here both lives are in one process.
 */
import { mkdtemp, readFile, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createSupervisor } from 'rollout-supervisor'
import { startEmbeddedEngine } from 'rollout-supervisor/testing'

const engine = await startEmbeddedEngine({ seed: 4, capacity: 4, stepMs: 5 })
const checkpoint = join(await mkdtemp(join(tmpdir(), 'checkpoint-')), 'rollouts.json')

{
  const supervisor = createSupervisor({ instances: [{ url: engine.url }] })
  await supervisor.start()
  const rollout = supervisor.submit({
    id: 'prompt-7',
    prompt: [7],
    samples: 8,
    sampling: { maxTokens: 60, ignoreEos: true },
    meta: { row: 7 },
  })
  for await (const event of rollout.events) if (event.type === 'sample.ended') break
  // One sample has ended, some are under way, the others wait.
  await writeFile(checkpoint, JSON.stringify(supervisor.save()))
  await supervisor.close() // or the process dies
}

const supervisor = createSupervisor({
  instances: [{ url: engine.url }],
  restore: JSON.parse(await readFile(checkpoint, 'utf8')),
})
const { waiting, ended } = supervisor.getSnapshot().conservation
console.log(`restored: ${waiting} samples wait, ${ended.completed} had ended`)
await supervisor.start()
// A trainer with weights of its own hands them over first: await supervisor.updateWeights({ version, path })
for (const rollout of supervisor.restored) {
  const { taskId, completions, complete, meta } = await rollout.result
  console.log(`${taskId} ${JSON.stringify(meta)}: ${complete ? 'whole' : 'not whole'}`)
  for (const { id, tokenIds, segments } of completions)
    console.log(`${id}: ${segments.map(({ start, end }) => end - start).join(' + ')} = ${tokenIds.length} tokens`)
}

await supervisor.close()
await engine.close()
