/**
 * Fleets whose instances differ: a sample that the instance of its turn cannot run waits in a track of the queue for those that can, and holds
 * up nobody else (I7). There are as many tracks as there are ways to differ, and none while every instance can run everything. Each has a
 * policy of its own over its instances.
 */
import type { Account } from '../rollout/ledger.ts'
import type { LiveTask, Sample } from '../rollout/sample.ts'
import { leastRequest } from '../scheduling/least-request.ts'
import { createPolicy, isPolicy } from '../scheduling/policies.ts'
import { hasRoom, type Placeable, type PlacementPolicy } from '../scheduling/policy.ts'
import { formFor, kindOf, lacksOf, misfitOf } from './misfit.ts'
import type { Instance, Run } from './run.ts'
import { settle } from './settle.ts'
import { wake } from './wake.ts'

/** Track n of the queue is number n - 1 of the list; track 0 is for all instances. */
export interface Track {
  /** Tasks of the same key fit the same instances. */
  readonly key: string
  readonly members: ReadonlyMap<string, Instance>
  readonly policy: PlacementPolicy
}

/** Moves a sample to the track of the instances that can run it; where there are none, it fails. */
export function divert(run: Run, sample: Sample): void {
  const { task } = sample
  const key = keyOf(run, task)
  let index = run.tracks.findIndex((track) => track.key === key)
  if (index < 0) {
    const members = [...run.instances.values()].filter(
      (instance) => instance.probe !== null && formFor(task, instance) !== null,
    )
    if (members.length === 0) {
      settle(run, sample, 'failed', misfitOf(run, task))
      return
    }
    index = run.tracks.push(createTrack(run, key, members)) - 1
  }
  run.queue.divert(sample, index + 1)
}

/** Vocabularies count as far as they can tell tasks apart: by how many of them the largest id is outside. */
function keyOf(run: Run, { needs, spec, promptTokenIds, maxTokenId }: LiveTask): string {
  const sizes = new Set([...run.instances.values()].map(({ vocabulary }) => vocabulary))
  const outside = [...sizes].filter((size) => maxTokenId >= size).length
  return `${kindOf(spec.prompt)} ${promptTokenIds !== null} ${needs} ${outside}`
}

function createTrack(run: Run, key: string, instances: readonly Instance[]): Track {
  const members = new Map(instances.map((instance) => [instance.id, instance]))
  const { policy: option } = run.options
  const policy =
    typeof option === 'object' && isPolicy(option) ? corrected(run, members) : createPolicy(option, () => {})
  for (const { account } of instances) policy.add(account)
  return { key, members, policy }
}

/** A user's own policy is told which instances fit; where it picks another all the same, least-request over those decides. */
function corrected(run: Run, members: ReadonlyMap<string, Instance>): PlacementPolicy {
  const spare = leastRequest()
  const fits = (id: string): boolean => members.has(id)
  return {
    ...spare,
    pick(sample) {
      const id = run.policy.pick({ ...sample, fits })
      const member = id === null ? undefined : members.get(id)
      return id === null || (member !== undefined && hasRoom(member.account)) ? id : spare.pick(sample)
    },
  }
}

/** The instance for a sample, of those that its track has. */
export function pick(run: Run, sample: Sample, placeable: Placeable): string | null {
  return sample.track === 0 ? run.policy.pick(placeable) : run.tracks[sample.track - 1]!.policy.pick(placeable)
}

/** Keeps the policies up to date with the ledger. */
export function changed(run: Run, account: Account): void {
  run.policy.changed(account)
  for (const { members, policy } of run.tracks) if (members.has(account.id)) policy.changed(account)
}

/** Notes what a probe said of an instance. Where that is news, samples in tracks are looked at anew. */
export function learn(run: Run, instance: Instance): void {
  learnVocabulary(run)
  instance.tokenizes = true
  instance.lacks = lacksOf(instance)
  for (const each of run.instances.values()) {
    each.vocabulary =
      each.spec.vocabularySize ?? each.probe?.vocabularySize ?? run.smallestVocabulary ?? Number.POSITIVE_INFINITY
  }
  const { ids, text, chat } = instance.lacks
  const kind = `${ids} ${text} ${chat} ${instance.vocabulary}`
  if (kind === instance.kind) return
  instance.kind = kind
  regroup(run)
}

/** An instance has left: samples that only it could run are looked at anew. */
export function forget(run: Run): void {
  learnVocabulary(run)
  regroup(run)
}

/** Where a server says nothing, it is taken to have the smallest vocabulary that is known: too large an id was seen to end servers. */
function learnVocabulary(run: Run): void {
  let smallest = Number.POSITIVE_INFINITY
  let largest = 0
  for (const { spec, probe } of run.instances.values()) {
    const size = spec.vocabularySize ?? probe?.vocabularySize ?? null
    if (size === null) continue
    smallest = Math.min(smallest, size)
    largest = Math.max(largest, size)
  }
  run.smallestVocabulary = largest === 0 ? null : smallest
  run.vocabularySize = largest === 0 ? null : largest
}

function regroup(run: Run): void {
  if (run.tracks.length === 0) return
  run.tracks.length = 0
  run.queue.merge()
  wake(run, 'queue.changed')
}
