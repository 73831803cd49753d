/**
 * Text on its way to a client that must not see stop strings: what may yet become one is held back.
 */

export interface StopText {
  /** What may be sent now that these characters have come. */
  push(text: string): string
  /** What is still held back, where no stop string came of it. */
  rest(): string
}

/** At most one stop string is found, at the end of what was pushed, as an engine looks after every token. */
export function createStopText(stops: readonly string[]): StopText {
  let held = ''
  return {
    push(text) {
      held += text
      const stop = stops.find((each) => held.endsWith(each))
      const keep = stop === undefined ? longestBeginning(held, stops) : 0
      const shown = held.slice(0, held.length - (stop?.length ?? keep))
      held = keep === 0 ? '' : held.slice(-keep)
      return shown
    },
    rest: () => held,
  }
}

/** Length of the longest end of `text` with which a stop string begins. */
function longestBeginning(text: string, stops: readonly string[]): number {
  let longest = 0
  for (const stop of stops) {
    for (let length = Math.min(stop.length - 1, text.length); length > longest; length--)
      if (text.endsWith(stop.slice(0, length))) longest = length
  }
  return longest
}
