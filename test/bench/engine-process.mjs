/**
 * The server of the HTTP benchmark, in a process of its own so that its CPU time is not the client's: one embedded engine,
 * its options as JSON in the first argument. Prints its url as one line, and ends when its input does.
 */
import { startEmbeddedEngine } from '../../dist/src/testing/index.js'

const engine = await startEmbeddedEngine(JSON.parse(process.argv[2] ?? '{}'))
console.log(engine.url)
process.stdin.on('end', () => void engine.close()).resume()
