/**
 * The off-policy stream: a source of tasks in, batches out, with one gate between them.
 *
 *     source --drawn when a slot is free, nothing waits, and the bound has room--> rolling --> deciding (accept) --> ready --> batch
 *                                                                                       \------------- rejected, with a reason
 *
 * The reader's requests are the flow control: a batch is made when one is asked for, asking for the next one says that the last
 * is trained on, and only then may more begin (D26, F14). No token that is handed out is older than the bound. Each group
 * that was drawn ends once: handed out, rejected, or cancelled when the stream ends (I2, I5).
 */
import { messageOf, RolloutError } from '../errors.ts'
import { addAges, ageOfGroup, type Batch, noRejections, type Rejections, type RejectReason } from '../rollout/batch.ts'
import type { Group } from '../rollout/group.ts'
import type { LiveTask } from '../rollout/sample.ts'
import { chooseBatch, type Shelved } from '../scheduling/batch-order.ts'
import { stalenessRoom } from '../scheduling/staleness.ts'
import { createPulled } from '../streams/pulled.ts'
import { createBatchIntake } from './batch-intake.ts'
import type { CheckedBatches } from './batch-options.ts'
import type { BatchesView, Feed } from './feed.ts'
import { cancel, groupOf } from './intake.ts'
import { ageOfLive } from './live-age.ts'
import type { Run } from './run.ts'
import type { TaskSource } from './source.ts'
import { askVerdict } from './verdict.ts'
import { wake } from './wake.ts'

/** A group between the source and the batch. */
interface Entry extends Shelved {
  readonly task: LiveTask
  /** Null while it is rolled out. */
  group: Group | null
  rank: number | null
  age: number
  /** Gives up on the answer of `accept`. */
  giveUp: (() => void) | null
}

export function openBatches(run: Run, tasks: TaskSource, options: CheckedBatches): AsyncIterableIterator<Batch> {
  const { size, maxStaleness, maxRejected } = options
  /** What is neither handed out nor rejected, in the order of the source. */
  const entries = new Set<Entry>()
  const rejected = noRejections()
  let sinceLast = noRejections()
  /** Rejected without one accepted after them. */
  let inARow = 0
  let lastError: unknown = null
  let drawn = 0
  let ready = 0
  let ranks = 0
  let batches = 0
  let delivered = 0
  /** The first version that an unversioned fleet was brought to. */
  let first: number | null = null
  let unversioned = true

  const pulled = createPulled<Batch>({ onBegin: begin, onAsk: ask, onEnd: leave, signal: options.signal })
  const intake = createBatchIntake(run, tasks, {
    onAdmitted: begun,
    onInvalid(error) {
      drawn++
      fault(error)
      count('invalid', error)
      settleUp()
    },
    onArrived: () => wake(run, 'task.submitted'),
    onEnd: supply,
    onError: (error) => pulled.end({ error }),
  })
  const feed: Feed = {
    get wants() {
      return !pulled.ended && room() > 0 && intake.state === 'open'
    },
    refill() {
      while (feed.wants) if (intake.draw()) return true
      return false
    },
    view,
  }
  return pulled.iterator

  function begin(): void {
    unversioned = run.version === null
    run.feeds.add(feed)
    run.onVersion.add(sweep)
    run.onClosing.add(closing)
    const orphans = [...run.orphans]
    run.orphans.clear()
    for (const task of orphans) begun(task)
    if (run.closing) closing(new RolloutError('CLOSED', 'the supervisor was closed'))
  }
  function leave(): void {
    run.feeds.delete(feed)
    run.onVersion.delete(sweep)
    run.onClosing.delete(closing)
    intake.close()
    const left = [...entries]
    entries.clear()
    for (const { task, group, giveUp } of left) {
      run.kept.delete(task)
      giveUp?.()
      if (group === null) cancel(run, task, 'its stream of batches has ended')
    }
  }
  function closing(error: RolloutError): void {
    pulled.end({ error })
  }
  /** The reader wants a batch: it is done with the one before. */
  function ask(): void {
    supply()
    wake(run, 'queue.changed')
  }
  function room(): number {
    const trained = Math.min(batches, Math.max(0, pulled.asked - 1))
    return stalenessRoom({ size, maxStaleness, batches: trained, groups: delivered + entries.size })
  }

  function begun(task: LiveTask): void {
    drawn++
    // Whoever was told of the task may have ended the stream.
    if (pulled.ended) {
      cancel(run, task, 'its stream of batches has ended')
      return
    }
    const entry: Entry = { task, group: null, rank: null, age: 0, giveUp: null }
    entries.add(entry)
    run.kept.set(task, 'batches')
    void groupOf(task).then((group) => rolled(entry, group))
  }
  function rolled(entry: Entry, group: Group): void {
    if (!entries.has(entry)) return
    entry.group = group
    if (!group.complete && !options.offerIncomplete) {
      reject(entry, 'incomplete', group.missing[0]?.error ?? null)
      return
    }
    entry.giveUp = askVerdict(run, options, group, (verdict) => {
      // A sweep may have dropped it while it was asked about.
      if (!entries.has(entry)) return
      if (verdict === true) {
        shelve(entry, group)
      } else if (verdict === false) {
        reject(entry, 'filtered', null)
      } else {
        fault(verdict)
        reject(entry, 'undecided', verdict)
      }
    })
  }
  function shelve(entry: Entry, group: Group): void {
    entry.age = ageOfGroup(group.completions, run.version, first)
    if (isTooOld(entry)) {
      reject(entry, 'tooOld', null)
      return
    }
    entry.rank = ranks++
    ready++
    inARow = 0
    supply()
  }

  function isTooOld(entry: Entry): boolean {
    return options.drop && entry.age > maxStaleness
  }
  /** The weights have changed: what is too old now goes, partial groups before they resume. */
  function sweep(): void {
    if (unversioned) first ??= run.version
    for (const entry of entries) {
      const { task, group } = entry
      entry.age = group === null ? ageOfLive(run, task, first) : ageOfGroup(group.completions, run.version, first)
    }
    const old = [...entries].filter(isTooOld)
    for (const entry of old) forget(entry, 'tooOld', null)
    for (const { task, group } of old) {
      if (group !== null) continue
      const text = `task ${task.id} has tokens that are more than maxStaleness, ${maxStaleness}, versions old`
      cancel(run, task, new RolloutError('TOO_OLD', text))
    }
    if (old.length > 0) settleUp()
  }

  function reject(entry: Entry, reason: RejectReason, error: RolloutError | null): void {
    forget(entry, reason, error)
    settleUp()
  }
  function forget(entry: Entry, reason: RejectReason, error: RolloutError | null): void {
    entry.giveUp?.()
    if (entry.rank !== null) ready--
    entries.delete(entry)
    run.kept.delete(entry.task)
    count(reason, error)
  }
  function count(reason: RejectReason, error: RolloutError | null): void {
    rejected[reason]++
    sinceLast[reason]++
    inARow++
    lastError = error ?? lastError
  }
  /** What follows from a rejection: the end of patience, or budget for another group. */
  function settleUp(): void {
    if (pulled.ended) return
    if (inARow >= maxRejected) {
      failAll(`${inARow} groups in a row were`)
      return
    }
    supply()
    wake(run, 'queue.changed')
  }

  /** Answers the reader as far as what is ready goes. */
  function supply(): void {
    while (pulled.waiting > 0) {
      const isLast = intake.state === 'ended' && entries.size === ready
      if (ready < size && !isLast) return
      const chosen = chooseBatch(options.order, size, entries)
      if (chosen.length > 0 && (chosen.length === size || isLast)) handOut(chosen)
      else if (!isLast) return
      else if (batches === 0 && drawn > 0) failAll('every group of the source was')
      else pulled.end()
    }
  }
  function handOut(chosen: readonly Entry[]): void {
    const staleness: Record<number, number> = {}
    const groups = chosen.map((entry) => {
      const { group, age } = entry
      entries.delete(entry)
      run.kept.delete(entry.task)
      addAges(staleness, group!.completions, run.version, first)
      return { ...group!, staleness: age, tooOld: age > maxStaleness }
    })
    ready -= chosen.length
    delivered += chosen.length
    const batch: Batch = { index: batches++, version: run.version, groups, staleness, rejected: sinceLast }
    sinceLast = noRejections()
    pulled.give(batch)
  }

  function failAll(which: string): void {
    const last = lastError === null ? '' : `; the last error: ${messageOf(lastError)}`
    const text = `expected groups to train on, but ${which} rejected (in all: ${describe(rejected)})${last}`
    pulled.end({ error: new RolloutError('ALL_REJECTED', text, { cause: lastError ?? undefined }) })
  }
  function fault(error: RolloutError): void {
    run.log.warn({ code: error.code }, error.message)
    if (run.hub.listens(null)) run.hub.tell({ type: 'run.fault', at: run.clock.now(), error }, null)
  }

  function view(): BatchesView {
    let waiting = 0
    let running = 0
    let deciding = 0
    for (const { task, group, rank } of entries) {
      if (group !== null) deciding += rank === null ? 1 : 0
      else if (task.started) running++
      else waiting++
    }
    const { state } = intake
    const groups = { drawn, waiting, running, deciding, ready, delivered, rejected: { ...rejected } }
    const isOut = state === 'asked' || state === 'ended'
    const heldBy = isOut ? 'source' : room() <= 0 ? 'staleness' : state === 'duplicate' ? 'duplicate' : null
    return { size, maxStaleness, batches, groups, heldBy }
  }
}

function describe(rejected: Rejections): string {
  const counts = Object.entries(rejected).filter(([, count]) => count > 0)
  return counts.map(([reason, count]) => `${count} ${reason}`).join(', ')
}
