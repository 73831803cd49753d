/**
 * A weight update of vLLM, which is six calls and not one: the server never checks that they belong together.
 *
 *     quiet? -> label "unfinished" -> reload -> flush -> label -> read back
 *
 * The caller holds the server meanwhile. The label in between says what the weights are until the end: nobody knows. Seen on a
 * real 0.32: new weights over a cache that was not flushed poison new requests too, and a reload that failed leaves a model
 * whose next generation kills the engine. A server whose update failed therefore never says the old version again.
 */
import type { RolloutError } from '../errors.ts'
import type { WeightUpdate } from './driver.ts'
import { fault, serverMessage } from './faults.ts'
import { asRecord, asText } from './json.ts'
import { jsonOf, type Transport } from './transport.ts'
import type { VllmControl } from './vllm-control.ts'

/** Reading hundreds of gigabytes from a network disk; the update's own deadline is the caller's signal. */
const UPDATE_DEADLINE_MS = 60 * 60 * 1000

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
  control: VllmControl,
  { version, path, frozen }: WeightUpdate,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { peer } = transport

  // Frozen requests hold their cache: of them the flush after the load takes it.
  const before = frozen ? { flushed: true, said: '' } : await control.tryFlush(false, signal)
  if (!before.flushed) {
    const what = 'POST /reset_prefix_cache: expected a quiet server before its weights change, found requests that run'
    throw fault('BUSY', peer, `${what} (${before.said}); end them, also those of others; its weights did not change`)
  }
  await label(`${UNFINISHED}${version}`)
  const reload = { method: 'reload_weights', kwargs: { weights_path: path } }
  const call = {
    method: 'POST',
    path: '/collective_rpc',
    body: reload,
    signal,
    deadlineMs: UPDATE_DEADLINE_MS,
  } as const
  const reply = await transport.call(call)
  if (reply.status !== 200) {
    throw failed(
      'POST /collective_rpc reload_weights: expected the new weights to be loaded',
      serverMessage(reply.text, peer),
      'see whether the server can read the folder; its model is in an unknown state: update it again, or restart it',
    )
  }
  const after = await control.tryFlush(frozen, signal)
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

  async function label(to: string): Promise<void> {
    const reply = await control.post('/update_weight_version', { new_version: to }, signal)
    const said = asRecord(jsonOf(peer, reply)).new_version
    if (said !== to)
      throw failed(`POST /update_weight_version: expected the label ${to}`, JSON.stringify(said), 'update it again')
  }

  function failed(expected: string, found: string, advice: string): RolloutError {
    return fault('ENGINE_ERROR', peer, `${expected}, found: ${found}; ${advice}`)
  }
}
