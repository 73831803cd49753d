/**
 * Who holds which slot: the authority on leases (I3, I4, D7, D18, D24).
 * A lease is granted once and released once; a second release is refused and changes nothing. All calls are O(1) beside
 * the policy's own O(log n). Nothing here grows with the number of leases ever granted (D19).
 *
 * A lease sits in a slot of flat arrays, which stay in the processor's cache; its id says which slot, and the how-manieth lease
 * of that slot it is, so that an id is never given out again:
 *
 *     id = turn * 2^24 + slot        slot     1    2    3
 *                                    holder   a    -    b       null where none is held; such slots are used first
 *                                    turn     0    1    0       2 is free again: its next lease is 2^24 + 2
 */
import { RolloutError } from '../errors.ts'

/** An instance in the books. `limit` is what may run at once right now: its capacity while it takes work, else 0. */
export interface Account {
  readonly id: string
  readonly weight: number
  readonly limit: number
  readonly running: number
  readonly lastGranted: number
  readonly failures: number
}

export interface Lease {
  readonly id: number
  readonly instance: string
}

export interface Ledger {
  /** Opens the books of an instance, with limit 0. */
  add(id: string, weight: number): Account
  /** Closes the books of an instance. Its leases stay valid until each is released. */
  remove(id: string): void
  setLimit(id: string, limit: number): void
  /** Failures in a row: they weigh like requests that run there (D2). */
  setFailures(id: string, failures: number): void
  get(id: string): Account | undefined
  /** Takes one slot. Throws when there is none: callers pick an instance with room first. */
  grant(id: string): Lease
  /** Gives the slot back. Throws UNKNOWN_LEASE, and changes nothing, when it is not held. */
  release(leaseId: number): void
  /** Slots that could be granted now, over all instances. */
  readonly free: number
  /** Leases held, over all instances. */
  readonly held: number
}

interface Books extends Account {
  limit: number
  running: number
  lastGranted: number
  failures: number
  listed: boolean
}

/** More leases than a process could hold at once. */
const SLOTS = 2 ** 24
/** A slot that is this old is not used again: its ids would be no safe integers. */
const LAST_TURN = Math.floor(Number.MAX_SAFE_INTEGER / SLOTS)

/** `changed` is called after each change of a listed account, to keep a placement policy up to date. */
export function createLedger(changed: (account: Account) => void): Ledger {
  const accounts = new Map<string, Books>()
  /** No lease has the id 0. */
  const holders: (Books | null)[] = [null]
  const turns: number[] = [0]
  const vacant: number[] = []
  let grants = 0
  let held = 0
  let free = 0

  function room(books: Books): number {
    return books.listed ? Math.max(0, books.limit - books.running) : 0
  }
  function change(books: Books, run: number, limit: number): void {
    free -= room(books)
    books.running += run
    books.limit = limit
    free += room(books)
    if (books.listed) changed(books)
  }
  function hold(books: Books): number {
    const slot = vacant.pop() ?? turns.push(0) - 1
    holders[slot] = books
    held++
    return turns[slot]! * SLOTS + slot
  }
  /** Null, and nothing has changed, when the lease is not held. */
  function letGo(leaseId: number): Books | null {
    const slot = leaseId % SLOTS
    const books = holders[slot] ?? null
    if (books === null || turns[slot] !== Math.floor(leaseId / SLOTS)) return null
    holders[slot] = null
    held--
    if (turns[slot]!++ < LAST_TURN) vacant.push(slot)
    return books
  }

  return {
    add(id, weight) {
      const books: Books = { id, weight, limit: 0, running: 0, lastGranted: 0, failures: 0, listed: true }
      accounts.set(id, books)
      return books
    },
    remove(id) {
      const books = accounts.get(id)
      if (books === undefined) return
      free -= room(books)
      books.listed = false
      accounts.delete(id)
    },
    setLimit(id, limit) {
      const books = accounts.get(id)
      if (books !== undefined && books.limit !== limit) change(books, 0, limit)
    },
    setFailures(id, failures) {
      const books = accounts.get(id)
      if (books === undefined || books.failures === failures) return
      books.failures = failures
      changed(books)
    },
    get: (id) => accounts.get(id),
    grant(id) {
      const books = accounts.get(id)
      if (books === undefined || books.running >= books.limit) {
        throw new RolloutError('UNKNOWN_INSTANCE', `expected an instance with a free slot, found ${JSON.stringify(id)}`)
      }
      const lease = { id: hold(books), instance: id }
      books.lastGranted = ++grants
      change(books, 1, books.limit)
      return lease
    },
    release(leaseId) {
      const books = letGo(leaseId)
      if (books === null) {
        throw new RolloutError(
          'UNKNOWN_LEASE',
          `lease ${leaseId} is not held: it was released before, or never granted`,
        )
      }
      change(books, -1, books.limit)
    },
    get free() {
      return free
    },
    get held() {
      return held
    },
  }
}
