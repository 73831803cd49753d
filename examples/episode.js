/**
 * An episode: the policy and a calculator take turns. The code is yours, between turns it may call any tool or environment; the slot
 * is free meanwhile. What comes back is one trajectory, exact to the token, with a mask of what the policy wrote.
 */
import { createSupervisor } from 'rollout-supervisor'
import { startEmbeddedEngine } from 'rollout-supervisor/testing'

const engines = await Promise.all([1, 2].map((seed) => startEmbeddedEngine({ seed, capacity: 4 })))
const supervisor = createSupervisor({ instances: engines.map(({ url }) => ({ url, engine: 'sglang' })) })
await supervisor.start()

/** The tool: adds the digits that the policy wrote to a total. Tokens 0 to 9 of the tiny policy are the digits. */
const calculator = async (/** @type {number} */ total, /** @type {Int32Array} */ tokenIds) =>
  tokenIds.reduce((sum, id) => sum + (id < 10 ? id : 0), total)
/** What the policy is told of it, in tokens. */
const inDigits = (/** @type {number} */ number) => [...String(number)].map(Number)

/** @param {number} digit */
const play = (digit) =>
  supervisor.episode(
    async (session) => {
      let total = 0
      for (let turn = 1; turn <= 3; turn++) {
        const { tokenIds } = await session.generate({ append: turn === 1 ? [digit] : inDigits(total) })
        total = await calculator(total, tokenIds)
      }
      return total // the reward: what a trainer makes of it
    },
    { sampling: { maxTokens: 6 }, timeoutMs: 30_000, retry: { attempts: 2 }, meta: { digit } },
  )

// Eight episodes at once; each turn goes to the server that has its prefix, and elsewhere when that one is full.
const results = await Promise.all([1, 2, 3, 4, 5, 6, 7, 8].map(play))
for (const { episodeId, outcome, value, trajectory } of results) {
  const { tokenIds, mask, turns, versions } = trajectory
  const text = Array.from(tokenIds, (id, at) => (mask[at] === 1 ? id : `[${id}]`)).join(' ')
  console.log(`${episodeId} ${outcome}, reward ${value}, ${turns.length} turns, ${versions.length} spans: ${text}`)
}

await supervisor.close()
await Promise.all(engines.map((engine) => engine.close()))
