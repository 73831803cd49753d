/**
 * A weight update of vLLM, which is five calls and not one: the server never checks that they belong together.
 *
 *     quiet? -> pause -> label "unfinished" -> reload -> flush -> label -> read back -> resume
 *
 * Requests of strangers that arrive meanwhile wait at the pause. The label in between says what the weights are until the end: nobody
 * knows. Seen on a real 0.32: new weights over a cache that was not flushed poison new requests too, and a reload that failed
 * leaves a model whose next generation kills the engine. A server whose update failed therefore never says the old version again.
 */
import type { RolloutError } from '../errors.ts'
import type { WeightUpdate } from './driver.ts'
import { fault, serverMessage, statusFault } from './faults.ts'
import { asRecord, asText } from './json.ts'
import { jsonOf, type Reply, type Transport } from './transport.ts'

/** Reading hundreds of gigabytes from a network disk; the update's own deadline is the caller's signal. */
const UPDATE_DEADLINE_MS = 60 * 60 * 1000
/** Running requests of strangers may end; a long one does not. */
const PAUSE_DEADLINE_MS = 10_000

const UNFINISHED = 'unfinished-update-to-'

/** True for the label of weights that an update left in an unknown state. */
export function isUnfinished(weightVersion: string): boolean {
  return weightVersion.startsWith(UNFINISHED)
}

export async function readWeightVersion(transport: Transport, signal?: AbortSignal): Promise<string | null> {
  const reply = await transport.call({ method: 'GET', path: '/weight_info', signal })
  // A server outside dev mode has no label.
  if (reply.status === 404) return null
  return asText(asRecord(jsonOf(transport.peer, reply)).weight_version)
}

export async function updateVllm(
  transport: Transport,
  { version, path }: WeightUpdate,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { peer } = transport
  const post = (to: string, body: object, deadlineMs?: number) =>
    transport.call({ method: 'POST', path: to, body, signal, ...(deadlineMs === undefined ? {} : { deadlineMs }) })

  const before = await flush()
  if (!before.flushed) {
    const what = 'POST /reset_prefix_cache: expected a quiet server before its weights change, found requests that run'
    throw fault('BUSY', peer, `${what} (${before.said}); end them, also those of others; its weights did not change`)
  }
  let failure: unknown = null
  try {
    await change()
  } catch (error) {
    failure = error
  }
  try {
    // Also when cancelled: no server is left paused by mistake.
    ok(await transport.call({ method: 'POST', path: '/resume', body: {} }))
  } catch (error) {
    failure ??= error
  }
  if (failure !== null) throw failure

  async function change(): Promise<void> {
    ok(await post('/pause?mode=wait', {}, PAUSE_DEADLINE_MS))
    await label(`${UNFINISHED}${version}`)
    const reload = { method: 'reload_weights', kwargs: { weights_path: path } }
    const reply = await post('/collective_rpc', reload, UPDATE_DEADLINE_MS)
    if (reply.status !== 200) {
      throw failed(
        'POST /collective_rpc reload_weights: expected the new weights to be loaded',
        serverMessage(reply.text, peer),
        'see whether the server can read the folder; its model is in an unknown state: update it again, or restart it',
      )
    }
    const after = await flush()
    if (!after.flushed) {
      throw failed(
        'POST /reset_prefix_cache: expected the cache of the old weights to be emptied',
        after.said,
        'end all requests, also those of others, and update again',
      )
    }
    await label(String(version))
    const found = await readWeightVersion(transport, signal)
    if (found !== String(version)) {
      throw failed(
        `GET /weight_info: expected version "${version}" after the update`,
        JSON.stringify(found),
        'see who else updates it',
      )
    }
  }

  /** The scheduler refuses while anything runs. Releases before 0.32 say nothing. */
  async function flush(): Promise<{ readonly flushed: boolean; readonly said: string }> {
    const reply = ok(await post('/reset_prefix_cache', {}))
    const flushed = reply.text === '' || asRecord(jsonOf(peer, reply)).success !== false
    return { flushed, said: reply.text }
  }

  async function label(to: string): Promise<void> {
    const reply = ok(await post('/update_weight_version', { new_version: to }))
    const said = asRecord(jsonOf(peer, reply)).new_version
    if (said !== to)
      throw failed(`POST /update_weight_version: expected the label ${to}`, JSON.stringify(said), 'update it again')
  }

  /** A refusal here blames the instance and not a sample. */
  function ok(reply: Reply): Reply {
    if (reply.status === 200) return reply
    if (reply.status === 404) {
      throw failed(
        `${reply.what}: expected a control route`,
        'none (404)',
        'start the server with VLLM_SERVER_DEV_MODE=1',
      )
    }
    if (reply.status !== 400 && reply.status !== 422)
      throw statusFault(peer, reply.what, reply.status, reply.headers, reply.text)
    throw failed(`${reply.what}: expected status 200`, serverMessage(reply.text, peer), "read the server's log")
  }

  function failed(expected: string, found: string, advice: string): RolloutError {
    return fault('ENGINE_ERROR', peer, `${expected}, found: ${found}; ${advice}`)
  }
}
