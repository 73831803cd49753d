/**
 * What happens in a run, as one closed union. Built only while somebody listens.
 * No prompt, token or secret is in any event but `sample.tokens`, which only `rollout.events` carries.
 */
import type { RolloutError } from '../errors.ts'
import type { Outcome, SegmentEnd } from '../rollout/completion.ts'
import type { TaskKind } from '../rollout/task.ts'

/** Why a waiting sample is not running (I7). */
export type WaitReason =
  | 'capacity'
  | 'backPressure'
  | 'staleness'
  | 'gate'
  | 'version'
  | 'backoff'
  | 'turn'
  | 'phase'
  /** For the next `rollout()`, which it was carried over to. */
  | 'carried'
  /** Its text or chat prompt is being made into token ids. */
  | 'tokenizing'

/** What the run is doing. */
export type Phase = 'starting' | 'rollout' | 'evaluation' | 'paused' | 'weightUpdate' | 'stopping' | 'stopped'

/** The state of an instance as its machine says it, joined by dots: `serving.busy`, `unhealthy.open`. */
export type InstanceState = string

interface At {
  /** Clock milliseconds. */
  readonly at: number
}

/** Something happened to a sample. */
export type SampleEvent = At & { readonly taskId: string; readonly sample: number; readonly kind: TaskKind } & (
    | { readonly type: 'sample.queued'; readonly reason: 'submitted' | 'interrupted' | 'retry' }
    | {
        readonly type: 'sample.placed'
        readonly instance: string
        readonly lease: number
        readonly resumedTokens: number
      }
    /** The slot is free again. Comes after `sample.ended` where a cancelled request had still to leave its server. */
    | {
        readonly type: 'sample.released'
        readonly instance: string
        readonly lease: number
        readonly reason: SegmentEnd
        readonly tokens: number
      }
    | { readonly type: 'sample.ended'; readonly outcome: Outcome; readonly tokens: number }
  )

/** Something happened to an instance. */
export type InstanceEvent = At & { readonly instance: string } & (
    | { readonly type: 'instance.state'; readonly state: InstanceState }
    | { readonly type: 'instance.left' }
    | { readonly type: 'instance.fault'; readonly error: RolloutError }
  )

/** Something happened to the run. */
export type RunEvent = At &
  (
    | { readonly type: 'run.phase'; readonly phase: Phase }
    | { readonly type: 'run.version'; readonly version: number }
    | { readonly type: 'run.fault'; readonly error: RolloutError }
  )

/** Something happened to an episode. What happens to its turns, the tasks `<id>#1` and so on, is told as of any sample. */
export type EpisodeEvent = At & { readonly episodeId: string; readonly kind: TaskKind } & (
    | { readonly type: 'episode.began' }
    /** `turns` counts all that were begun, `tokens` those of the trajectory. */
    | { readonly type: 'episode.ended'; readonly outcome: Outcome; readonly turns: number; readonly tokens: number }
  )

/** Anything that `events$` carries. */
export type SupervisorEvent = SampleEvent | EpisodeEvent | InstanceEvent | RunEvent
