/**
 * A placement policy chooses an instance for the next sample. It is incremental and pure: told of every change of an
 * instance, it keeps what it needs to answer `pick` without looking at the whole fleet.
 */

/** What a policy sees of an instance. The same object is handed over each time; its fields change in place. */
export interface InstanceLoad {
  readonly id: string
  /** Sequences that may run at once; 0 while the instance takes no work. */
  readonly limit: number
  /** Sequences that hold a slot. */
  readonly running: number
  /** The user's word for relative speed. */
  readonly weight: number
  /** Grows with each grant: smaller means longer unused. */
  readonly lastGranted: number
  /** Failures of the server in a row; 0 while it works. */
  readonly failures: number
}

/** What a policy may know of a sample: never its prompt. */
export interface Placeable {
  readonly taskId: string
  readonly sample: number
  readonly kind: 'rollout' | 'evaluation'
  readonly priority: number
  /** Tokens it already has, when it resumes. */
  readonly resumedTokens: number
  /**
   * Set where not every instance can run the sample (vocabulary, log-probabilities, options that an engine does not know): says of an id
   * whether that one can. A policy may leave it aside: where its choice does not fit, least-request over those that do decides.
   */
  readonly fits?: (id: string) => boolean
  /** The instance that has the prefix of its session, or null. It may be full or gone. */
  readonly preferred: string | null
}

/** Chooses the instance of the next sample. Implement it to place by rules of your own. */
export interface PlacementPolicy {
  readonly name: string
  /**
   * Whether a sample goes to the instance that has the prefix of its session, while that has a free slot, without `pick` being asked. With `false`
   * every sample is picked, and may be picked by its `preferred`. @default true
   */
  readonly sticky?: boolean
  add(instance: InstanceLoad): void
  remove(id: string): void
  /** The instance's limit or running count changed. */
  changed(instance: InstanceLoad): void
  /** An instance with a free slot (`running < limit`), or null to let the sample wait. */
  pick(sample: Placeable): string | null
}

export function hasRoom(instance: InstanceLoad): boolean {
  return instance.running < instance.limit
}
