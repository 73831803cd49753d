/**
 * The learner as a child process: torch in the Python of the installed engine, one JSON line in, one out.
 */
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

/**
 * @typedef {object} Sample
 * @property {readonly number[]} prompt
 * @property {number[]} tokens
 * @property {number[]} logprobs as they were sampled, from the completion
 * @property {readonly import('rollout-supervisor').VersionSpan[]} versions
 * @property {number} advantage
 *
 * @typedef {object} Answer
 * @property {number} parameters
 * @property {number} loss
 * @property {number} difference of stored log-probabilities from the learner's own, in nats
 * @property {number} clipped
 */

/** @param {string} python */
export function startLearner(python) {
  const env = {
    ...process.env,
    HF_HUB_OFFLINE: '1',
    CUDA_VISIBLE_DEVICES: '',
    TRANSFORMERS_VERBOSITY: 'error',
    TQDM_DISABLE: '1',
  }
  const child = spawn(python, [join(import.meta.dirname, 'learner.py')], { env, stdio: ['pipe', 'pipe', 'inherit'] })
  const answers = createInterface(child.stdout)[Symbol.asyncIterator]()

  /**
   * @param {object} question
   * @returns {Promise<Answer>}
   */
  async function ask(question) {
    child.stdin.write(`${JSON.stringify(question)}\n`)
    const { value, done } = await answers.next()
    if (done) throw new Error('expected an answer of the learner, found its end; what it said stands above')
    return JSON.parse(value)
  }

  return {
    /** @param {string} folder */
    save: (folder) => ask({ save: folder }),
    /**
     * One gradient step; the new weights are in `folder` afterwards.
     * @param {readonly Sample[]} samples
     * @param {number} version of the weights that it has now
     * @param {string} folder
     */
    step: (samples, version, folder) => ask({ samples, version, save: folder }),
    stop: () => child.kill(),
  }
}
