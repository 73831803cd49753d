/**
 * A supervisor on a simulated fleet under a virtual clock, for tests of the whole.
 */
import { createSupervisor, type InstanceOptions, type Supervisor, type SupervisorOptions } from '../src/index.ts'
import { type SimulatedServer, type SimulatedServerOptions, simulateServer } from '../src/testing/simulated-fleet.ts'
import { createVirtualClock, type VirtualClock } from '../src/testing/virtual-clock.ts'

export interface Simulation {
  readonly clock: VirtualClock
  readonly supervisor: Supervisor
  readonly servers: readonly SimulatedServer[]
  /** By id. */
  server(id: string): SimulatedServer
}

/** What the server is, and what the supervisor is told of it beyond its address. */
export type Simulated = Omit<SimulatedServerOptions, 'id'> & Pick<InstanceOptions, 'weight'> & { readonly id?: string }

/** Servers are called a, b, c and so on unless they say otherwise. */
export function simulate(fleet: readonly Simulated[], options: SupervisorOptions = {}): Simulation {
  const clock = createVirtualClock()
  const servers = fleet.map(({ weight: _, ...each }, index) =>
    simulateServer(clock, { id: String.fromCharCode(97 + index), ...each }),
  )
  const instances = servers.map(({ id, url, engine }, index) => ({
    id,
    url,
    engine,
    weight: fleet[index]!.weight ?? 1,
  }))
  const supervisor = createSupervisor({ instances, clock, ...options })
  return { clock, supervisor, servers, server: (id) => servers.find((each) => each.id === id)! }
}

/** The same, started. */
export async function startSimulation(
  fleet: readonly Simulated[],
  options: SupervisorOptions = {},
): Promise<Simulation> {
  const simulation = simulate(fleet, options)
  await simulation.clock.run(simulation.supervisor.start())
  return simulation
}

/** Closes, and says how many timers are left: none (I12). */
export async function closeSimulation({ clock, supervisor }: Simulation): Promise<number> {
  await clock.run(supervisor.close())
  return clock.pending
}
