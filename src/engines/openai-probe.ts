/**
 * What an OpenAI-compatible server says about itself: the names of its models. Whether it takes text, and token ids, it has to show: it is
 * asked once for one token after one token id.
 */
import type { Probe } from './driver.ts'
import { fault, statusFault } from './faults.ts'
import { asRecord, asRecords, asText, positive } from './json.ts'
import { COMPLETIONS, type OpenaiWays } from './openai-request.ts'
import { jsonOf, type Reply, type Transport } from './transport.ts'

export interface OpenaiProbe {
  readonly probe: Probe
  readonly ways: OpenaiWays
  /** False where the server was too busy to show what it can do. */
  readonly certain: boolean
}

/** Models are named in a message up to this number. */
const NAMED_MODELS = 10

/** `known` are the ways of an earlier probe, which need not be found again. */
export async function probeOpenai(
  transport: Transport,
  model: string | undefined,
  known: OpenaiWays | null,
  signal: AbortSignal | undefined,
): Promise<OpenaiProbe> {
  const { peer } = transport
  const reply = await transport.call({ method: 'GET', path: '/v1/models', signal })
  const models = recognise(transport, reply)
  const names = models.map(({ id }) => asText(id)).filter((id) => id !== null)
  const chosen = model ?? names[0]
  if (chosen === undefined || !names.includes(chosen)) {
    const listed = names.length === 0 ? 'none' : names.slice(0, NAMED_MODELS).join(', ')
    const expected = chosen === undefined ? 'a model' : `the model ${JSON.stringify(chosen)}`
    throw fault('INSTANCE_FAULT', peer, `GET /v1/models: expected ${expected}, found ${listed}; set the option model`)
  }
  const found =
    known?.model === chosen ? { ways: known, certain: true } : await findWays(transport, { model: chosen, signal })
  const advice: string[] = []
  if (model === undefined && names.length > 1)
    advice.push(`set the option model: the server has ${names.length} models, and ${chosen} is the first of them`)
  if (!found.ways.tokenIds) {
    advice.push(
      'use the engine of the server itself, if it is SGLang, vLLM or llama-server: over this protocol nobody sees its token ids, so that an interrupted sample begins again and none has log-probabilities',
    )
  }
  return {
    ...found,
    probe: {
      engine: 'openai',
      engineVersion: null,
      capacity: null,
      weightVersion: null,
      vocabularySize: null,
      contextLength: positive(models.find(({ id }) => id === chosen)?.max_model_len),
      paused: false,
      capabilities: {
        tokenIds: found.ways.tokenIds,
        // Nothing says whether they are of the distribution before or after temperature.
        logprobs: found.ways.tokenIds ? 'raw' : 'none',
        abortById: false,
        versions: 'none',
        updateWeights: false,
        loadReport: false,
        pause: [],
        release: false,
      },
      advice,
    },
  }
}

function recognise({ peer }: Transport, reply: Reply): readonly Readonly<Record<string, unknown>>[] {
  const { status } = reply
  const data = status === 200 ? asRecord(jsonOf(peer, reply)).data : null
  if (Array.isArray(data)) return asRecords(data)
  if (status !== 200 && status !== 404) throw statusFault(peer, reply.what, status, reply.headers, reply.text)
  throw fault(
    'WRONG_PROTOCOL',
    peer,
    `GET /v1/models: expected an OpenAI-compatible server's list of models, found status ${status} and none; correct the url (without /v1)`,
  )
}

async function findWays(
  transport: Transport,
  { model, signal }: { readonly model: string; readonly signal: AbortSignal | undefined },
): Promise<{ readonly ways: OpenaiWays; readonly certain: boolean }> {
  const ids = [1]
  const body = { model, prompt: ids, max_tokens: 1, temperature: 1, return_token_ids: true, logprobs: 1 }
  const reply = await transport.call({ method: 'POST', path: COMPLETIONS, body, signal })
  const { status } = reply
  const choice = status === 200 ? asRecords(asRecord(jsonOf(transport.peer, reply)).choices)[0] : undefined
  const took =
    asRecord(choice).prompt_token_ids ??
    (status === 200 ? asRecord(jsonOf(transport.peer, reply)).prompt_token_ids : null)
  const gave = asRecord(choice).token_ids
  const { token_logprobs: logprobs } = asRecord(asRecord(choice).logprobs)
  const tokenIds = Array.isArray(took) && took.length === 1 && took[0] === ids[0] && isOne(gave) && isOne(logprobs)
  const missing = status === 404 || status === 405 || status === 501
  return {
    ways: { model, completions: !missing, tokenIds },
    certain: status === 200 || missing || status === 400 || status === 422,
  }
}

function isOne(list: unknown): boolean {
  return Array.isArray(list) && list.length === 1 && typeof list[0] === 'number'
}
