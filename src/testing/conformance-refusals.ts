/**
 * Conformance of refusals: a request that cannot be run fails alone, with the server's words, and ends no server (F4, R8, R9).
 */

import { RolloutError } from '../errors.ts'
import type { Prompt } from '../rollout/task.ts'
import type { Check, Unfit } from './conformance.ts'
import { noIds } from './conformance-generate.ts'
import { expectThat, type Generated, Mismatch, type Tools } from './conformance-tools.ts'

const noVocabulary: Unfit = {
  outcome: 'skipped',
  found: 'some servers die of it: allow a restart of the server',
}

export const REFUSAL_CHECKS: readonly Check[] = [
  {
    name: 'prompt too long',
    works: 'one bad sample fails alone',
    without: 'a bad sample counts against the server, or is tried for ever',
    unfit: (probe) =>
      noIds(probe) ??
      (probe.contextLength === null
        ? { outcome: 'not offered', found: 'the server does not say what is too long' }
        : null),
    run: (tools) => refused(tools, () => tools.generate({}, { prompt: Array(tools.probe.contextLength! + 8).fill(5) })),
  },
  {
    name: 'empty prompt',
    works: 'one bad sample fails alone',
    without: 'a bad sample counts against the server, or is tried for ever',
    unfit: noIds,
    run: (tools) => refused(tools, () => tools.generate({}, { prompt: [] })),
  },
  {
    name: 'negative length',
    works: 'one bad sample fails alone',
    without: 'a bad sample counts against the server, or is tried for ever',
    unfit: noIds,
    run: (tools) => refused(tools, () => tools.generate({ maxTokens: -4, minTokens: -4 })),
  },
  {
    name: 'token id outside the vocabulary',
    works: 'a bad token id fails its sample alone',
    without: 'set vocabularySize where the server does not say it: a bad token id ends the server',
    unfit: (probe, { allow }) =>
      noIds(probe) ??
      (probe.vocabularySize === null
        ? { outcome: 'not offered', found: 'the server does not say its vocabulary' }
        : null) ??
      (allow.restart === undefined ? noVocabulary : null),
    run: (tools) => deadly(tools, [...tools.options.prompt, tools.probe.vocabularySize! + 1_000]),
  },
]

async function refused(tools: Tools, run: () => Promise<Generated>): Promise<string> {
  const error = await run().then(
    ({ tokens, finishReason }) => {
      throw new Mismatch(`expected a refusal, found ${tokens.length} tokens and the end '${finishReason}'`)
    },
    (caught: unknown) => caught,
  )
  if (!RolloutError.isInstance(error)) throw error
  expectThat(error.code === 'REQUEST_REJECTED', `expected REQUEST_REJECTED, found ${error.code}: ${error.message}`)
  const after = await tools.generate({ maxTokens: 2 })
  expectThat(after.tokens.length === 2, `expected 2 tokens afterwards, found ${after.tokens.length}`)
  return 'refused, and the next request ran'
}

async function deadly(tools: Tools, prompt: Prompt): Promise<string> {
  try {
    return await refused(tools, () => tools.generate({ maxTokens: 4 }, { prompt }))
  } catch (error) {
    await tools.options.allow.restart?.()
    throw error
  }
}
