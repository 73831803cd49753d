/**
 * Seeds for engines: a hash of (seed, sample, segment), so that the samples of one task differ and a resumed sample does
 * not repeat the noise of its first attempt (decision 19).
 */

/** 31 bits: the range that every engine accepts as a seed. */
export function segmentSeed(seed: number, sample: number, segment: number): number {
  let hash = mix(seed >>> 0)
  hash = mix(hash ^ Math.floor(seed / 2 ** 32))
  hash = mix(hash ^ (sample + 0x9e37_79b9))
  hash = mix(hash ^ (segment + 0x85eb_ca6b))
  return hash >>> 1
}

/** Finaliser of MurmurHash3 (public domain, Austin Appleby): every input bit changes half of the output bits. */
function mix(value: number): number {
  let hash = value
  hash = Math.imul(hash ^ (hash >>> 16), 0x85eb_ca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2_ae35)
  return (hash ^ (hash >>> 16)) >>> 0
}
