/**
 * What tests, simulations and demos of rollouts need: a real HTTP engine around a tiny policy, a virtual clock, servers
 * without sockets, and the conformance suite for engines.
 */
export {
  type ConformanceAllowance,
  type ConformanceOptions,
  type ConformanceOutcome,
  type ConformanceReport,
  type ConformanceResult,
  checkConformance,
  conformanceChecks,
  type ScoreTokens,
} from './conformance.ts'
export {
  type EmbeddedEngine,
  type EmbeddedEngineOptions,
  type EngineCounters,
  type EngineProfile,
  type LogprobsMode,
  startEmbeddedEngine,
} from './embedded-engine.ts'
export type {
  AnswerOptions,
  EngineFaults,
  FaultCounters,
  FaultScript,
  RestartOptions,
  RouteFault,
  StreamFaultOptions,
} from './embedded-faults.ts'
export {
  createFidelityChecker,
  type FidelityChecker,
  type FidelityDifference,
  type FidelityOffender,
  type FidelityOptions,
  type FidelityReport,
} from './fidelity.ts'
export { createRandom, hash32, type Random } from './random.ts'
export {
  type ControlCall,
  type ControlFailure,
  logprobOf,
  type SimulatedServer,
  type SimulatedServerOptions,
  simulateServer,
  tokenOf,
} from './simulated-fleet.ts'
export {
  createTinyWeights,
  EOS,
  loadWeights,
  saveWeights,
  scoreTokens,
  type TinyWeights,
  textOf,
  tokenDistribution,
  tokensOf,
  VOCABULARY_SIZE,
} from './tiny-policy.ts'
export { createVirtualClock, type VirtualClock } from './virtual-clock.ts'
