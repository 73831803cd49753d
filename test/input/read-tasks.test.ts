/**
 * Files of JSON lines as sources of tasks: read as they are asked for, again and again where that is wanted, with a word on each bad line.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { readTasks, type Task } from '../../src/index.ts'
import { expectNothingLeft } from '../run/batch-fixtures.ts'
import { startSimulation } from '../simulate.ts'

function file(lines: readonly string[]): string {
  const folder = mkdtempSync(join(tmpdir(), 'rollout-supervisor-test-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const path = join(folder, 'prompts.jsonl')
  writeFileSync(path, `${lines.join('\n')}\n`)
  return path
}

async function take(source: AsyncIterable<Task>, count: number): Promise<Task[]> {
  const tasks: Task[] = []
  for await (const task of source) if (tasks.push(task) === count) break
  return tasks
}

const LINES = [
  '{"id": "a", "promptTokenIds": [1, 5], "meta": {"answer": 42}}',
  '',
  '{"id": 7, "prompt": "two and two", "samples": 4, "sampling": {"temperature": 0}}',
]

test('each line becomes a task, with what it does not say from the options', async () => {
  const tasks = await take(readTasks(file(LINES), { samples: 8, sampling: { maxTokens: 64 } }), 9)
  expect(tasks).toEqual([
    { id: 'a', prompt: [1, 5], samples: 8, sampling: { maxTokens: 64 }, meta: { answer: 42 } },
    { id: '7', prompt: 'two and two', samples: 4, sampling: { maxTokens: 64, temperature: 0 }, meta: null },
  ])
})

test('repeated without end, a seed differs from pass to pass', async () => {
  const tasks = await take(readTasks(file(LINES), { repeat: true, sampling: { seed: 1 } }), 6)
  expect(tasks.map(({ id }) => id)).toEqual(['a', '7', 'a', '7', 'a', '7'])
  expect(new Set(tasks.map(({ sampling }) => sampling?.seed)).size).toBe(6)
})

test('a bad line is an error that says where, or is told of and left out', async () => {
  const path = file([LINES[0]!, '{"id": "b"}', 'nonsense', LINES[2]!])
  await expect(take(readTasks(path), 9)).rejects.toMatchObject({
    code: 'INVALID_TASK',
    message: expect.stringMatching(
      /prompts\.jsonl, line 2: prompt \| messages \| promptTokenIds: expected one of them/,
    ),
  })
  const problems: number[] = []
  const tasks = await take(readTasks(path, { onProblem: (line) => problems.push(line) }), 9)
  expect(tasks.map(({ id }) => id)).toEqual(['a', '7'])
  expect(problems).toEqual([2, 3])
})

test('a file that is not there, or has nothing to repeat, is an error that says so', async () => {
  await expect(take(readTasks('/nowhere/prompts.jsonl'), 1)).rejects.toMatchObject({
    code: 'SOURCE_FAILED',
    message: expect.stringMatching(/nowhere.*cannot be read/),
  })
  await expect(take(readTasks(file(['']), { repeat: true }), 1)).rejects.toMatchObject({ code: 'SOURCE_FAILED' })
})

test('batches come out of a file that is read again and again', async () => {
  const simulation = await startSimulation([{ capacity: 4 }])
  const { supervisor, clock } = simulation
  const path = file(Array.from({ length: 5 }, (_, index) => `{"id": "p${index}", "promptTokenIds": [${index}, 6]}`))
  const batches = supervisor.batches(readTasks(path, { repeat: true, samples: 2 }), { size: 3, order: 'source' })
  const seen: string[] = []
  // Files are read by the real clock, groups are rolled out by the virtual one.
  const read = async (): Promise<void> => {
    for await (const { groups, index } of batches) {
      seen.push(...groups.map(({ taskId }) => taskId))
      if (index === 2) return
    }
  }
  let done = false
  const reading = read().finally(() => {
    done = true
  })
  while (!done) await clock.advance(10)
  await reading
  expect(seen).toEqual(['p0', 'p1', 'p2', 'p3', 'p4', 'p0', 'p1', 'p2', 'p3'])
  await expectNothingLeft(simulation)
})
