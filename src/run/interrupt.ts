/**
 * Interrupts running attempts: each is ended at its engine, and its sample waits again as `interrupted`, with the tokens it has or
 * without them. A sample stays with its attempt until the server has ended the stream, so that the last tokens, and the server's own
 * version spans, are not lost (I8); one that ends by itself in that moment is complete as it is.
 */
import { waitAgain } from './again.ts'
import { detach, endAtEngine } from './detach.ts'
import type { Attempt, Run } from './run.ts'
import { wake } from './wake.ts'

/** What the sample does afterwards: continue from its tokens, or begin again. */
export type InterruptHow = 'resume' | 'restart'

/** What an interruption came to. Counted as its attempts end. */
export interface Interruption {
  readonly how: InterruptHow
  /** Samples that wait again. */
  samples: number
  /** Tokens that they go on from. */
  resumedTokens: number
  /** Tokens that were thrown away. */
  wastedTokens: number
}

/** Restarted twice, a sample is left to end (decision 5): a long one would never be done otherwise. */
const MOST_RESTARTS = 2

export function createInterruption(how: InterruptHow): Interruption {
  return { how, samples: 0, resumedTokens: 0, wastedTokens: 0 }
}

/**
 * Ends attempts at their engines, all at once. Their slots are free, and their samples wait again, as the servers end them; after 3 s their
 * sockets are closed. Attempts whose sample was restarted too often run on. @returns those that were interrupted
 */
export function interrupt(run: Run, attempts: Iterable<Attempt>, interruption: Interruption): Attempt[] {
  const interrupted = [...attempts].filter((attempt) => attempt.sample !== null && !mustRunOn(attempt, interruption))
  for (const attempt of interrupted) {
    const before = attempt.interruption
    attempt.interruption = interruption
    if (before === null) endAtEngine(run, attempt)
  }
  return interrupted
}

/**
 * The same where what the server still sends shall not count: samples wait again at once, with what they have, and the requests are ended behind
 * their backs.
 */
export function letGo(run: Run, attempts: Iterable<Attempt>, interruption: Interruption): void {
  for (const attempt of [...attempts]) {
    const { sample, instance } = attempt
    if (sample === null) continue
    attempt.interruption ??= interruption
    detach(run, attempt, 'interrupted', 'neutral')
    instance.totals.interrupted++
    waitAgain(run, attempt, sample, 'interrupted')
  }
  // Others may have room for them before the server has let go.
  wake(run, 'queue.changed')
}

function mustRunOn({ sample }: Attempt, { how }: Interruption): boolean {
  return how === 'restart' && sample!.restarts >= MOST_RESTARTS
}
