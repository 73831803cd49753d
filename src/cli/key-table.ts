/**
 * A map from text keys to small numbers that stays small with millions of keys: 64 bits of a hash stand for a key, in an open-addressing
 * table of three 32-bit columns. Some 16 to 32 bytes a key; amortised O(1). Two of a million keys are mistaken for each other with
 * a chance of about 1 in 40 million.
 */
import { hash } from 'node:crypto'

export interface KeyTable {
  readonly size: number
  /** 0 where the key is not there. */
  get(key: string): number
  /** `value` is an integer from 1 to 2^32 - 1. @returns what the key had before, or 0 */
  set(key: string, value: number): number
}

const FIRST_SLOTS = 1_024

export function createKeyTable(): KeyTable {
  let slots = FIRST_SLOTS
  let high = new Uint32Array(slots)
  let low = new Uint32Array(slots)
  let values = new Uint32Array(slots)
  let size = 0

  /** The slot that holds the key, or the empty one where it belongs. */
  function find(h: number, l: number): number {
    let slot = l & (slots - 1)
    while (values[slot] !== 0 && (high[slot] !== h || low[slot] !== l)) slot = (slot + 1) & (slots - 1)
    return slot
  }

  function grow(): void {
    const [oldHigh, oldLow, oldValues] = [high, low, values]
    slots *= 2
    high = new Uint32Array(slots)
    low = new Uint32Array(slots)
    values = new Uint32Array(slots)
    for (let old = 0; old < oldValues.length; old++) {
      if (oldValues[old] === 0) continue
      const slot = find(oldHigh[old]!, oldLow[old]!)
      high[slot] = oldHigh[old]!
      low[slot] = oldLow[old]!
      values[slot] = oldValues[old]!
    }
  }

  return {
    get size() {
      return size
    },
    get(key) {
      const digest = hash('sha1', key, 'buffer')
      return values[find(digest.readUInt32LE(0), digest.readUInt32LE(4))]!
    },
    set(key, value) {
      const digest = hash('sha1', key, 'buffer')
      const [h, l] = [digest.readUInt32LE(0), digest.readUInt32LE(4)]
      let slot = find(h, l)
      const before = values[slot]!
      if (before === 0) {
        size += 1
        // Three quarters full: chains stay short.
        if (size * 4 > slots * 3) {
          grow()
          slot = find(h, l)
        }
      }
      high[slot] = h
      low[slot] = l
      values[slot] = value
      return before
    },
  }
}
