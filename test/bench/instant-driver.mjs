/**
 * A driver without a server: each generation answers at once with one chunk. What a benchmark measures with it is the
 * supervisor alone.
 */

/** @typedef {import('../../dist/src/engines/driver.js').EngineDriver} EngineDriver */
/** @typedef {import('../../dist/src/engines/driver.js').Chunk} Chunk */

/** @type {import('../../dist/src/engines/driver.js').Probe} */
const PROBE = {
  engine: 'instant',
  engineVersion: '1',
  capacity: 8,
  weightVersion: 'default',
  vocabularySize: null,
  contextLength: null,
  paused: false,
  capabilities: {
    tokenIds: true,
    logprobs: 'sampled',
    abortById: true,
    versions: 'spans',
    updateWeights: false,
    loadReport: true,
    pause: [],
    release: false,
  },
  advice: [],
}

const END = Promise.resolve(/** @type {const} */ ({ done: true, value: undefined }))

/**
 * A factory as InstanceOptions wants it: every generation yields `tokens` tokens in one chunk.
 * @param {number} tokens
 * @returns {() => EngineDriver}
 */
export function instantEngine(tokens) {
  /** @type {Chunk} */
  const chunk = {
    tokenIds: Array.from({ length: tokens }, (_, index) => index),
    logprobs: Array.from({ length: tokens }, () => -1),
    text: null,
    finishReason: 'length',
    versions: [{ version: 'default', start: 0, end: tokens }],
  }
  return () => ({
    engine: 'instant',
    probe: () => Promise.resolve(PROBE),
    load: () => Promise.resolve({ running: 0, waiting: 0 }),
    weightVersion: () => Promise.resolve('default'),
    generate: () => ({
      [Symbol.asyncIterator]() {
        let told = false
        return {
          next() {
            if (told) return END
            told = true
            return Promise.resolve({ done: /** @type {const} */ (false), value: chunk })
          },
        }
      },
    }),
    abort: () => Promise.resolve(),
    resume: () => Promise.resolve(),
    updateWeights: () => Promise.resolve(),
    close: () => Promise.resolve(),
  })
}

/**
 * Options of `count` instances of eight slots each.
 * @param {number} count
 * @param {number} tokens
 */
export function instantFleet(count, tokens) {
  const engine = instantEngine(tokens)
  return Array.from({ length: count }, (_, index) => ({
    url: `http://instant-${index}`,
    id: `instance-${index}`,
    engine,
  }))
}
