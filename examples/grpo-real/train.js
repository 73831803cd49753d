/**
 * The mission with nothing embedded: GRPO on a small real transformer, served by a real SGLang or vLLM on two cores. The supervisor places the
 * rollouts; evaluations and weight updates interrupt them, and they resume from their tokens. While the learner takes its step from the stored
 * log-probabilities, the rollouts of the next step run already: their tokens carry the version that each was sampled from.
 *
 *     node examples/grpo-real/train.js [--engine sglang|vllm] [--minutes 10] [--out DIR] [--smoke] [--url URL]
 *
 * With --url the server runs already, with any weights of the same shape, as startEngine starts it.
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { createSupervisor } from 'rollout-supervisor'
import { curveSvg } from './curve.js'
import { install, pythonOf, SLOTS, startEngine } from './engine.js'
import { startLearner } from './learner.js'
import { ANSWER_TOKENS, advantagesOf, average, FAMILIES, promptOf, rewardOf } from './task.js'

const GROUP = 16
const GOAL = 0.8
/** Steps between two evaluations. */
const EVALUATE_EVERY = 5
const SMOKE_STEPS = 4
/** Steps over which the mean reward must be above the goal. */
const STEADY = 3

const { values } = parseArgs({
  options: {
    engine: { type: 'string', default: 'sglang' },
    minutes: { type: 'string', default: '10' },
    out: { type: 'string', default: 'grpo-real' },
    smoke: { type: 'boolean', default: false },
    url: { type: 'string' },
  },
})
if (values.engine !== 'sglang' && values.engine !== 'vllm')
  throw new Error(`--engine: expected sglang or vllm, found ${values.engine}`)
/** @type {'sglang' | 'vllm'} */
const engine = values.engine
const out = resolve(values.out)
const { smoke } = values

/** @param {number} version */
const weightsOf = (version) => join(out, `weights-${version}`)
// minTokens would forbid the end token, and the log-probabilities would be of a distribution that the learner does not know.
const sampling = { maxTokens: ANSWER_TOKENS, ignoreEos: true }
const families = Array.from({ length: FAMILIES }, (_, family) => family)

/** @param {number} samples @param {number} temperature */
const tasksOf = (samples, temperature) =>
  families.map((family) => ({
    prompt: promptOf(family),
    samples,
    sampling: { ...sampling, temperature },
    meta: { family },
  }))

mkdirSync(out, { recursive: true })
await install(engine)
const learner = startLearner(pythonOf(engine))
const { parameters } = await learner.save(weightsOf(0))
const server = values.url === undefined ? await startEngine(engine, weightsOf(0)) : { url: values.url, stop() {} }
const supervisor = createSupervisor({ instances: [{ url: server.url, engine }] })
let passed = false
try {
  await supervisor.start()
  passed = await train()
} finally {
  await supervisor.close()
  learner.stop()
  await server.stop()
}
process.exitCode = passed ? 0 : 1

function begin() {
  const groups = supervisor.rollout(tasksOf(GROUP, 1))
  // Those of the next step are cancelled at the end, while nobody waits for them.
  groups.catch(() => {})
  return groups
}

/**
 * A sample that failed has no answer, which is not a bad answer.
 * @template M
 * @param {readonly import('rollout-supervisor').Group<M>[]} groups
 */
function whole(groups) {
  const [missing] = groups.flatMap((group) => group.missing)
  if (missing === undefined) return groups
  throw missing.error ?? new Error(`expected every sample to complete, found one that is ${missing.outcome}`)
}

async function train() {
  console.log(`${engine}, ${parameters} parameters, ${SLOTS} slots, groups of ${GROUP}`)
  const began = performance.now()
  const seconds = () => (performance.now() - began) / 1000
  const limit = Number(values.minutes) * 60
  /** @type {import('./curve.js').Point[]} */
  const reward = []
  /** @type {import('./curve.js').Point[]} */
  const score = []
  let [interrupted, largest] = [0, 0]
  await supervisor.updateWeights({ version: 0, mode: 'abort', path: weightsOf(0) })
  let running = begin()
  let version = 0
  for (;;) {
    const groups = whole(await running)
    running = begin()
    const samples = groups.flatMap(({ completions, meta: { family } }) => {
      const advantages = advantagesOf(completions.map(({ tokenIds }) => rewardOf(family, tokenIds)))
      return completions.map(({ tokenIds, logprobs, versions }, i) => ({
        prompt: promptOf(family),
        tokens: [...tokenIds],
        logprobs: [...logprobs],
        versions,
        advantage: advantages[i] ?? 0,
      }))
    })
    const rewards = groups.flatMap(({ completions, meta: { family } }) =>
      completions.map(({ tokenIds }) => rewardOf(family, tokenIds)),
    )
    reward.push({ seconds: seconds(), value: average(rewards) })
    interrupted += groups.flatMap(({ completions }) => completions).filter(({ segments }) => segments.length > 1).length

    const { loss, difference, clipped } = await learner.step(samples, version, weightsOf(version + 1))
    largest = Math.max(largest, difference)
    version += 1
    await supervisor.updateWeights({ version, mode: 'abort', path: weightsOf(version) })
    rmSync(weightsOf(version - 1), { recursive: true })
    if (version % EVALUATE_EVERY === 0 || (smoke && version === 2)) {
      const evaluated = whole(await supervisor.evaluate(tasksOf(1, 0), { interrupt: 'resume' }))
      const scores = evaluated.flatMap(({ completions, meta: { family } }) =>
        completions.map(({ tokenIds }) => rewardOf(family, tokenIds)),
      )
      score.push({ seconds: seconds(), value: average(scores) })
    }
    console.log(
      `step ${version}  ${seconds().toFixed(0)} s  reward ${average(rewards).toFixed(3)}  loss ${loss.toFixed(3)}  clipped ${(100 * clipped).toFixed(0)} %  off ${difference.toExponential(0)}  score ${score.at(-1)?.value.toFixed(3) ?? '-'}`,
    )
    const steady = reward.length >= STEADY && average(reward.slice(-STEADY).map(({ value }) => value)) > GOAL
    if (steady || (smoke && version >= SMOKE_STEPS) || seconds() > limit) {
      const title = `GRPO on ${engine}: mean reward, chance ${(1 / FAMILIES).toFixed(3)}`
      writeFileSync(join(out, `curve-${engine}.svg`), curveSvg(title, { reward, score }, GOAL))
      console.log(
        `${version} steps, ${interrupted} samples were interrupted and resumed, stored log-probabilities within ${largest.toExponential(1)} of the learner's`,
      )
      if (largest > 1e-4) throw new Error('expected log-probabilities of the stamped version, found others')
      return steady || smoke
    }
  }
}
