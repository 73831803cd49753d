/**
 * The log that --verbose shows on stderr: pino's JSON lines, level debug, above the live line.
 */
import { pino } from 'pino'
import type { Logger } from '../index.ts'
import type { LiveLine } from './live-line.ts'

/** Null without --verbose: then the supervisor stays silent. */
export function createLog(verbose: boolean, { say }: Pick<LiveLine, 'say'>): Logger | null {
  return verbose ? pino({ level: 'debug', base: null }, { write: (line) => say(line.trimEnd()) }) : null
}
