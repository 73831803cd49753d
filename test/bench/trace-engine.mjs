/**
 * Servers without sockets that replay lengths under a virtual clock: each sample of a group has a length of its own, tokens come at an even
 * pace whatever the load, and an aborted request keeps what it has, with the version it was generated under.
 *
 * A prompt is `[group]`; the first token of an output is the sample's number in the group, so that a resumed one knows its length.
 */

/** @typedef {import('../../dist/src/engines/driver.js').EngineDriver} EngineDriver */
/** @typedef {import('../../dist/src/engines/driver.js').Chunk} Chunk */

const CAPABILITIES = /** @type {const} */ ({
  tokenIds: true,
  logprobs: 'sampled',
  abortById: true,
  versions: 'spans',
  updateWeights: true,
  loadReport: true,
  pause: [],
  release: false,
})

/**
 * @param {import('../../dist/src/testing/index.js').VirtualClock} clock
 * @param {readonly (readonly number[])[]} groups lengths by group and sample
 * @param {{ readonly instances: number, readonly capacity: number, readonly tokenMs: number, readonly loadMs: number }} options
 */
export function traceFleet(clock, groups, { instances, capacity, tokenMs, loadMs }) {
  /** Samples begun of each group. @type {Map<number, number>} */
  const begun = new Map()
  let generated = 0

  /** @returns {EngineDriver} */
  function driver() {
    let version = 'default'
    /** @type {Map<string, () => void>} */
    const running = new Map()
    return {
      engine: 'trace',
      probe: async () => ({
        engine: 'trace',
        engineVersion: '1',
        capacity,
        weightVersion: version,
        vocabularySize: null,
        contextLength: null,
        paused: false,
        capabilities: CAPABILITIES,
        advice: [],
      }),
      load: async () => ({ running: running.size, waiting: 0 }),
      weightVersion: async () => version,
      async *generate({ requestId, prompt }, signal) {
        const group = Number(prompt[0])
        const done = prompt.length - 1
        let sample = Number(prompt[1] ?? -1)
        const lengths = groups[group % groups.length] ?? []
        if (done === 0) {
          sample = begun.get(group) ?? 0
          begun.set(group, sample + 1)
        }
        const left = Math.max(1, (lengths[sample % lengths.length] ?? 1) - done)
        const startedAt = clock.now()
        const whole = await new Promise((resolve) => {
          const timer = clock.setTimeout(() => resolve(true), left * tokenMs)
          const stop = () => {
            clock.clearTimeout(timer)
            resolve(false)
          }
          running.set(requestId, stop)
          signal.addEventListener('abort', stop, { once: true })
        })
        running.delete(requestId)
        const count = whole ? left : Math.min(left - 1, Math.floor((clock.now() - startedAt) / tokenMs))
        const tokenIds = new Array(count).fill(1)
        if (done === 0 && count > 0) tokenIds[0] = sample
        // One that got no token begins again: its place is free.
        if (done === 0 && count === 0) begun.set(group, (begun.get(group) ?? 1) - 1)
        generated += count
        /** @type {Chunk} */
        const chunk = {
          tokenIds,
          logprobs: tokenIds.map(() => -1),
          text: null,
          finishReason: whole ? 'stop' : 'abort',
          versions: [{ version, start: 0, end: count }],
        }
        yield chunk
      },
      abort: async (requestId) => running.get(requestId)?.(),
      resume: async () => {},
      updateWeights: async (update) => {
        await new Promise((resolve) => void clock.setTimeout(() => resolve(null), loadMs))
        version = String(update.version)
      },
      close: async () => {},
    }
  }

  return {
    instances: Array.from({ length: instances }, (_, index) => ({
      id: `instance-${index}`,
      url: `http://trace-${index}`,
      engine: driver,
    })),
    /** Tokens generated so far, by all servers. */
    get generated() {
      return generated
    },
  }
}
