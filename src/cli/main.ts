#!/usr/bin/env node
/**
 * The command `rollout-supervisor`. Only this file touches the process; it ends by itself when nothing is open any more.
 */
import { runCommand } from './command.ts'
import { processIo } from './io.ts'

// A reader that has seen enough, as in `| head`, is no fault.
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(process.exitCode ?? 0)
    throw error
  })
}

process.exitCode = await runCommand(process.argv.slice(2), processIo())
