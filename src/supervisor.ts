/**
 * createSupervisor: checks the options, wires the parts, hands out the handle. The handle holds no logic of its own.
 */
import type { Observable } from 'rxjs'
import { checkCall, checkInteger, checkNumber, checkSignal } from './checks.ts'
import { messageOf, RolloutError } from './errors.ts'
import { checkInstance, checkOptions, type InstanceOptions, type SupervisorOptions } from './options.ts'
import type { Batch } from './rollout/batch.ts'
import { checkEpisode } from './rollout/check-episode.ts'
import { checkTask } from './rollout/check-task.ts'
import type { Completion } from './rollout/completion.ts'
import type { EpisodeCode, EpisodeOptions, EpisodeResult } from './rollout/episode.ts'
import type { Group } from './rollout/group.ts'
import type { SavedState } from './rollout/saved.ts'
import type { Task } from './rollout/task.ts'
import { type BatchesOptions, checkBatches } from './run/batch-options.ts'
import { openBatches } from './run/batches.ts'
import { closeRun } from './run/close.ts'
import { createRun } from './run/create-run.ts'
import { drainRun } from './run/drain-run.ts'
import { runEpisode } from './run/episode.ts'
import { evaluate } from './run/evaluate.ts'
import { drain, probe } from './run/fleet.ts'
import { admit, hasFreeSlot, mustBeFree, withdraw } from './run/intake.ts'
import { join } from './run/join.ts'
import { type RolloutOptions, rolloutBatch } from './run/on-policy.ts'
import { type PauseReport, pauseRun, resumeRun } from './run/pause.ts'
import { placesWork } from './run/phase.ts'
import {
  checkEvaluation,
  checkPause,
  checkResume,
  checkUpdate,
  type EvaluateOptions,
  type PauseOptions,
  type ResumeOptions,
  type WeightUpdateOptions,
} from './run/phase-options.ts'
import { restoreRun } from './run/restore.ts'
import { Rollout } from './run/rollout.ts'
import { mustBeOpen, type Run } from './run/run.ts'
import { saveRun } from './run/save.ts'
import type { TaskSource } from './run/source.ts'
import { tellPhase } from './run/tell-phase.ts'
import { type UpdateReport, updateFleet } from './run/update.ts'
import { type FleetView, statesOf, viewFleet } from './run/views.ts'
import type { SupervisorEvent } from './telemetry/events.ts'

/** Options of `completions()`. */
export interface CompletionsOptions {
  readonly signal?: AbortSignal
  /** Completions held before admission of new tasks stops: integer >= 1. @default 1024 */
  readonly highWaterMark?: number
}

const DEFAULT_HIGH_WATER_MARK = 1_024
/** Probes of a large fleet go out this many at a time. */
const PROBES_AT_ONCE = 64

/**
 * Builds a supervisor from its options. No request is sent before `start()`.
 * @throws RolloutError INVALID_OPTIONS that lists every problem
 */
export function createSupervisor(options: SupervisorOptions = {}): Supervisor {
  return new Supervisor(options)
}

/** The handle of a run. Made by createSupervisor. */
export class Supervisor {
  readonly #run: Run
  readonly #onClose = new Set<() => void>()
  #starting: Promise<void> | null = null
  #closing: Promise<void> | null = null

  /** Every completion, evaluations included: hot, one item per sample, never errors, completes on close. */
  readonly completions$: Observable<Completion>
  readonly groups$: Observable<Group>
  /** Placements, states, phases and faults. Events are built only while somebody subscribes. */
  readonly events$: Observable<SupervisorEvent>
  /** The fleet now, then its changes, at most ten a second. */
  readonly states$: Observable<FleetView>

  /**
   * Tasks of the state that it was restored from, those of batches aside that had ended. Their results come as those of any task; the groups of a batch
   * come with the next `rollout()` or `batches()`.
   */
  readonly restored: readonly Rollout[]

  constructor(options: SupervisorOptions) {
    const checked = checkOptions(options)
    this.#run = createRun(checked)
    join(this.#run, checked.instances, () => {})
    const tasks = checked.restore === null ? [] : restoreRun(this.#run, checked.restore)
    this.restored = tasks.map((task) => new Rollout(this.#run, task))
    this.completions$ = this.#run.hub.completions.asObservable()
    this.groups$ = this.#run.hub.groups.asObservable()
    this.events$ = this.#run.hub.events.asObservable()
    this.states$ = statesOf(this.#run, this.#onClose)
  }

  /**
   * Probes every instance and opens the run. Instances that do not answer are reported, and probed again while the run goes on.
   * @throws RolloutError NO_INSTANCES, naming each, when fewer than `minInstances` can take work
   */
  start(): Promise<void> {
    this.#starting ??= this.#start()
    return this.#starting
  }

  async #start(): Promise<void> {
    const run = this.#run
    mustBeOpen(run, 'start')
    const waiting = [...run.instances.values()]
    const lane = async (): Promise<void> => {
      for (let instance = waiting.shift(); instance !== undefined; instance = waiting.shift())
        await probe(run, instance)
    }
    await Promise.all(Array.from({ length: Math.min(PROBES_AT_ONCE, waiting.length) }, lane))
    if (run.closing) throw new RolloutError('CLOSED', 'start was overtaken by close()')
    run.actor.send({ type: 'fleet.ready' })
    tellPhase(run)
    run.line.look()
    const isRestored = run.version !== null && run.lastUpdate === null
    const open = [...run.instances.values()].filter(({ account, actor }) => {
      const state = actor.getSnapshot()
      // Servers with other weights than the restored run had wait for the trainer's first update.
      return account.limit > 0 || state.matches('paused') || (isRestored && state.matches('stale'))
    })
    if (open.length >= run.options.minInstances) return
    const faults = [...run.instances.values()].filter((instance) => instance.fault !== null)
    const lines = faults.map(({ id, fault }) => {
      const words = messageOf(fault)
      return `\n  ${words.startsWith(`instance ${id} `) ? '' : `${id}: `}${words}`
    })
    const { minInstances } = run.options
    throw new RolloutError(
      'NO_INSTANCES',
      `expected at least ${minInstances} ${minInstances === 1 ? 'instance' : 'instances'} to take work, found ${open.length} of ${run.instances.size}${lines.join('')}`,
      { errors: faults.map(({ fault }) => fault as RolloutError) },
    )
  }

  /**
   * Admits a task; its samples run as slots become free.
   * @throws RolloutError INVALID_TASK, DUPLICATE_TASK or CLOSED
   */
  submit<M = unknown>(task: Task<M>): Rollout<M> {
    return new Rollout<M>(this.#run, admit(this.#run, task))
  }

  /**
   * Runs the code of an episode: turns of a policy with tools and environments in between, joined to one trajectory. No slot is held between turns.
   * Resolves with one result whatever happens, also to what the code throws.
   * @throws RolloutError INVALID_OPTIONS, DUPLICATE_TASK or CLOSED: nothing has begun
   */
  async episode<T, M = unknown>(
    code: EpisodeCode<T, M>,
    options: EpisodeOptions<M> = {},
  ): Promise<EpisodeResult<T, M>> {
    return runEpisode(this.#run, code, checkEpisode(code, options))
  }

  /**
   * Submits the task if its first sample gets a slot at once; otherwise nothing has happened, and the answer is null. Text and chat messages
   * are made into token ids first: they are taken where a slot is free that no such task before them waits for.
   * @throws RolloutError INVALID_TASK, DUPLICATE_TASK or CLOSED, whether there is a slot or not
   */
  trySubmit<M = unknown>(task: Task<M>): Rollout<M> | null {
    const run = this.#run
    if (run.queue.size > 0 || !hasFreeSlot(run) || !placesWork(run)) {
      mustBeOpen(run, 'trySubmit')
      checkTask(task, run.vocabularySize)
      if (task.id !== undefined) mustBeFree(run, task.id)
      return null
    }
    const live = admit(run, task)
    if (live.started || live.ended > 0 || run.tokenizing.has(live)) return new Rollout<M>(run, live)
    withdraw(run, live)
    return null
  }

  /** Rollout completions with back-pressure: a slow reader slows admission, nothing is dropped. */
  completions(options: CompletionsOptions = {}): AsyncIterableIterator<Completion> {
    const checked = checkCall('completions', ['signal', 'highWaterMark'], options, (report) => ({
      highWaterMark: checkInteger(report, 'highWaterMark', options.highWaterMark, { min: 1 }, DEFAULT_HIGH_WATER_MARK),
      signal: checkSignal(report, options.signal),
    }))
    return this.#run.sinks.open(checked)
  }

  /**
   * On-policy: one batch for one step of training. Resolves when all groups have ended, or `stopAfter` of them are complete; with the
   * groups in the order of the tasks, incomplete ones among them, and then what was carried over from the call before.
   * @throws RolloutError, as a rejection: ALL_REJECTED when none is complete, INVALID_TASK, DUPLICATE_TASK, CLOSED
   */
  async rollout<M = unknown>(tasks: Iterable<Task<M>>, options: RolloutOptions = {}): Promise<Group<M>[]> {
    mustBeOpen(this.#run, 'rollout')
    return (await rolloutBatch(this.#run, tasks, options)) as Group<M>[]
  }

  /**
   * Off-policy: batches of whole groups out of a source of tasks. Every slot that is free refills from the source, which is asked only
   * for what may run now: the bound on staleness and this reader's pace are the one gate. Begins with the first `next()`;
   * leaving the loop cancels what runs.
   * @throws RolloutError, out of the loop: ALL_REJECTED, SOURCE_FAILED, CLOSED
   */
  batches<M = unknown>(source: TaskSource<M>, options: BatchesOptions<M>): AsyncIterableIterator<Batch<M>> {
    mustBeOpen(this.#run, 'batches')
    const checked = checkBatches(source, options)
    return openBatches(this.#run, source, checked) as AsyncIterableIterator<Batch<M>>
  }

  /**
   * Runs evaluations before everything else, and interrupts rollouts for them where slots are missing (`interrupt`). Takes its turn in the line
   * of phase operations, and keeps the version of the weights that it begins with: an update waits for it. Resolves to the groups in the order
   * of the tasks; what had not ended at `timeoutMs`, by the signal or at close() is in them as `expired` or `cancelled`.
   * @throws RolloutError INVALID_TASK, DUPLICATE_TASK or INVALID_OPTIONS, with nothing admitted
   */
  async evaluate<M = unknown>(tasks: readonly Task<M>[], options: EvaluateOptions = {}): Promise<Group<M>[]> {
    return evaluate(this.#run, tasks, checkEvaluation(tasks, options))
  }

  /**
   * Stops placement the moment it is called, until `resume()`; resolves when, in its turn, nothing runs any more or stands still on the servers.
   * @throws RolloutError WRONG_PHASE that names the instances where that failed; the run is paused all the same
   */
  async pause(options: PauseOptions = {}): Promise<PauseReport> {
    const run = this.#run
    mustBeOpen(run, 'pause')
    const pause = checkPause(options)
    return pauseRun(run, pause)
  }

  /** Takes memory back that was given away, opens servers that stood still, and places again. Instances that do not come back are in the report. */
  async resume(options: ResumeOptions = {}): Promise<PauseReport> {
    const run = this.#run
    mustBeOpen(run, 'resume')
    const { timeoutMs } = checkResume(options)
    return run.line.enter({ name: 'resume', timeoutMs }, () => resumeRun(run))
  }

  /**
   * Brings every instance to new weights: gates closed, running generations treated as `mode` says, the servers quiet by their own count, loaded,
   * caches emptied, the version read back, gates opened. An instance that fails a step is named in the report, taken out, and never left paused.
   * @throws RolloutError UPDATE_FAILED when fewer than `minInstances` made it; INVALID_OPTIONS for a version that does not grow
   */
  async updateWeights(options: WeightUpdateOptions): Promise<UpdateReport> {
    const run = this.#run
    mustBeOpen(run, 'updateWeights')
    const update = checkUpdate(options)
    return run.line.enter({ name: 'updateWeights', timeoutMs: update.timeoutMs }, () => updateFleet(run, update))
  }

  /** Adds an instance while running; it takes work as soon as it answers. @returns its id */
  add(options: InstanceOptions): string {
    const run = this.#run
    mustBeOpen(run, 'add')
    const instance = checkInstance(options)
    join(run, [instance], (joined) => void probe(run, joined))
    return instance.id
  }

  /** Gives an instance no new work, and removes it when its last generation ends or `timeoutMs` has passed; what still runs then resumes elsewhere. */
  async drain(id: string, options: { readonly timeoutMs?: number } = {}): Promise<void> {
    const timeoutMs = checkCall('drain', ['timeoutMs'], options, (report) =>
      checkNumber(report, 'timeoutMs', options.timeoutMs, { min: 0 }, null),
    )
    mustBeOpen(this.#run, 'drain')
    await drain(this.#run, id, timeoutMs)
  }

  /** Removes an instance now: what runs there resumes elsewhere. */
  async remove(id: string): Promise<void> {
    mustBeOpen(this.#run, 'remove')
    await drain(this.#run, id, 0)
  }

  /**
   * The run at this moment as plain data, for `createSupervisor({ restore })`: queue, partial tokens, groups that are not whole, finished groups that no
   * batch has handed out, counts. Stops nothing; what changes later is not in it, so what is handed out after it comes again (at least once).
   * Episodes, signals and listeners are code and are left out.
   * @throws RolloutError NOT_SAVABLE that names each task whose `meta` JSON cannot hold
   */
  save(): SavedState {
    return saveRun(this.#run)
  }

  getSnapshot(): FleetView {
    return viewFleet(this.#run)
  }

  /** Version of the weights that the fleet was last brought to; null before the first update. */
  get version(): number | null {
    return this.#run.version
  }

  /** The XState actor; `actor.system.inspect(observer)` attaches an inspector while running. */
  get actor(): Run['actor'] {
    return this.#run.actor
  }

  /**
   * Resolves when nothing is waiting or running and no episode is left; groups that were carried over to the next `rollout()` do not count. Phase
   * operations asked for after it wait for that, unless the run cannot go on without them.
   */
  async drainAll(options: { readonly signal?: AbortSignal } = {}): Promise<void> {
    const run = this.#run
    const signal = checkCall('drainAll', ['signal'], options, (report) => checkSignal(report, options.signal))
    return drainRun(run, signal)
  }

  /** Cancels what is live, tells the engines, and ends every actor, timer and socket. Called twice, it is the same close. */
  close(): Promise<void> {
    this.#closing ??= closeRun(this.#run, this.#onClose)
    return this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}
