/**
 * The demo's servers and its supervisor, started together and closed together. The supervisor knows the servers only by their URLs.
 */
import { createSupervisor, type Logger, type Supervisor } from '../index.ts'
import type { TinyWeights } from '../testing/index.ts'
import type { DemoOptions } from './demo-options.ts'
import { startEmbeddedFleet } from './embedded-fleet.ts'

export interface DemoFleet {
  readonly supervisor: Supervisor
  /** Ids of the engines that were made slow. */
  readonly slow: readonly string[]
  close(): Promise<void>
}

export async function startDemoFleet(
  options: DemoOptions,
  weights: TinyWeights,
  logger: Logger | null,
): Promise<DemoFleet> {
  const { engines, capacity, stepMs, seed } = options
  const slow = (index: number): number => (index < options.slow ? options.slowFactor : 1)
  const fleet = await startEmbeddedFleet({ engines, capacity, stepMs, seed, weights, slow })
  try {
    const supervisor = createSupervisor({
      instances: fleet.instances,
      policy: options.strict ? { name: 'round-robin', strict: true } : options.policy,
      ...(logger === null ? {} : { logger }),
    })
    return {
      supervisor,
      slow: fleet.instances.slice(0, options.slow).map(({ id }) => id),
      async close() {
        try {
          await supervisor.close()
        } finally {
          await fleet.close()
        }
      },
    }
  } catch (error) {
    await fleet.close()
    throw error
  }
}
