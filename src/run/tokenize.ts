/**
 * Text and chat prompts become token ids once a task, at admission, before any of its samples has a slot (decision 21). Any serving instance
 * with a tokenizer is asked, few at a time, first come first served; other tasks do not wait for it, and the samples then stand where they
 * were submitted. Where no server of the fleet can, text is sent as it is and begins again when it is interrupted.
 */
import { RolloutError, type RolloutErrorCode, toRolloutError } from '../errors.ts'
import type { LiveTask } from '../rollout/sample.ts'
import { decideRetry } from '../scheduling/retry.ts'
import { blame } from './health.ts'
import { formFor, kindOf } from './misfit.ts'
import { type Instance, isMember, type Run, type Tokenizing } from './run.ts'
import { settle } from './settle.ts'
import { enqueue, laneOf, unpark } from './waitlist.ts'
import { wake } from './wake.ts'

/** Calls at once to one server: its tokenizer shares the connections of all control calls. */
const CALLS_AT_ONCE = 8

/**
 * About a million tokens, more than any context in use. Longer text is sent as it is, for the server to refuse: made into ids it would keep
 * the tokenizer busy for seconds, and the answer would be more than a control call may bring.
 */
const LONGEST_TEXT_CHARS = 4 * 1024 * 1024

/** What servers without such a route answer, or without a chat template. */
const CANNOT: ReadonlySet<RolloutErrorCode> = new Set(['INSTANCE_FAULT', 'REQUEST_REJECTED', 'WRONG_PROTOCOL'])

/** True where the prompt is not token ids and a server may make them: then its samples wait for that. */
export function needsTokens(run: Run, task: LiveTask): boolean {
  const { prompt } = task.spec
  if (typeof prompt === 'string' && prompt.length > LONGEST_TEXT_CHARS) return false
  return kindOf(prompt) !== 'ids' && mayTokenize(run, task, null)
}

/** True while a server that can is there, or where it is away and no other takes the prompt as it is. */
function mayTokenize(run: Run, task: LiveTask, tokenizing: Tokenizing | null): boolean {
  let able = run.instances.size === 0
  let taken = false
  for (const instance of run.instances.values()) {
    const open = isOpen(instance)
    if (isAble(instance, tokenizing)) {
      const state = instance.actor.getSnapshot()
      if (open || !(state.matches('unhealthy') || state.matches('draining'))) return true
      able = true
    }
    if (open && formFor(task, instance) !== null) taken = true
  }
  return able && !taken
}

/** On trial, too: the generation that is to prove it may have to wait for this. */
function isOpen({ actor }: Instance): boolean {
  const state = actor.getSnapshot()
  return state.matches('serving') || state.matches({ unhealthy: 'trial' })
}

function isAble({ id, driver, tokenizes }: Instance, tokenizing: Tokenizing | null): boolean {
  return driver.tokenize !== undefined && tokenizes && tokenizing?.refusedBy.has(id) !== true
}

/** Begins it; the samples of the task are parked. */
export function tokenize(run: Run, task: LiveTask): void {
  run.tokenizing.set(task, { refusedBy: new Set(), fruitless: 0, busy: 0, controller: null, timer: null })
  askNext(run)
}

/** Asks for the tasks that nobody is asked for, as far as there are servers for it. */
export function askNext(run: Run): void {
  if (run.closing) return
  for (const [task, tokenizing] of run.tokenizing) {
    if (tokenizing.controller !== null || tokenizing.timer !== null) continue
    const instance = leastAsked(run, tokenizing)
    if (instance !== null) void ask(run, task, tokenizing, instance)
    else if (!mayTokenize(run, task, tokenizing)) release(run, task, null)
    // The rest would find nobody either, but for those that some have refused.
    else if (tokenizing.refusedBy.size === 0) return
  }
}

/** The instance with the fewest calls of those that may be asked now, or null. */
function leastAsked(run: Run, tokenizing: Tokenizing): Instance | null {
  let best: Instance | null = null
  for (const instance of run.instances.values()) {
    if (instance.tokenizerCalls >= Math.min(CALLS_AT_ONCE, best?.tokenizerCalls ?? CALLS_AT_ONCE)) continue
    if (isAble(instance, tokenizing) && isOpen(instance)) best = instance
    if (best?.tokenizerCalls === 0) break
  }
  return best
}

async function ask(run: Run, task: LiveTask, tokenizing: Tokenizing, instance: Instance): Promise<void> {
  const controller = new AbortController()
  tokenizing.controller = controller
  instance.tokenizerCalls++
  let ids: readonly number[] | null = null
  let error: RolloutError | null = null
  try {
    ids = await instance.driver.tokenize!(task.spec.prompt as string, controller.signal)
  } catch (cause) {
    error = toRolloutError(cause, 'ENGINE_ERROR', `the driver of instance ${instance.id} failed`, instance.id)
  }
  instance.tokenizerCalls--
  tokenizing.controller = null
  if (run.tokenizing.get(task) === tokenizing) {
    if (ids !== null) release(run, task, ids)
    else failed(run, task, tokenizing, instance, error!)
  }
  askNext(run)
}

function failed(run: Run, task: LiveTask, tokenizing: Tokenizing, instance: Instance, error: RolloutError): void {
  run.log.info({ instance: instance.id, code: error.code }, `a prompt was not made into token ids: ${error.message}`)
  if (CANNOT.has(error.code)) {
    tokenizing.refusedBy.add(instance.id)
    // A route that is not there is not there for others either, until the server has been asked anew what it is.
    if (error.status === 404 || error.status === 405) instance.tokenizes = false
    if (!mayTokenize(run, task, tokenizing)) release(run, task, null, error)
    return
  }
  const isBusy = error.code === 'BUSY'
  if (isBusy) tokenizing.busy++
  else {
    tokenizing.fruitless++
    tokenizing.busy = 0
    blame(run, instance, error)
    if (isMember(run, instance)) instance.actor.send({ type: 'server.suspected' })
  }
  const { fruitless, busy } = tokenizing
  const decision = decideRetry(
    { code: error.code, fruitless, busy, refusedByAll: false, retryAfterMs: error.retryAfterMs },
    run.options.attempts,
  )
  if (decision.action !== 'retry') release(run, task, null, error)
  else if (decision.afterMs > 0) {
    tokenizing.timer = run.clock.setTimeout(() => {
      tokenizing.timer = null
      askNext(run)
    }, decision.afterMs)
  }
}

/** The samples of the task go on, with token ids or as they are; a chat that no server takes as it is fails with what the last one said. */
function release(run: Run, task: LiveTask, ids: readonly number[] | null, error: RolloutError | null = null): void {
  run.tokenizing.delete(task)
  if (ids !== null && ids.length > 0) {
    task.promptTokenIds = ids
    task.maxTokenId = ids.reduce((largest, id) => Math.max(largest, id), -1)
  } else if (kindOf(task.spec.prompt) === 'chat' && !isTaken(run, task)) {
    const failure = error ?? new RolloutError('INVALID_TASK', `task ${task.id} has ${NO_CHAT}`)
    for (const sample of task.samples) settle(run, sample, 'failed', failure)
    return
  }
  for (const sample of task.samples) {
    if (sample.parked !== 'tokenizing') continue
    unpark(run, sample)
    enqueue(run, sample, laneOf(sample, 'fresh'))
  }
  run.hub.changed()
  wake(run, 'queue.changed')
}

const NO_CHAT = 'chat messages, which no instance of the fleet can make into token ids; send token ids or text'

function isTaken(run: Run, task: LiveTask): boolean {
  for (const instance of run.instances.values()) if (formFor(task, instance) !== null) return true
  return false
}
