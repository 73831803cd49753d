/**
 * Finds the command in the arguments and runs it; the code of each command is loaded only when it is asked for.
 * Exit codes: 0 done, 1 failed or not done to its end, 2 the command line cannot be used, 130 and 143 stopped by SIGINT and SIGTERM.
 */
import { existsSync, readFileSync } from 'node:fs'
import { EXIT, type Io, UsageError } from './io.ts'

interface Command {
  readonly about: string
  readonly load: () => Promise<(args: readonly string[], io: Io) => Promise<number>>
}

const COMMANDS: Readonly<Record<string, Command>> = {
  demo: {
    about: 'train a tiny policy on an embedded fleet, end to end, in about half a minute',
    load: async () => (await import('./demo.ts')).demo,
  },
  run: {
    about: 'prompts.jsonl to completions.jsonl over a fleet; goes on where it stopped',
    load: async () => (await import('./run.ts')).run,
  },
  doctor: {
    about: 'what servers are: engine, version, capacity, what works, what to change',
    load: async () => (await import('./doctor.ts')).doctor,
  },
}

const USAGE = `rollout-supervisor: places the rollouts of a reinforcement-learning trainer on a fleet of inference servers.

usage: rollout-supervisor <command> [flags]

${Object.entries(COMMANDS)
  .map(([name, { about }]) => `  ${name.padEnd(12)}${about}`)
  .join('\n')}

  <command> --help   flags of a command
  --help             this text
  --version          version of the package
`

export async function runCommand(args: readonly string[], io: Io): Promise<number> {
  const [name = '', ...rest] = args
  try {
    const code = await dispatch(name, rest, io)
    await io.stdout.drained()
    return code
  } catch (error) {
    if (error instanceof UsageError) {
      io.stderr.write(
        `rollout-supervisor ${name}: ${error.message}\nrollout-supervisor ${name} --help lists the flags\n`,
      )
      return EXIT.usage
    }
    const verbose = rest.includes('--verbose')
    const words = error instanceof Error ? ((verbose ? error.stack : error.message) ?? error.name) : String(error)
    io.stderr.write(`rollout-supervisor ${name}: ${words}\n`)
    return EXIT.failed
  }
}

async function dispatch(name: string, rest: readonly string[], io: Io): Promise<number> {
  if (name === '--help' || name === '-h' || name === 'help') {
    io.stdout.write(USAGE)
    return EXIT.ok
  }
  if (name === '--version' || name === '-v') {
    io.stdout.write(`${packageVersion()}\n`)
    return EXIT.ok
  }
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined
  if (command === undefined) {
    const found = name === '' ? 'no command given' : `unknown command ${JSON.stringify(name)}`
    io.stderr.write(`${found}; expected one of: ${Object.keys(COMMANDS).join(', ')}\n\n${USAGE}`)
    return EXIT.usage
  }
  const run = await command.load()
  return run(rest, io)
}

/** From the package.json above this file: two folders up in the sources, three in the build. */
function packageVersion(): string {
  const file = ['../../package.json', '../../../package.json']
    .map((path) => new URL(path, import.meta.url))
    .find((url) => existsSync(url))
  if (file === undefined) throw new Error('package.json was not found above the command; install the package again')
  const { version } = JSON.parse(readFileSync(file, 'utf8')) as { version: string }
  return version
}
