/**
 * Everything a user of rollout-supervisor imports.
 */
export type { Clock } from './clock.ts'
export type {
  Capabilities,
  Chunk,
  DriverFactory,
  DriverOptions,
  EngineDriver,
  GenerateRequest,
  Load,
  PauseMode,
  Probe,
  Reclaimed,
  WeightUpdate,
  WireSpan,
} from './engines/driver.ts'
export { type EngineName, engineNames } from './engines/index.ts'
export { errorTable, RolloutError, type RolloutErrorCode, type RolloutErrorFields } from './errors.ts'
export { type ReadTasksOptions, readTasks } from './input/read-tasks.ts'
export type { InstanceOptions, SupervisorOptions, TimeoutOptions } from './options.ts'
export type { Problem } from './problems.ts'
export type { Batch, BatchGroup, Rejections, RejectReason } from './rollout/batch.ts'
export type {
  Completion,
  FinishReason,
  LogprobBasis,
  Outcome,
  Segment,
  SegmentEnd,
  VersionSpan,
} from './rollout/completion.ts'
export type { EpisodeCode, EpisodeOptions, EpisodeResult, EpisodeSession, TurnRequest } from './rollout/episode.ts'
export type { Group } from './rollout/group.ts'
export type { SavedCompletion, SavedSample, SavedState, SavedTask, SavedTokens } from './rollout/saved.ts'
export type { ChatMessage, Prompt, Sampling, Task, TaskKind } from './rollout/task.ts'
export type { Trajectory, Turn } from './rollout/trajectory.ts'
export type { BatchesOptions } from './run/batch-options.ts'
export type { InstanceUpdate, UpdateMode, UpdateStep } from './run/bring.ts'
export type { EvaluationStyle } from './run/evaluation.ts'
export type { BatchesView } from './run/feed.ts'
export type { RolloutOptions } from './run/on-policy.ts'
export type { InstancePause, PauseReport, PauseStep, PauseStyle } from './run/pause.ts'
export type { EvaluateOptions, PauseOptions, ResumeOptions, WeightUpdateOptions } from './run/phase-options.ts'
export {
  type ConnectedInstance,
  connectInstance,
  type ProbeInstanceOptions,
  probeInstance,
} from './run/probe-instance.ts'
export type { Rollout } from './run/rollout.ts'
export type { TaskSource } from './run/source.ts'
export type { UpdateReport } from './run/update.ts'
export type { FleetView, InstanceView } from './run/views.ts'
export type { BatchOrder } from './scheduling/batch-order.ts'
export { type PolicyOption, policyNames } from './scheduling/policies.ts'
export type { InstanceLoad, Placeable, PlacementPolicy } from './scheduling/policy.ts'
export type { RolloutEvent, TokensEvent } from './streams/task-events.ts'
export { type CompletionsOptions, createSupervisor, type Supervisor } from './supervisor.ts'
export type {
  EpisodeEvent,
  InstanceEvent,
  InstanceState,
  Phase,
  RunEvent,
  SampleEvent,
  SupervisorEvent,
  WaitReason,
} from './telemetry/events.ts'
export { type IdleReason, idleLabels, type Waiting } from './telemetry/idle.ts'
export type { Logger } from './telemetry/logger.ts'
export { createTimeline, type Timeline, type TimelineOptions, type TimelineView } from './telemetry/timeline.ts'
export type { TimelineMark } from './telemetry/timeline-marks.ts'
export type { PhaseSpan, PhaseTime, PhaseTimes } from './telemetry/timeline-phases.ts'
export type { Bar, BarKind, IdleSpan, InstanceTimeline, SlotTime, TimelineReport } from './telemetry/timeline-report.ts'
export { type TimelineCurve, type TimelineSvgOptions, timelineSvg } from './telemetry/timeline-svg.ts'
