/**
 * What is known of a session: the instance that has the prefix of its last turn in its cache.
 */
export interface Session {
  /** Null before its first turn, and after a failure there. */
  instance: string | null
  /** Weights that the prefix was computed with. */
  version: number | null
}
