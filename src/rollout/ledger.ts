/**
 * Who holds which slot: the authority on leases (I3, I4, D7, D18, D24).
 * A lease is granted once and released once; a second release is refused and changes nothing. All calls are O(1) beside
 * the policy's own O(log n). Nothing here grows with the number of leases ever granted (D19).
 *
 * Leases are kept in pages of ids granted one after the other, which a map of 80,000 of them is twice as slow as; a page goes
 * with its last lease, so there are never more pages than leases.
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

interface Page {
  /** By the last bits of the lease id; null where none is held. */
  readonly holders: (Books | null)[]
  held: number
}

const PAGE_SIZE = 64

/** `changed` is called after each change of a listed account, to keep a placement policy up to date. */
export function createLedger(changed: (account: Account) => void): Ledger {
  const accounts = new Map<string, Books>()
  const pages = new Map<number, Page>()
  let lastLease = 0
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
  function hold(leaseId: number, books: Books): void {
    const number = Math.floor(leaseId / PAGE_SIZE)
    let page = pages.get(number)
    if (page === undefined) {
      page = { holders: new Array<Books | null>(PAGE_SIZE).fill(null), held: 0 }
      pages.set(number, page)
    }
    page.holders[leaseId % PAGE_SIZE] = books
    page.held++
    held++
  }
  /** Null, and nothing has changed, when the lease is not held. */
  function letGo(leaseId: number): Books | null {
    const number = Math.floor(leaseId / PAGE_SIZE)
    const page = pages.get(number)
    const books = page?.holders[leaseId % PAGE_SIZE] ?? null
    if (page === undefined || books === null) return null
    page.holders[leaseId % PAGE_SIZE] = null
    page.held--
    held--
    if (page.held === 0) pages.delete(number)
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
      const lease = { id: ++lastLease, instance: id }
      hold(lease.id, books)
      books.lastGranted = lease.id
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
