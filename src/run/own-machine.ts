/**
 * An instance machine of the user's own, behind a wall: a guard that throws answers no, and is reported. XState would end the actor, and
 * with it the run (F17). What throws elsewhere in it ends that one instance: see `lose`.
 */
import type { instanceMachine } from '../../machines/index.ts'

type InstanceMachine = typeof instanceMachine
type Guards = NonNullable<Parameters<InstanceMachine['provide']>[0]['guards']>

export function walled(machine: InstanceMachine, onFault: (message: string, cause: unknown) => void): InstanceMachine {
  const safely =
    (name: string, guard: (...args: never[]) => boolean) =>
    (...args: never[]): boolean => {
      try {
        return guard(...args)
      } catch (cause) {
        onFault(`guard ${name} of the instance machine threw`, cause)
        return false
      }
    }
  // Those made by and(), or() and not() are objects in disguise; what they name is in the list itself.
  const own = Object.entries(machine.implementations.guards ?? {}).filter(
    ([, guard]) => typeof guard === 'function' && !('check' in guard),
  )
  return machine.provide({
    guards: Object.fromEntries(own.map(([name, guard]) => [name, safely(name, guard as never)])) as Guards,
  })
}
