/**
 * Text on its way to a client that must not see stop strings: what may yet become one is held back.
 */
import { begunLength } from '../rollout/stop-text.ts'

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
      const keep = stop === undefined ? begunLength(held, stops) : 0
      const shown = held.slice(0, held.length - (stop?.length ?? keep))
      held = keep === 0 ? '' : held.slice(-keep)
      return shown
    },
    rest: () => held,
  }
}
