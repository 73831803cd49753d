/**
 * The demo's servers and its supervisor, started together and closed together. The supervisor knows the servers only by their URLs, and nothing
 * of the accident that one of them will have.
 */
import { createSupervisor, type Logger, type Supervisor } from '../index.ts'
import type { TinyWeights } from '../testing/index.ts'
import { createDemoFault, type DemoFault } from './demo-fault.ts'
import type { DemoOptions } from './demo-options.ts'
import { startEmbeddedFleet } from './embedded-fleet.ts'

export interface DemoFleet {
  readonly supervisor: Supervisor
  /** Ids of the engines that were made slow. */
  readonly slow: readonly string[]
  readonly fault: DemoFault
  /** Tokens that the servers sampled, by their own count. */
  generated(): number
  close(): Promise<void>
}

export async function startDemoFleet(
  options: DemoOptions,
  weights: TinyWeights,
  logger: Logger | null,
  now: () => number,
): Promise<DemoFleet> {
  const { engines, capacity, stepMs, seed } = options
  const slow = (index: number): number => (index < options.slow ? options.slowFactor : 1)
  const fleet = await startEmbeddedFleet({ engines, capacity, stepMs, seed, weights, slow })
  // The last one: the first are those that may be slow.
  const [engine, instance] = [fleet.engines.at(-1)!, fleet.instances.at(-1)!.id]
  try {
    const supervisor = createSupervisor({
      instances: fleet.instances,
      policy: options.strict ? { name: 'round-robin', strict: true } : options.policy,
      ...(logger === null ? {} : { logger }),
    })
    return {
      supervisor,
      slow: fleet.instances.slice(0, options.slow).map(({ id }) => id),
      fault: createDemoFault({ instance, engine, weights, now }),
      generated: () => fleet.engines.reduce((sum, { counters }) => sum + counters.tokensGenerated, 0),
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
