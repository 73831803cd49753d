#!/usr/bin/env node
/**
 * The command `rollout-supervisor`. Only this file touches the process; it ends by itself when nothing is open any more.
 */
import { runCommand } from './command.ts'
import { EXIT, processIo } from './io.ts'

// A reader that has seen enough, as in `| head`, is told no more; what was not done by then was not done. Other errors come with the next write.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(process.exitCode ?? EXIT.failed)
})
// Work does not end because nobody reads what is said of it.
process.stderr.on('error', () => {})

process.exitCode = await runCommand(process.argv.slice(2), processIo())
