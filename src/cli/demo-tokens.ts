/**
 * Where the demo's tokens went, from the supervisor's events and completions: what samples went on with after an interruption, by what
 * interrupted them, and what was thrown away. Constant memory a live sample.
 */
import type { Completion, SupervisorEvent } from '../index.ts'

/** What ended an attempt before its sample was done. */
export type Cause = 'update' | 'evaluation' | 'fault'

export interface Carried {
  readonly samples: number
  /** That they had then, and went on from. */
  readonly tokens: number
}

export interface TokenAccount {
  readonly resumed: Readonly<Record<Cause, Carried>>
  /** Tokens of evaluations. */
  readonly evaluation: number
  /** Tokens that samples have and nobody trained on: of the step that was not to be. */
  readonly leftOver: number
  /** Tokens that servers sampled and no completion has. */
  readonly wasted: number
}

export interface TokenMeter {
  observe(event: SupervisorEvent): void
  complete(completion: Completion): void
  /** `generated` is what the servers counted, `trained` what was trained on. */
  account(generated: number, trained: number): TokenAccount
}

export function createTokenMeter(): TokenMeter {
  const causes = new Map<string, Cause>()
  const resumed = { update: none(), evaluation: none(), fault: none() }
  let phase = 'starting'
  let [kept, evaluation] = [0, 0]
  return {
    observe(event) {
      switch (event.type) {
        case 'run.phase':
          phase = event.phase
          return
        case 'sample.released': {
          const cause = causeOf(event.reason, phase)
          if (cause !== null) causes.set(`${event.taskId}/${event.sample}`, cause)
          return
        }
        case 'sample.placed': {
          const cause = causes.get(`${event.taskId}/${event.sample}`)
          causes.delete(`${event.taskId}/${event.sample}`)
          if (cause === undefined || event.resumedTokens === 0) return
          resumed[cause].samples += 1
          resumed[cause].tokens += event.resumedTokens
          return
        }
        case 'sample.ended':
          causes.delete(`${event.taskId}/${event.sample}`)
          return
      }
    },
    complete({ kind, tokenIds }) {
      kept += tokenIds.length
      if (kind === 'evaluation') evaluation += tokenIds.length
    },
    account: (generated, trained) => ({
      resumed,
      evaluation,
      leftOver: kept - evaluation - trained,
      wasted: Math.max(0, generated - kept),
    }),
  }
}

function none(): { samples: number; tokens: number } {
  return { samples: 0, tokens: 0 }
}

function causeOf(reason: string, phase: string): Cause | null {
  if (reason === 'failed' || reason === 'busy') return 'fault'
  if (reason !== 'interrupted') return null
  return phase === 'evaluation' ? 'evaluation' : 'update'
}
