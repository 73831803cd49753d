/**
 * The servers that `run` works with, and the supervisor over them: embedded ones for --demo-fleet, else those of the settings, each asked
 * for its engine where nobody has said it.
 */
import {
  createSupervisor,
  type InstanceOptions,
  type Logger,
  probeInstance,
  RolloutError,
  type Supervisor,
} from '../index.ts'
import { isRecord } from '../input/line-fields.ts'
import { startEmbeddedFleet } from './embedded-fleet.ts'
import type { RunOptions } from './run-options.ts'

export interface RunFleet {
  readonly supervisor: Supervisor
  close(): Promise<void>
}

/** Fast enough to be over soon, slow enough to be watched. */
const DEMO = { engines: 2, capacity: 16, stepMs: 4, seed: 1 } as const

/**
 * Resolves when the fleet takes work.
 * @throws RolloutError NO_INSTANCES where no server answers
 */
export async function startRunFleet(
  options: RunOptions,
  logger: Logger | null,
  say: (words: string) => void,
  signal: AbortSignal,
): Promise<RunFleet> {
  const embedded = options.demoFleet ? await startEmbeddedFleet(DEMO) : null
  const closeEngines = async (): Promise<void> => embedded?.close()
  try {
    const instances = embedded?.instances ?? (await withEngines(options.instances, say, signal))
    const supervisor = createSupervisor({ ...options.supervisor, instances, ...(logger === null ? {} : { logger }) })
    const close = async (): Promise<void> => {
      await supervisor.close()
      await closeEngines()
    }
    // A start that is overtaken by its close ends at once.
    const stop = (): void => void supervisor.close()
    signal.addEventListener('abort', stop)
    try {
      await supervisor.start()
    } catch (error) {
      await close()
      throw error
    } finally {
      signal.removeEventListener('abort', stop)
    }
    return { supervisor, close }
  } catch (error) {
    await closeEngines()
    throw error
  }
}

/** A server that cannot be asked is taken for the same as the first that could. */
async function withEngines(
  instances: readonly InstanceOptions[],
  say: (words: string) => void,
  signal: AbortSignal,
): Promise<InstanceOptions[]> {
  const names = await Promise.all(instances.map((instance) => engineOf(instance, say, signal)))
  const usual = names.find((name) => name !== null) ?? null
  return instances.map((instance, index) => {
    const engine = names[index] ?? usual
    return engine === null || instance.engine !== undefined ? instance : { ...instance, engine }
  })
}

async function engineOf(
  instance: InstanceOptions,
  say: (words: string) => void,
  signal: AbortSignal,
): Promise<InstanceOptions['engine'] | null> {
  if (!isRecord(instance) || instance.engine !== undefined) return null
  try {
    const { engine } = await probeInstance(instance, { signal })
    return engine as NonNullable<InstanceOptions['engine']>
  } catch (error) {
    // Anything else is said when the fleet starts, where the server is asked again.
    if (RolloutError.isInstance(error) && error.code === 'WRONG_PROTOCOL') say(error.message)
    return null
  }
}
