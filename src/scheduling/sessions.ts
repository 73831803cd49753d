/**
 * Where the turns of a session ran last: that instance has their prefix in its cache, so the next turn is taken there first, while it has
 * room, and goes wherever the policy says when it has none. A preference never makes a sample wait (I7).
 *
 * A session is forgotten where it failed, so that a dead server does not draw its turns back, and by new weights, which empty every
 * cache. Only the latest sessions are kept (D19): one that is used is the newest of a map, whose first entry is the oldest. O(1).
 */
import type { SegmentEnd } from '../rollout/completion.ts'
import type { Session } from '../rollout/session.ts'

export interface Sessions {
  /** The session of this name, from now on the newest. */
  open(name: string): Session
}

/** More sessions than the caches of a large fleet hold prefixes of. */
const MAX_SESSIONS = 65_536

export function createSession(): Session {
  return { instance: null, version: null }
}

export function createSessions(limit: number = MAX_SESSIONS): Sessions {
  const byName = new Map<string, Session>()
  return {
    open(name) {
      const session = byName.get(name) ?? createSession()
      byName.delete(name)
      byName.set(name, session)
      if (byName.size > limit) byName.delete(byName.keys().next().value!)
      return session
    },
  }
}

/** Learns from an attempt that has ended. */
export function noteAttempt(session: Session, instance: string, version: number | null, end: SegmentEnd): void {
  switch (end) {
    case 'finished':
    case 'interrupted':
      session.instance = instance
      session.version = version
      return
    case 'failed':
    case 'busy':
    case 'timedOut':
      if (session.instance === instance) session.instance = null
      return
    case 'cancelled':
      return
  }
}
