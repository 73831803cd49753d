// Records what a real llama-server answers, for the unit tests to replay: node record-llama-server.mjs URL
// Writes test/engines/fixtures/llama-server.json. Plain fetch, no driver code: a recording must not depend on what it is to test.
import { writeFileSync } from 'node:fs'

const [url = 'http://127.0.0.1:8201'] = process.argv.slice(2)
const file = new URL('../../engines/fixtures/llama-server.json', import.meta.url)

async function send(method, path, body) {
  const headers = body === undefined ? {} : { 'content-type': 'application/json' }
  const response = await fetch(url + path, { method, headers, body: body === undefined ? null : JSON.stringify(body) })
  return {
    method,
    path,
    status: response.status,
    type: response.headers.get('content-type'),
    body: await response.text(),
  }
}
const get = (path) => send('GET', path)
const post = (path, body) => send('POST', path, body)
const answer = async (path, body) => JSON.parse((await post(path, body)).body)

const { tokens: ids } = await answer('/tokenize', { content: 'The capital of France is', add_special: true })
const messages = [{ role: 'user', content: 'Say hi.' }]
const chat = (await answer('/apply-template', { messages })).prompt
const { tokens: wide } = await answer('/tokenize', {
  content: `Repeat: ${'\u{1F469} \u{10348} '.repeat(12)}`,
  add_special: true,
})
const greedy = { temperature: 0, top_k: 0, top_p: 1, min_p: 0, n_probs: 1, return_tokens: true, stream: true }
const complete = (more) => post('/completion', { prompt: ids, n_predict: 6, ...greedy, ...more })
const { content } = await answer('/completion', { ...greedy, prompt: ids, n_predict: 6, stream: false })

/** The model's template is longer than all the rest, and nobody reads it. */
function withoutTemplate(reply) {
  const { chat_template: _, ...props } = JSON.parse(reply.body)
  return { ...reply, body: JSON.stringify(props) }
}

const recorded = {
  health: await get('/health'),
  props: withoutTemplate(await get('/props')),
  models: await get('/v1/models'),
  metrics: await get('/metrics'),
  slots: await get('/slots'),
  tokenize: await post('/tokenize', { content: 'The capital', add_special: true, parse_special: true }),
  template: await post('/apply-template', { messages }),
  complete: await complete({}),
  completeWarm: await complete({ temperature: 0.7, samplers: ['temperature'], seed: 3, post_sampling_probs: true }),
  completeWord: await complete({ stop: [content.slice(3, 8)] }),
  completeEos: await complete({ prompt: chat, n_predict: 200 }),
  /** Some tokens end inside a character: the server counts them and sends no event for them. */
  completeWide: await complete({ prompt: wide, n_predict: 8 }),
  completeTooLong: await complete({ prompt: Array(5000).fill(5) }),
  completeBadId: await complete({ prompt: [9_999_999] }),
  completeEmpty: await complete({ prompt: [] }),
  completeNothing: await post('/completion', { stream: true }),
  completeNegative: await complete({ n_predict: -5 }),
  notFound: await get('/nothing'),
  openaiText: await post('/v1/completions', { prompt: 'The capital', max_tokens: 5, temperature: 0, stream: true }),
  openaiChat: await post('/v1/chat/completions', { messages, max_tokens: 5, temperature: 0, stream: true }),
}
writeFileSync(file, `${JSON.stringify(recorded, null, 1)}\n`)
for (const [name, { status, body }] of Object.entries(recorded)) console.log(status, name, body.length)
