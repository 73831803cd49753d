/**
 * Seeded random numbers for the embedded engine and the simulator: same seed, same run, on every machine.
 * The generator is sfc32 (Chris Doty-Humphrey, PractRand: 128 bits of state, period about 2^127); the hash is the finaliser of
 * MurmurHash3 (Austin Appleby) folded over its arguments. Neither is fit for secrets.
 */

export interface Random {
  /** In [0, 1), 32 bits of it. */
  next(): number
  /** An integer in [0, n). */
  int(n: number): number
  /** Standard normal (Box and Muller 1958). */
  normal(): number
}

/** A small seeded generator of random numbers: the same seed, the same numbers. */
export function createRandom(seed: number): Random {
  let a = hash32(seed, 1)
  let b = hash32(seed, 2)
  let c = hash32(seed, 3)
  let counter = 1
  let spare: number | null = null

  function next(): number {
    const t = (((a + b) | 0) + counter) | 0
    counter = (counter + 1) | 0
    a = b ^ (b >>> 9)
    b = (c + (c << 3)) | 0
    c = ((c << 21) | (c >>> 11)) + t
    c |= 0
    return (t >>> 0) / 4294967296
  }

  return {
    next,
    int: (n) => Math.floor(next() * n),
    normal() {
      if (spare !== null) {
        const value = spare
        spare = null
        return value
      }
      const radius = Math.sqrt(-2 * Math.log(1 - next()))
      const angle = 2 * Math.PI * next()
      spare = radius * Math.sin(angle)
      return radius * Math.cos(angle)
    },
  }
}

/** Mixes numbers into 32 bits, unsigned. Numbers above 2^32 count with both halves. */
export function hash32(...numbers: number[]): number {
  let hash = 0x9e3779b9
  for (const number of numbers) {
    hash = mix(hash ^ (number | 0))
    const high = Math.floor(number / 4294967296)
    if (high !== 0 && high !== -1) hash = mix(hash ^ high)
  }
  return hash >>> 0
}

function mix(value: number): number {
  let h = (value + 0x6d2b79f5) | 0
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return h ^ (h >>> 16)
}
