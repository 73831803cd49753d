/**
 * What the parts of a running supervisor share: one record, made by createRun, passed to plain functions.
 * The parts are intake (tasks in, completions out), placement (who runs next), attempt (one HTTP generation), fleet
 * (membership and health) and phases (pause, weight update). None of them keeps state of its own.
 */
import type { ActorRefFrom } from 'xstate'
import type { instanceMachine, LeaseOutcome, supervisorMachine } from '../../machines/index.ts'
import type { Clock } from '../clock.ts'
import type { Capabilities, EngineDriver, Probe } from '../engines/driver.ts'
import { RolloutError } from '../errors.ts'
import type { CheckedInstance, CheckedOptions } from '../options.ts'
import type { Outcome, SegmentEnd } from '../rollout/completion.ts'
import type { Account, Ledger } from '../rollout/ledger.ts'
import type { LiveTask, Sample } from '../rollout/sample.ts'
import type { TaskKind } from '../rollout/task.ts'
import type { PlacementPolicy } from '../scheduling/policy.ts'
import type { Queue } from '../scheduling/queue.ts'
import type { Sessions } from '../scheduling/sessions.ts'
import type { CompletionSinks } from '../streams/completions.ts'
import type { Hub } from '../streams/hub.ts'
import type { Logger } from '../telemetry/logger.ts'
import type { SpareController } from './controllers.ts'
import type { LiveEpisode } from './episode.ts'
import type { Evaluation } from './evaluation.ts'
import type { Feed } from './feed.ts'
import type { GateKeeper } from './gate.ts'
import type { Interruption } from './interrupt.ts'
import type { Line } from './line.ts'
import type { Lacks } from './misfit.ts'
import type { Pace } from './pace.ts'
import type { Track } from './tracks.ts'

/** One HTTP generation under one lease. */
export interface Attempt {
  readonly requestId: string
  readonly instance: Instance
  readonly lease: number
  readonly controller: AbortController
  /** Attempts that had the controller before. */
  readonly served: number
  readonly placedAt: number
  /** Tokens the sample had when it began. */
  readonly start: number
  /** Version of the instance when it began. */
  readonly version: number | null
  firstTokenAt: number | null
  lastTokenAt: number
  /** When it began and when it last moved, in time as deadlines count it: both later by as long as it stood still on its server. */
  beganAt: number
  movedAt: number
  /** The sample it was begun for. */
  readonly owner: Sample
  /** Null once the sample has gone on without this attempt, which then only has its slot to give back. */
  sample: Sample | null
  /** What the lease is given back with once the sample has gone on. */
  outcome: LeaseOutcome
  /** Tokens it was good for, counted when the sample goes on. */
  produced: number
  reason: SegmentEnd
  /** How far its request has come; before it is sent there is nothing to abort. */
  stage: 'preparing' | 'sent' | 'accepted'
  /** Called once when the server has accepted the request. */
  onAccepted: (() => void) | null
  /** Closes its socket, where its driver has a short way and so hears of no signal. */
  hangUp: (() => void) | null
  /** Set from the moment it is interrupted: what its sample does when it has ended. */
  interruption: Interruption | null
  /** Tokens it had when new weights were loaded under it, and their version; null where that never happened. */
  seams: readonly Seam[] | null
  watch: unknown
}

/** A task whose prompt is being made into token ids. */
export interface Tokenizing {
  /** Instances that have said they cannot. */
  readonly refusedBy: Set<string>
  fruitless: number
  busy: number
  /** Set while a server is asked. */
  controller: AbortController | null
  /** Timer of its backoff. */
  timer: unknown
}

/** Tokens from `at` on may be of this version. */
export interface Seam {
  readonly at: number
  readonly version: number
}

/** One server of the fleet. */
export interface Instance {
  readonly id: string
  readonly spec: CheckedInstance
  readonly driver: EngineDriver
  readonly actor: ActorRefFrom<typeof instanceMachine>
  readonly account: Account
  /** Attempts whose lease is not given back yet. */
  readonly attempts: Set<Attempt>
  readonly totals: InstanceTotals
  /** Version that we last loaded there: all that is known of a server without labels. */
  loadedVersion: number | null
  /** Version that it shall have, which its tokens are stamped with: the fleet's, or while an update rolls its own. */
  version: number | null
  /** False from the moment its weights may have been touched until they are proved (R10). */
  isTrusted: boolean
  /** Who holds its gate closed. */
  readonly gate: Set<GateKeeper>
  /** How we hold the server itself, from before it was told to until it has proved to be open. */
  held: 'empty' | 'frozen' | null
  /** Since when its attempts stand still, in time as deadlines of each kind count it. */
  frozenSince: Readonly<Record<TaskKind, number>> | null
  /** Its GPU memory is given away. */
  isReleased: boolean
  /** Whatever has to end when it leaves. */
  readonly onLeaving: Set<(error: RolloutError) => void>
  /** Settles when the last load of weights there has ended. */
  loading: Promise<unknown>
  /** When the last update is tried there again, and how often it has failed in a row. */
  readonly bringing: { timer: unknown; tries: number }
  probe: Probe | null
  /** What it cannot run, by the form of the prompt, and from which token id on. */
  lacks: Lacks
  vocabulary: number
  /** Both as one word: instances of one kind can run the same samples. */
  kind: string
  /** False once it has said that it has no tokenizer route. */
  tokenizes: boolean
  /** Prompts that it is asked to make into token ids right now. */
  tokenizerCalls: number
  /** When it last answered or sent tokens; -Infinity from the moment it hung up until it answers a probe. */
  heardAt: number
  /** Timer of its watchdog, while attempts run there. */
  watchdog: unknown
  /** Timer after which a machine that refused is asked again; its limit is kept meanwhile. */
  refusal: { readonly timer: unknown; readonly limit: number } | null
  fault: Error | null
  /** Called when it has left the fleet. */
  readonly onLeft: (() => void)[]
}

/** Counted since the instance joined. */
export interface InstanceTotals {
  placed: number
  completed: number
  failed: number
  interrupted: number
  tokens: number
  /** Milliseconds that samples waited before they were placed here. */
  waitedMs: number
}

export interface Counts {
  submitted: number
  waiting: number
  running: number
  readonly ended: Record<Outcome, number>
}

/** Episodes: submitted = live + the sum of ended. */
export interface Episodes {
  readonly live: Map<string, LiveEpisode>
  submitted: number
  readonly ended: Record<Outcome, number>
  /** Of the ids that we give. */
  last: number
}

/** New weights, and how they come to a server. */
export interface Update {
  readonly version: number
  /** `frozen`: requests stand still there, and are computed anew afterwards. */
  readonly apply: (instance: Instance, frozen: boolean, signal: AbortSignal) => Promise<void>
  /** True where the driver loads, which flushes and proves it; false where the user's function does. */
  readonly isOurs: boolean
}

export interface Run {
  readonly options: CheckedOptions
  readonly clock: Clock
  readonly log: Logger
  readonly actor: ActorRefFrom<typeof supervisorMachine>
  readonly ledger: Ledger
  readonly policy: PlacementPolicy
  readonly queue: Queue<Sample>
  readonly instances: Map<string, Instance>
  /** Instances that were added from inside a placement step, until it has ended. */
  readonly joining: Set<CheckedInstance>
  /** Instances that have left, whose drivers are not closed yet. */
  readonly leaving: Set<Instance>
  readonly tasks: Map<string, LiveTask>
  /** Attempts by the sample they run for. */
  readonly attempts: Map<Sample, Attempt>
  /** Samples that wait outside the queue: for token ids, for a weight version, or for a backoff to end. */
  readonly parked: Set<Sample>
  /** Tasks that wait for token ids, in order of submission. */
  readonly tokenizing: Map<LiveTask, Tokenizing>
  /** Time as deadlines count it, and what has one. */
  readonly paces: Readonly<Record<TaskKind, Pace>>
  readonly spareControllers: SpareController[]
  /** The instance whose machine has not yet been told that a slot there was given back: the next sample may take it over. */
  passing: Instance | null
  readonly counts: Counts
  readonly sessions: Sessions
  readonly episodes: Episodes
  readonly hub: Hub
  readonly sinks: CompletionSinks
  /** Number of placement steps taken: events to the supervisor's actor that led to `place`. */
  steps: number
  lastTask: number
  lastRequest: number
  /** Place in line of the sample that came last. */
  lastOrder: number
  readonly runId: string
  version: number | null
  lastUpdate: Update | null
  /** Update, evaluation, pause, resume and drain of the run, one after the other. */
  readonly line: Line
  /** From the turn of a pause to that of the resume. */
  isHalted: boolean
  /** Pauses that were asked for and wait for their turn. */
  pausesWaiting: number
  /** The evaluation whose turn it is. */
  evaluation: Evaluation | null
  /** From an update with `restart` to one that is not: a sample that moves to another version begins again. */
  oneVersion: Interruption | null
  /** True from the moment close() was called. */
  closing: boolean
  /** Ways in which instances differ, while samples wait for some of them only. */
  readonly tracks: Track[]
  /** Largest and smallest vocabulary that instances reported or the user declared. */
  vocabularySize: number | null
  smallestVocabulary: number | null
  /** Tasks that the last on-policy batch left for the next. */
  readonly carried: Set<LiveTask>
  /** Tasks of which a batch is made, until it is handed out. Some have ended. */
  readonly kept: Map<LiveTask, 'rollout' | 'batches'>
  /** Tasks of a stream of batches of the run that was restored: the first stream that is opened takes them over. */
  readonly orphans: Set<LiveTask>
  /** Samples of theirs that wait for it: nothing to wait for, for whoever waits for the end. */
  carriedSamples: number
  /** Open streams of batches, the one whose turn it is first. */
  readonly feeds: Set<Feed>
  /** Told after the fleet was brought to another version, before anything resumes. */
  readonly onVersion: Set<() => void>
  /** Waiters for the moment when nothing is waiting or running. */
  readonly onIdle: Set<() => void>
  /** Waiters told after each lease given back. */
  readonly onReleased: Set<() => void>
  /** Whatever has to end when the run is closed. */
  readonly onClosing: Set<(error: RolloutError) => void>
}

const NOTHING: Capabilities = {
  tokenIds: false,
  logprobs: 'none',
  abortById: false,
  versions: 'none',
  updateWeights: false,
  loadReport: false,
  pause: [],
  release: false,
}

/** What the instance said it can do; nothing before it was probed. */
export function can(instance: Instance): Capabilities {
  return instance.probe?.capabilities ?? NOTHING
}

/** False once the instance has left, or the run is closing: it is told nothing any more. */
export function isMember(run: Run, instance: Instance): boolean {
  return !run.closing && run.instances.get(instance.id) === instance
}

/** True when nothing runs, episodes that are between two turns included, and nothing waits that will run by itself. */
export function isIdle(run: Run): boolean {
  return run.counts.waiting + run.counts.running === run.carriedSamples && run.episodes.live.size === 0
}

export function mustBeOpen(run: Run, method: string): void {
  if (run.closing) throw new RolloutError('CLOSED', `${method} was called after close(); create a new supervisor`)
}
