/**
 * Stop strings in text that grows. Engines end a sample with the token that completes one; of several it is the one that ends first.
 */

/** Length of the longest end of `text` with which a stop string begins, and does not end. */
export function begunLength(text: string, stops: readonly string[]): number {
  let longest = 0
  for (const stop of stops) {
    for (let length = Math.min(stop.length - 1, text.length); length > longest; length--)
      if (text.endsWith(stop.slice(0, length))) longest = length
  }
  return longest
}

/** The end of the text of which a stop string may have begun there, or undefined. */
export function begunStop(text: string | null, stops: readonly string[]): string | undefined {
  if (text === null || stops.length === 0) return undefined
  const length = begunLength(text, stops)
  return length === 0 ? undefined : text.slice(-length)
}

/** End of the stop string that ends first, of those that end after `after` and begin before `before`; or -1. */
export function endOfStop(
  text: string,
  stops: readonly string[],
  after: number,
  before: number = Number.POSITIVE_INFINITY,
): number {
  let first = -1
  for (const stop of stops) {
    const at = text.indexOf(stop, Math.max(0, after - stop.length + 1))
    if (at !== -1 && at < before && (first === -1 || at + stop.length < first)) first = at + stop.length
  }
  return first
}
