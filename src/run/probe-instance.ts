/**
 * One server outside any run: finds out which engine it is, and makes its driver.
 */
import { type Clock, realClock } from '../clock.ts'
import type { DriverFactory, EngineDriver, Probe } from '../engines/driver.ts'
import { engineFactory, engineNames } from '../engines/index.ts'
import { messageOf, RolloutError } from '../errors.ts'
import { checkInstance, type InstanceOptions } from '../options.ts'

/** Options of probeInstance and connectInstance. */
export interface ProbeInstanceOptions {
  /** Ends the probe; what it throws then is the signal's reason where that is a RolloutError. */
  readonly signal?: AbortSignal
  /** @default the process's monotonic clock */
  readonly clock?: Clock
}

/** The open driver of a server, and what the server said of itself. */
export interface ConnectedInstance {
  /** To be closed by whoever asked for it. */
  readonly driver: EngineDriver
  readonly probe: Probe
}

/**
 * Asks one server what it is, without a supervisor. Where `engine` is left out, the engines are tried in the order of `engineNames`
 * until the server answers in the protocol of one. Every call has the driver's own deadline (10 s); a signal can make it shorter.
 * @throws RolloutError INVALID_OPTIONS, or what was wrong with the server: UNREACHABLE, WRONG_PROTOCOL, INSTANCE_FAULT and the like
 */
export async function probeInstance(options: InstanceOptions, given: ProbeInstanceOptions = {}): Promise<Probe> {
  const { driver, probe } = await connectInstance(options, given)
  await driver.close()
  return probe
}

/**
 * As probeInstance, and leaves the driver open: for programs that speak with one server, such as checkConformance of
 * `rollout-supervisor/testing`.
 */
export async function connectInstance(
  options: InstanceOptions,
  given: ProbeInstanceOptions = {},
): Promise<ConnectedInstance> {
  const { signal, clock = realClock } = given
  const { id, url, apiKey, model, createDriver } = checkInstance(options)
  const ask = async (factory: DriverFactory): Promise<ConnectedInstance> => {
    const driver = factory({ id, url, apiKey, model, clock })
    try {
      return { driver, probe: await driver.probe(signal) }
    } catch (error) {
      await driver.close()
      throw error
    }
  }
  if (options.engine !== undefined) return ask(createDriver)
  const errors: RolloutError[] = []
  for (const name of engineNames) {
    try {
      return await ask(engineFactory(name))
    } catch (error) {
      // A server that is silent, or refuses the key, does so in every protocol.
      if (!RolloutError.isInstance(error) || error.code !== 'WRONG_PROTOCOL') throw error
      errors.push(error)
    }
  }
  const tried = errors.map((error, index) => `\n  ${engineNames[index]}: ${messageOf(error)}`).join('')
  throw new RolloutError(
    'WRONG_PROTOCOL',
    `instance ${id} (${url}): expected one of the engines ${engineNames.join(', ')}, found none of them:${tried}`,
    { instance: id, errors },
  )
}
