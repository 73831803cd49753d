/**
 * Asks a user's `accept` about a group: answered once, whatever it does (F17).
 */
import { messageOf, RolloutError } from '../errors.ts'
import type { Group } from '../rollout/group.ts'
import type { CheckedBatches } from './batch-options.ts'
import type { Run } from './run.ts'

/** The answer is true, false, or the error that stands for none. @returns gives up on an answer */
export function askVerdict(
  run: Run,
  { accept, acceptTimeoutMs: ms }: CheckedBatches,
  group: Group,
  answer: (verdict: boolean | RolloutError) => void,
): () => void {
  let timer: unknown = null
  let done = false
  const forget = (): void => {
    done = true
    run.clock.clearTimeout(timer)
  }
  const say = (verdict: boolean | RolloutError): void => {
    if (done) return
    forget()
    answer(verdict)
  }
  const failed = (cause: unknown): void => {
    const text = `accept gave no answer for group ${group.taskId}: ${messageOf(cause)}`
    say(new RolloutError('ACCEPT_FAILED', text, { cause }))
  }
  const read = (verdict: unknown): void => {
    if (typeof verdict === 'boolean') say(verdict)
    else failed(new TypeError(`expected true or false, found ${String(verdict)}`))
  }
  try {
    const verdict: unknown = accept === undefined ? true : accept(group)
    if (typeof verdict !== 'object') {
      read(verdict)
    } else {
      if (ms !== null) timer = run.clock.setTimeout(() => failed(new Error(`no answer within ${ms} ms`)), ms)
      Promise.resolve(verdict).then(read, failed)
    }
  } catch (cause) {
    failed(cause)
  }
  return forget
}
