/**
 * A process for commands under test: keeps what they write, gives them an environment, stdin and signals.
 */
import { Readable } from 'node:stream'
import type { Io, Output, StopSignal } from '../../src/cli/io.ts'

export interface FakeIo extends Io {
  out: string
  err: string
  env: Record<string, string | undefined>
  input: Readable
  readonly exits: number[]
  readonly listeners: Map<StopSignal, () => void>
  /** Called with every text that goes to stdout. */
  onOut: (text: string) => void
  /** Called with every text that goes to stderr. */
  onErr: (text: string) => void
}

export function fakeIo({ isTTY = false, columns = 80 } = {}): FakeIo {
  const output = (write: (text: string) => void): Output => ({
    isTTY,
    columns: () => columns,
    write,
    drained: () => Promise.resolve(),
  })
  const io: FakeIo = {
    out: '',
    err: '',
    env: {},
    input: Readable.from([]),
    exits: [],
    listeners: new Map(),
    onOut: () => {},
    onErr: () => {},
    stdout: output((text) => {
      io.out += text
      io.onOut(text)
    }),
    stderr: output((text) => {
      io.err += text
      io.onErr(text)
    }),
    stdin: () => io.input,
    onSignal(signal, listener) {
      io.listeners.set(signal, listener)
      return () => void io.listeners.delete(signal)
    },
    exit: (code) => void io.exits.push(code),
  }
  return io
}
