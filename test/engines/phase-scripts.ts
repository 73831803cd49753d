/**
 * What is played to a server to see how it is held, updated, flushed and put to sleep: one script an engine, right and wrong ways. Each ends with
 * checkpoint A loaded and the server open.
 */
export const PHASE_ENGINES = ['sglang', 'vllm'] as const
export type PhaseEngine = (typeof PHASE_ENGINES)[number]

/** Folders of two checkpoints, as the server sees them. */
export interface Checkpoints {
  readonly A: string
  readonly B: string
}

/** How a script speaks to a server; the player writes down what comes of it. */
export interface Talk {
  /** A call, answered and written down. */
  call(line: string, body?: object): Promise<void>
  /** Begins a generation, and waits for tokens of it. */
  begin(name: string, maxTokens?: number): Promise<void>
  /** Begins one that is held: no token comes. */
  beginHeld(name: string, maxTokens: number): Promise<void>
  /** Waits for more tokens of it. */
  more(name: string): Promise<void>
  abort(name: string): Promise<void>
  /** Waits for its end and writes it down: why, and the versions that its tokens say. */
  end(name: string): Promise<void>
}

export const SCRIPTS: Readonly<Record<PhaseEngine, (talk: Talk, checkpoints: Checkpoints) => Promise<void>>> = {
  async sglang({ call, begin, beginHeld, more, abort, end }, { A, B }) {
    const update = (path: string, version: unknown, flush = true): Promise<void> =>
      call('POST /update_weights_from_disk', {
        model_path: path,
        weight_version: version,
        flush_cache: flush,
        abort_all_requests: false,
      })
    // Held while quiet, and opened twice.
    await call('POST /pause_generation', { mode: 'sideways' })
    await call('POST /pause_generation', { mode: 'retract' })
    await call('GET /ready')
    await call('POST /pause_generation', { mode: 'abort' })
    await beginHeld('held', 4)
    await beginHeld('held and aborted', 4)
    await abort('held and aborted')
    await call('POST /pause_generation', { mode: 'abort' })
    await call('POST /flush_cache')
    await update(B, '1')
    await call('GET /model_info')
    await call('POST /continue_generation', {})
    await end('held')
    await end('held and aborted')
    await call('POST /continue_generation', {})
    await call('GET /ready')
    // From nowhere, and with a label that is no string.
    await update('/nowhere', '2')
    await call('GET /model_info')
    await update(A, 2)
    // Ended.
    await begin('ended')
    await call('POST /flush_cache')
    await call('POST /pause_generation', { mode: 'abort' })
    await end('ended')
    await call('POST /continue_generation', {})
    // Frozen, its cache given back, over new weights.
    await begin('frozen')
    await call('POST /pause_generation', { mode: 'retract' })
    await call('POST /flush_cache')
    await update(A, '2')
    await call('POST /continue_generation', {})
    await more('frozen')
    await abort('frozen')
    await end('frozen')
    // Frozen, then ended after all: one by its id, the other by a second pause.
    await begin('frozen and aborted')
    await begin('frozen and ended')
    await call('POST /pause_generation', { mode: 'retract' })
    await abort('frozen and aborted')
    await end('frozen and aborted')
    await call('POST /pause_generation', { mode: 'abort' })
    await end('frozen and ended')
    await call('POST /continue_generation', {})
    // Frozen with its cache: new weights are loaded, and the answer says that they are not.
    await begin('in place')
    await call('POST /pause_generation', { mode: 'in_place' })
    await call('POST /flush_cache')
    await update(B, '3')
    await call('GET /model_info')
    await call('POST /continue_generation', {})
    await more('in place')
    await abort('in place')
    await end('in place')
    await update(A, '4')
    await call('GET /model_info')
    // Without a memory saver it only believes that it gave something away.
    await call('POST /release_memory_occupation', {})
    await call('POST /resume_memory_occupation', {})
    await begin('afterwards', 8)
    await end('afterwards')
  },

  async vllm({ call, begin, beginHeld, more, abort, end }, { A, B }) {
    const reload = (path: string): Promise<void> =>
      call('POST /collective_rpc', { method: 'reload_weights', kwargs: { weights_path: path } })
    const label = (version: unknown): Promise<void> => call('POST /update_weight_version', { new_version: version })
    const flush = (query = ''): Promise<void> => call(`POST /reset_prefix_cache${query}`, {})
    // Held while quiet, and opened twice.
    await call('POST /pause?mode=sideways', {})
    await call('GET /is_paused')
    await call('POST /pause?mode=abort', {})
    await call('GET /is_paused')
    await beginHeld('held', 4)
    await beginHeld('held and aborted', 4)
    await abort('held and aborted')
    await call('POST /pause?mode=abort', {})
    await flush()
    await label('unfinished-update-to-1')
    await reload(B)
    await flush()
    await label('1')
    await call('GET /weight_info')
    await call('POST /resume', {})
    await end('held')
    await end('held and aborted')
    await call('POST /resume', {})
    await call('GET /is_paused')
    await label(2)
    await call('POST /collective_rpc', { method: 'nope' })
    // Ended.
    await begin('ended')
    await flush()
    await call('POST /pause?mode=abort', {})
    await end('ended')
    await call('POST /resume', {})
    // Frozen, and its cache given back, over new weights.
    await begin('frozen')
    await call('POST /pause?mode=keep', {})
    await call('GET /is_paused')
    await flush()
    await reload(A)
    await flush('?reset_running_requests=true')
    await label('2')
    await call('POST /resume', {})
    await more('frozen')
    await abort('frozen')
    await end('frozen')
    // Frozen, then ended after all: one by its id, the other by a second pause.
    await begin('frozen and aborted')
    await begin('frozen and ended')
    await call('POST /pause?mode=keep', {})
    await abort('frozen and aborted')
    await end('frozen and aborted')
    await call('POST /pause?mode=abort', {})
    await end('frozen and ended')
    await call('POST /resume', {})
    // Frozen with its cache: nothing minds.
    await begin('in place')
    await call('POST /pause?mode=keep&clear_cache=false', {})
    await flush()
    await reload(B)
    await label('3')
    await call('GET /weight_info')
    await call('POST /resume', {})
    await more('in place')
    await abort('in place')
    await end('in place')
    // Waited for.
    await begin('waited for', 200)
    await call('POST /pause?mode=wait', {})
    await end('waited for')
    await call('POST /resume', {})
    // Put to sleep and woken.
    await call('GET /is_sleeping')
    await call('POST /sleep?level=3', {})
    await call('POST /sleep?level=1&mode=abort', {})
    await call('GET /is_sleeping')
    await call('GET /is_paused')
    await call('POST /wake_up', {})
    await call('GET /is_sleeping')
    await call('GET /is_paused')
    // A reload that failed leaves a model that the next generation would die of; another reload mends it.
    await reload('/nowhere')
    await call('GET /weight_info')
    await reload(A)
    await flush()
    await label('4')
    await begin('afterwards', 8)
    await end('afterwards')
  },
}
