/**
 * Engines, policies and machines that misbehave, by a seeded choice: what a user's own code or a bad server would do.
 */
import { instanceMachine } from '../../machines/index.ts'
import type { Clock } from '../../src/clock.ts'
import { type DriverFactory, type PlacementPolicy, RolloutError, type RolloutErrorCode } from '../../src/index.ts'
import { roundRobin } from '../../src/scheduling/round-robin.ts'
import type { Random } from '../../src/testing/random.ts'

const CODES: readonly RolloutErrorCode[] = ['BUSY', 'ENGINE_ERROR', 'INSTANCE_FAULT', 'REQUEST_REJECTED', 'TRANSPORT']

/** Refuses some requests, cuts some streams, ends some by an abort from outside, and throws what is no RolloutError. */
export function faultyEngine(engine: DriverFactory, random: Random, rate: number): DriverFactory {
  const unlucky = (): boolean => random.next() < rate
  const failure = (): Error => {
    const code = CODES[random.int(CODES.length)]!
    return random.int(6) === 0 ? new TypeError('a bug of the driver') : new RolloutError(code, 'an unlucky request')
  }
  return (options) => {
    const driver = engine(options)
    return {
      ...driver,
      async *generate(request, signal) {
        if (unlucky()) throw failure()
        const cut = unlucky() ? random.int(3) : -1
        const stop = unlucky() ? random.int(3) : -1
        const socket = new AbortController()
        const close = (): void => socket.abort()
        signal.addEventListener('abort', close, { once: true })
        let chunks = 0
        try {
          for await (const chunk of driver.generate(request, socket.signal)) {
            yield chunk
            if (chunk.finishReason !== null) return
            if (chunks === cut) throw failure()
            if (chunks === stop) await driver.abort(request.requestId).catch(() => {})
            chunks++
          }
        } finally {
          signal.removeEventListener('abort', close)
          socket.abort()
        }
      },
    }
  }
}

/** Closes the connection under some requests: they are sent again a moment later, if they may be. Tells of each that is. */
export function closingEngine(
  engine: DriverFactory,
  clock: Clock,
  random: Random,
  onRequest: () => void,
): DriverFactory {
  const moment = (signal: AbortSignal): Promise<void> =>
    new Promise((resolve, reject) => {
      const timer = clock.setTimeout(resolve, random.int(20))
      signal.addEventListener('abort', () => {
        clock.clearTimeout(timer)
        reject(new RolloutError('CANCELLED', 'the request was cancelled'))
      })
    })
  return (options) => {
    const driver = engine(options)
    return {
      ...driver,
      async *generate(request, signal) {
        if (random.int(8) === 0) {
          await moment(signal)
          const may = await request.maySendAgain!()
          if (!may || signal.aborted) throw new RolloutError('TRANSPORT', 'the connection was closed')
          onRequest()
        }
        yield* driver.generate(request, signal)
      },
    }
  }
}

/** Tells of every request before it is sent. */
export function gatedEngine(engine: DriverFactory, onRequest: () => void): DriverFactory {
  return (options) => {
    const driver = engine(options)
    return {
      ...driver,
      generate(request, signal) {
        onRequest()
        return driver.generate(request, signal)
      },
    }
  }
}

/**
 * Takes `"7 5"` for the prompt `[7, 5]`: makes it into token ids in its own time, now and then fails to, or has no such route at all. Where it
 * is plain it refuses minTokens.
 */
export function wordyEngine(
  engine: DriverFactory,
  clock: Clock,
  random: Random,
  { plain, mute }: { readonly plain: boolean; readonly mute: boolean },
): DriverFactory {
  const idsOf = (prompt: unknown): number[] => String(prompt).split(' ').map(Number)
  return (options) => {
    const driver = engine(options)
    return {
      ...driver,
      refuses: ({ sampling }) => (plain && sampling.minTokens > 0 ? 'expected minTokens 0' : null),
      generate(request, signal) {
        const { prompt } = request
        return driver.generate(typeof prompt === 'string' ? { ...request, prompt: idsOf(prompt) } : request, signal)
      },
      async tokenize(prompt, signal) {
        const failure = random.int(5)
        await new Promise<void>((resolve) => {
          const timer = clock.setTimeout(resolve, random.int(40))
          signal?.addEventListener('abort', () => {
            clock.clearTimeout(timer)
            resolve()
          })
        })
        await driver.load(signal)
        if (mute) throw new RolloutError('INSTANCE_FAULT', 'no such route', { status: 404 })
        if (failure === 0) throw new RolloutError(CODES[random.int(CODES.length)]!, 'an unlucky prompt')
        return idsOf(prompt)
      },
    }
  }
}

/** Right most of the time; else it throws, or names an instance that is full or unknown. `meddle` is called in the middle of each choice. */
export function faultyPolicy(random: Random, meddle: () => void): PlacementPolicy {
  const inner = roundRobin()
  const ids = new Set<string>(['nobody'])
  const mayThrow = (): void => {
    if (random.int(20) === 0) throw new Error('a bug of the policy')
  }
  return {
    name: 'faulty',
    add(instance) {
      inner.add(instance)
      ids.add(instance.id)
      mayThrow()
    },
    remove(id) {
      inner.remove(id)
      ids.delete(id)
      mayThrow()
    },
    changed(instance) {
      inner.changed(instance)
      mayThrow()
    },
    pick(sample) {
      mayThrow()
      const id = random.int(5) === 0 ? [...ids][random.int(ids.size)]! : inner.pick(sample)
      meddle()
      return id
    },
  }
}

/** An instance machine of the user's own, whose guard refuses now and then, or throws, and in which `meddle` is called. */
export function moodyMachine(random: Random, meddle: () => void): typeof instanceMachine {
  return instanceMachine.provide({
    guards: {
      takesWork: ({ context }) => {
        meddle()
        const mood = random.int(8)
        if (mood === 0) throw new Error('a bug of the guard')
        return context.leases < context.capacity && mood > 1
      },
    },
  })
}
