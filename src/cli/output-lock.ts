/**
 * Keeps two runs from one output: a lock file beside it, taken over when the process that made it is gone.
 */
import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { CommandError } from './io.ts'

interface Owner {
  readonly pid: number
  readonly host: string
  /** When the process began, where the system says; a process id is used again, the two together are not. */
  readonly began: string | null
}

/** Locks of this process, which a dead process of the same number cannot be told from. */
const held = new Set<string>()

/** @returns gives the lock back @throws CommandError while another run has it */
export function lockOutput(output: string): () => void {
  const path = `${output}.lock`
  const self: Owner = { pid: process.pid, host: hostname(), began: beginOf(process.pid) }
  while (!make(path, self)) removeStale(path, self)
  held.add(path)
  return () => {
    held.delete(path)
    rmSync(path, { force: true })
  }
}

/** Written aside first: a lock that another run finds is never empty, and so never taken for one that a kill left. */
function make(path: string, self: Owner): boolean {
  const aside = asideOf(path, self)
  const text = JSON.stringify(self)
  try {
    writeFileSync(aside, text)
    linkSync(aside, path)
    return true
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException
    if (code === 'EEXIST') return false
    if (!NO_LINKS.has(code)) throw error
  } finally {
    rmSync(aside, { force: true })
  }
  try {
    writeFileSync(path, text, { flag: 'wx' })
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw error
  }
}

/** What file systems without hard links answer: FAT, some network disks and containers. */
const NO_LINKS: ReadonlySet<string> = new Set(['EPERM', 'ENOSYS', 'ENOTSUP', 'EOPNOTSUPP', 'EMLINK'])

/** Only what was found stale is removed: a lock that somebody else took over meanwhile is put back. */
function removeStale(path: string, self: Owner): void {
  const text = read(path)
  if (text === null) return
  const owner = ownerIn(text)
  if (owner !== null && isAlive(path, owner, self)) {
    const where = owner.host === self.host ? '' : ` on ${owner.host}`
    throw new CommandError(
      `expected an output that no other run writes, found that process ${owner.pid}${where} does (${path}); wait for it, choose another --output, or remove the lock if that process is gone`,
    )
  }
  const aside = asideOf(path, self)
  try {
    renameSync(path, aside)
  } catch {
    return
  }
  if (read(aside) === text) rmSync(aside, { force: true })
  else renameSync(aside, path)
}

/** Containers that share a disk have the same few process numbers. */
function asideOf(path: string, { host, pid }: Owner): string {
  return `${path}.${host}.${pid}`
}

function isAlive(path: string, owner: Owner, self: Owner): boolean {
  // Nobody can look into another machine; its lock counts until somebody removes it.
  if (owner.host !== self.host) return true
  if (owner.pid === self.pid) return held.has(path)
  try {
    process.kill(owner.pid, 0)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false
  }
  return owner.began === null || owner.began === beginOf(owner.pid)
}

/** Linux: clock ticks after the boot, the 20th field behind the name, which may hold anything. Null elsewhere. */
function beginOf(pid: number): string | null {
  const stat = read(`/proc/${pid}/stat`)
  return stat?.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? null
}

function ownerIn(text: string): Owner | null {
  try {
    return JSON.parse(text) as Owner
  } catch {
    // Killed between making the file and writing it, where there are no links.
    return null
  }
}

function read(path: string): string | null {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return null
  }
}
