/**
 * What `doctor` says about a server, in words: what each of its capabilities means for training, and what its absence costs.
 */
import type { Capabilities, Probe } from '../index.ts'
import type { Style } from './io.ts'
import { wrap } from './wrap.ts'

export interface DoctorFinding {
  readonly url: string
  /** Null where the server cannot be used. */
  readonly probe: Probe | null
  readonly fault: { readonly code: string; readonly message: string } | null
}

/** Good, or what to expect instead. */
interface Remark {
  readonly good: boolean
  readonly words: string
}

const good = (words: string): Remark => ({ good: true, words })
const bad = (words: string): Remark => ({ good: false, words })

/** What makes a server give its memory away, where one can. */
const RELEASE_FLAGS: Readonly<Record<string, string>> = {
  sglang: ': it needs --enable-memory-saver',
  vllm: ': it needs --enable-sleep-mode, and VLLM_SERVER_DEV_MODE=1',
}

const REMARKS: { readonly [K in keyof Capabilities]: (value: Capabilities[K], engine: string) => Remark } = {
  tokenIds: (has) =>
    has
      ? good('token ids in and out: an interrupted sample goes on where it was, on any server')
      : bad('token ids in and out: an interrupted sample begins again, and completions have text only'),
  logprobs: (basis) =>
    basis === 'none'
      ? bad('log-probabilities: completions have none')
      : basis === 'sampled'
        ? good('log-probabilities of the distribution that was sampled from')
        : bad(
            'log-probabilities after temperature: rollouts at another than 1 and 0 fail, unless those of before it are accepted (--logprob-basis raw)',
          ),
  abortById: (has) =>
    has
      ? good('ending one request by its id')
      : bad('ending one request by its id: only closing its connection ends it, and its slot counts as taken a while'),
  versions: (says) =>
    says === 'spans'
      ? good('the weights version of every token')
      : says === 'label'
        ? bad('the weights version of every token: one label for the server; tokens around an update are marked mixed')
        : bad('weights versions: it has none, and what you say of its weights is trusted'),
  updateWeights: (has) =>
    has ? good('new weights while it runs') : bad('new weights while it runs: they need a restart'),
  loadReport: (has) =>
    has
      ? good('a report of what it runs')
      : bad('a report of what it runs: requests of others are not noticed before an update'),
  pause: (modes) =>
    modes.includes('keep')
      ? good('being held over an update, with its requests ended or frozen')
      : modes.length > 0
        ? good('being held over an update, with its requests ended; frozen ones would keep the cache of old weights')
        : bad('being held over an update: requests of others that come meanwhile are not kept waiting'),
  release: (has, engine) => {
    const words = 'giving its GPU memory to a trainer on the same GPUs'
    return has ? good(words) : bad(`${words}${RELEASE_FLAGS[engine] ?? ''}`)
  },
}

/** A paragraph for each server, and a last line for all of them, in lines of so many columns. */
export function doctorText(findings: readonly DoctorFinding[], style: Style, columns: number): string {
  const usable = findings.filter(({ probe }) => probe !== null).length
  const sum = findings.length === 1 ? [] : [style(`${usable} of ${findings.length} servers can be used`, 'bold'), '']
  return [...findings.flatMap((finding) => [...paragraph(finding, style, columns), '']), ...sum].join('\n')
}

const NO_VOCABULARY = ': set --vocabulary-size, because some engines die of a token id beyond it'

function paragraph({ url, probe, fault }: DoctorFinding, style: Style, columns: number): string[] {
  const row = (name: string, words: string, paint: (name: string) => string = (plain) => plain): string =>
    `  ${paint(name)}${' '.repeat(NAME_COLUMNS - name.length)}${wrap(words, 2 + NAME_COLUMNS, columns)}`
  const list = (name: string, color: Parameters<Style>[1], all: readonly string[]): string[] =>
    all.map((words, index) => (index === 0 ? row(name, words, (plain) => style(plain, color)) : row('', words)))
  if (probe === null) {
    // The url stands above.
    const words = (fault?.message ?? 'no answer').replaceAll(/instance \S+ \(\S+\): |^\S+:\/\/\S+: /g, '')
    const [first, ...more] = words.split('\n')
    const head = `${style(url, 'bold')}  ${style('cannot be used', 'red')}`
    return [head, row('fault', `${first}`), ...more.map((line) => row('', line.trim()))]
  }
  const remarks = remarksOn(probe)
  const said = (isGood: boolean): string[] => remarks.filter((each) => each.good === isGood).map(({ words }) => words)
  const known = (value: number | null, unit: string): string =>
    value === null ? 'it does not say' : `${value.toLocaleString('en-US')} ${unit}`
  const warning = probe.vocabularySize === null && probe.capabilities.tokenIds ? NO_VOCABULARY : ''
  return [
    `${style(url, 'bold')}  ${style('can be used', 'green')}${probe.paused ? ' (paused: a run opens it)' : ''}`,
    row('engine', `${probe.engine} ${probe.engineVersion ?? '(it does not say which version)'}`),
    row('capacity', known(probe.capacity, 'sequences at once')),
    row('weights', probe.weightVersion === null ? 'no version' : `version ${JSON.stringify(probe.weightVersion)}`),
    row('vocabulary', `${known(probe.vocabularySize, 'token ids')}${warning}`),
    row('context', known(probe.contextLength, 'tokens')),
    ...list('works', 'green', said(true)),
    ...list('lacks', 'yellow', said(false)),
    ...list('advice', 'cyan', probe.advice),
  ]
}

const NAME_COLUMNS = 12

export function remarksOn({ engine, capabilities }: Probe): Remark[] {
  const on = <K extends keyof Capabilities>(name: K): Remark => REMARKS[name](capabilities[name], engine)
  return (Object.keys(REMARKS) as (keyof Capabilities)[]).map(on)
}
