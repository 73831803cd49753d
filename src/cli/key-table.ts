/**
 * A map from text keys to small numbers that stays small with millions of keys: 64 bits of a hash stand for a key, in an open-addressing
 * table of three 32-bit columns. Some 16 to 32 bytes a key; amortised O(1). Two of a million keys are mistaken for each other with
 * a chance of about 1 in 40 million. The hash is two MurmurHash3-like lanes (Austin Appleby) that are mixed at the end.
 */

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

  /** Halves of the last hash, which would otherwise be an object for every key. */
  let h = 0
  let l = 0
  function hash(key: string): void {
    let [a, b] = [0x9e3779b9, 0x6d2b79f5]
    for (let at = 0; at < key.length; at++) {
      const code = key.charCodeAt(at)
      a = Math.imul(a ^ code, 0x85ebca6b)
      a ^= a >>> 15
      b = Math.imul(b ^ code, 0xc2b2ae35)
      b ^= b >>> 13
    }
    a = Math.imul(a ^ (b >>> 16), 0x9e3779b1)
    b = Math.imul(b ^ (a >>> 15), 0x85ebca77)
    h = (a ^ (a >>> 16)) >>> 0
    l = (b ^ (b >>> 13)) >>> 0
  }

  /** The slot that holds the key, or the empty one where it belongs. */
  function find(): number {
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
      h = oldHigh[old]!
      l = oldLow[old]!
      const slot = find()
      high[slot] = h
      low[slot] = l
      values[slot] = oldValues[old]!
    }
  }

  return {
    get size() {
      return size
    },
    get(key) {
      hash(key)
      return values[find()]!
    },
    set(key, value) {
      hash(key)
      let slot = find()
      const before = values[slot]!
      if (before === 0) {
        size += 1
        // Three quarters full: chains stay short.
        if (size * 4 > slots * 3) {
          grow()
          hash(key)
          slot = find()
        }
      }
      high[slot] = h
      low[slot] = l
      values[slot] = value
      return before
    },
  }
}
