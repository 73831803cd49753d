/**
 * Reads the events of SGLang's deltas form that say nothing new but one token, without parsing them: some 400 bytes of JSON, of which all but
 * this is the same from event to event of a stream, character for character:
 *
 *     {"text":"a","output_ids":[7],"meta_info":{ ... "output_token_logprobs":[[-1.25,7,null]],"output_token_logprobs_length":12, ... "completion_tokens":12, ... }}
 *              ^                7                                             ^^^^^^^^                                     12                          12
 *
 * An event that differs in anything else, an end or a new label of the weights above all, is left to the parser. What is the same is learnt from
 * events that it has parsed.
 */

export interface TokenEventReader {
  /** Learns from an event of one token that goes on, as it was parsed. `total`: its `completion_tokens`. */
  learn(data: string, total: number): void
  /** False where it must be parsed; else what is new of it is below. */
  read(data: string): boolean
  readonly tokenId: number
  readonly logprob: number
  readonly text: string
  readonly total: number
}

/** The parts between what is new. */
interface Shape {
  readonly meta: string
  readonly length: string
  readonly total: string
  readonly rest: string
}

const EVENT =
  /^\{"text":"(?:[^"\\]|\\.)*","output_ids":\[\d+(\],"meta_info":\{.*"output_token_logprobs":\[\[)[^,\]]+,\d+(,null\]\],"output_token_logprobs_length":)(\d+)(,.*"completion_tokens":)(\d+)(\D.*)$/s
const TEXT = '{"text":"'
const IDS = '","output_ids":['
/** A server whose events always differ in more is not learnt from for ever. */
const LESSONS = 8

export function createTokenEventReader(): TokenEventReader {
  let same: Shape | null = null
  let lessons = 0
  let tokenId = 0
  let logprob = 0
  let text = ''
  let total = 0
  /** Where the number that was read last ends. */
  let end = 0

  /** Of decimal digits; -1 where there are none. */
  function numberAt(data: string, start: number): number {
    let value = 0
    end = start
    for (;;) {
      const digit = data.charCodeAt(end) - 48
      // Also false at the end of all, where it is NaN.
      if (!(digit >= 0 && digit <= 9)) return end === start ? -1 : value
      value = value * 10 + digit
      end++
    }
  }

  return {
    learn(data, count) {
      if (lessons === LESSONS) return
      lessons++
      const [, meta, length, listed, upToTotal, counted, rest] = EVENT.exec(data) ?? []
      const isKnown = listed === String(count) && counted === listed
      same = isKnown ? { meta: meta!, length: length!, total: upToTotal!, rest: rest! } : null
    },
    read(data) {
      if (same === null || !has(data, 0, TEXT)) return false
      const textEnd = data.indexOf(IDS, TEXT.length)
      if (textEnd === -1) return false
      const id = numberAt(data, textEnd + IDS.length)
      if (!has(data, end, same.meta)) return false
      const from = end + same.meta.length
      const comma = data.indexOf(',', from)
      const value = Number(data.slice(from, comma))
      if (numberAt(data, comma + 1) !== id || !has(data, end, same.length)) return false
      const count = numberAt(data, end + same.length.length)
      if (!has(data, end, same.total) || numberAt(data, end + same.total.length) !== count) return false
      if (data.length !== end + same.rest.length || !has(data, end, same.rest)) return false
      if (id < 0 || count < 0 || comma === from || !Number.isFinite(value)) return false
      const said = textOf(data.slice(TEXT.length, textEnd))
      if (said === null) return false
      text = said
      tokenId = id
      logprob = value
      total = count
      lessons = 0
      return true
    },
    get tokenId() {
      return tokenId
    },
    get logprob() {
      return logprob
    },
    get text() {
      return text
    },
    get total() {
      return total
    },
  }
}

/** Null where it is more than a text: another field may end it. */
function textOf(raw: string): string | null {
  if (!raw.includes('"') && !raw.includes('\\')) return raw
  try {
    return JSON.parse(`"${raw}"`)
  } catch {
    return null
  }
}

/** Faster than `startsWith`, by three times on what was cut out of a longer text. */
function has(data: string, at: number, part: string): boolean {
  return data.slice(at, at + part.length) === part
}
