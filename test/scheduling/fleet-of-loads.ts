/**
 * A fleet as a placement policy sees it, driven by random steps, with the ledger that keeps the policy up to date.
 */
import fc from 'fast-check'
import { createLedger } from '../../src/rollout/ledger.ts'
import type { InstanceLoad, Placeable, PlacementPolicy } from '../../src/scheduling/policy.ts'

export const sample: Placeable = {
  taskId: 't',
  sample: 0,
  kind: 'rollout',
  priority: 0,
  resumedTokens: 0,
  preferred: null,
}

export type Step =
  | { readonly type: 'add'; readonly limit: number; readonly weight: number }
  | { readonly type: 'remove' | 'release'; readonly which: number }
  | { readonly type: 'limit'; readonly which: number; readonly limit: number }
  | { readonly type: 'failures'; readonly which: number; readonly failures: number }
  | { readonly type: 'place' }

const which = fc.nat(1_000)
const limit = fc.integer({ min: 0, max: 4 })
export const steps: fc.Arbitrary<readonly Step[]> = fc.array(
  fc.oneof(
    {
      weight: 2,
      arbitrary: fc.record({ type: fc.constant('add' as const), limit, weight: fc.constantFrom(0.5, 1, 2) }),
    },
    { weight: 1, arbitrary: fc.record({ type: fc.constant('remove' as const), which }) },
    { weight: 4, arbitrary: fc.record({ type: fc.constant('release' as const), which }) },
    { weight: 2, arbitrary: fc.record({ type: fc.constant('limit' as const), which, limit }) },
    { weight: 1, arbitrary: fc.record({ type: fc.constant('failures' as const), which, failures: fc.nat(3) }) },
    { weight: 8, arbitrary: fc.constant({ type: 'place' as const }) },
  ),
  { minLength: 20, maxLength: 120, size: 'max' },
)

/** Plays the steps; `judge` is told of each pick, with the fleet in joining order, before the slot is taken. */
export function play(
  policy: PlacementPolicy,
  life: readonly Step[],
  judge: (picked: string | null, fleet: readonly InstanceLoad[]) => void,
  removed: (id: string) => void = () => {},
): void {
  const ledger = createLedger((account) => policy.changed(account))
  const fleet: InstanceLoad[] = []
  const leases: number[] = []
  let made = 0
  for (const step of life) {
    const at = 'which' in step && fleet.length > 0 ? step.which % fleet.length : -1
    if (step.type === 'add') {
      const account = ledger.add(`i${made++}`, step.weight)
      fleet.push(account)
      policy.add(account)
      ledger.setLimit(account.id, step.limit)
    } else if (step.type === 'place') {
      const picked = policy.pick(sample)
      judge(picked, fleet)
      if (picked !== null) leases.push(ledger.grant(picked).id)
    } else if (step.type === 'release') {
      const [lease] = leases.splice(step.which % Math.max(1, leases.length), 1)
      if (lease !== undefined) ledger.release(lease)
    } else if (at >= 0 && step.type === 'limit') ledger.setLimit(fleet[at]!.id, step.limit)
    else if (at >= 0 && step.type === 'failures') ledger.setFailures(fleet[at]!.id, step.failures)
    else if (at >= 0) {
      const [gone] = fleet.splice(at, 1)
      policy.remove(gone!.id)
      ledger.remove(gone!.id)
      removed(gone!.id)
    }
  }
}
