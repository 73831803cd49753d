/**
 * The statecharts, on their own: look at them, test them, or replace guards and hand them to createSupervisor.
 */
export {
  type BreakerOptions,
  type InstanceContext,
  type InstanceEmitted,
  type InstanceInput,
  type InstanceMachineEvent,
  instanceMachine,
  type LeaseOutcome,
} from './instance.ts'
export { type SupervisorContext, type SupervisorMachineEvent, supervisorMachine } from './supervisor.ts'
