/**
 * Remembers the KV caches of contexts an engine has seen, and finds the longest one that begins a prompt.
 * It knows nothing of weights: what was computed under old ones is served under new ones until somebody flushes, as in real engines.
 * Bounded, least recently used out first. Find and add are O(tokens).
 */
import type { KvCache } from './embedded-sampler.ts'

export interface PrefixCache {
  /** Fills `cache` from the longest known prefix of `context` that leaves at least one token to compute; returns its length. */
  find(context: ArrayLike<number>, cache: KvCache): number
  /** Remembers the first `cache.covered` tokens of `context`. */
  add(context: ArrayLike<number>, cache: KvCache): void
  flush(): void
}

interface Entry {
  readonly tokenIds: Int32Array
  readonly memorySum: Float64Array
}

/** At a context of 4096 tokens this is 8 MB. */
const MAX_ENTRIES = 512

export function createPrefixCache(): PrefixCache {
  const entries = new Map<number, Entry>()

  return {
    find(context, cache) {
      let found: Entry | null = null
      let foundHash = 0
      let hash = 0
      for (let i = 0; i < context.length - 1; i++) {
        hash = next(hash, context[i]!)
        const entry = entries.get(hash)
        if (entry === undefined || entry.tokenIds.length !== i + 1) continue
        found = entry
        foundHash = hash
      }
      // Only the longest is compared token by token: a false match of 32 bits is a miss.
      if (found === null || !begins(context, found.tokenIds)) return 0
      entries.delete(foundHash)
      entries.set(foundHash, found)
      cache.memorySum.set(found.memorySum)
      cache.covered = found.tokenIds.length
      return found.tokenIds.length
    },
    add(context, cache) {
      if (cache.covered === 0) return
      const tokenIds = new Int32Array(cache.covered)
      let hash = 0
      for (let i = 0; i < tokenIds.length; i++) {
        tokenIds[i] = context[i]!
        hash = next(hash, tokenIds[i]!)
      }
      entries.delete(hash)
      entries.set(hash, { tokenIds, memorySum: cache.memorySum.slice() })
      if (entries.size > MAX_ENTRIES) entries.delete(entries.keys().next().value!)
    },
    flush: () => entries.clear(),
  }
}

function next(hash: number, tokenId: number): number {
  const h = Math.imul(hash ^ (tokenId + 0x7f4a7c15), 0x85ebca6b)
  return (h ^ (h >>> 15)) | 0
}

function begins(context: ArrayLike<number>, tokenIds: Int32Array): boolean {
  for (let i = 0; i < tokenIds.length; i++) if (context[i] !== tokenIds[i]) return false
  return true
}
