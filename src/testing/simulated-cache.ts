/**
 * What a simulated server computes log-probabilities from: the weights it really has, and a KV cache that remembers under which ones
 * it was filled. Work of older weights that nobody flushed gives values that belong to no version, as on real engines, so that
 * every token shows by its log-probability what it was sampled from (I8, F8).
 */
import { hash32 } from './random.ts'

/** Contexts whose cache is remembered; the least recently used leaves first. */
const MAX_ENTRIES = 1_024

/**
 * The log-probability that simulated servers give the token at a position of the output when everything it hangs on was computed under
 * one version of the weights: null for those that a server has before the first update. Exact in 32 bits.
 */
export function logprobOf(version: number | string | null, position: number): number {
  return logprobUnder(version === null ? 'default' : String(version), position)
}

/** `weights` may name a mixture. */
export function logprobUnder(weights: string, position: number): number {
  let name = 0
  for (let index = 0; index < weights.length; index++) name = Math.imul(name, 31) + weights.charCodeAt(index)
  return -(1 + (hash32(name, position) % 65_536) / 65_536)
}

/** What comes of going on under other weights than those of the cache. */
export function mixed(cached: string, weights: string): string {
  return cached === weights || cached.endsWith(`>${weights}`) ? cached : `${cached}>${weights}`
}

/** The prefix cache of one server: by context, the weights that it was computed under. */
export interface SimulatedCache {
  /** What a request with this context starts from under these weights, remembered from then on. */
  enter(context: string, weights: string): string
  put(context: string, cached: string): void
  flush(): void
}

export function createSimulatedCache(): SimulatedCache {
  const entries = new Map<string, string>()
  const put = (context: string, cached: string): void => {
    entries.delete(context)
    entries.set(context, cached)
    if (entries.size > MAX_ENTRIES) entries.delete(entries.keys().next().value!)
  }
  return {
    enter(context, weights) {
      const cached = mixed(entries.get(context) ?? weights, weights)
      put(context, cached)
      return cached
    },
    put,
    flush: () => entries.clear(),
  }
}
