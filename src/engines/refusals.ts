/**
 * What engines with a generation route of their own would never take.
 */
import { isTokenIds } from '../rollout/task.ts'
import type { GenerateRequest } from './driver.ts'

/** Chat messages have no template on a route that takes token ids or text. */
export function refusesChat({ prompt }: Pick<GenerateRequest, 'prompt'>): string | null {
  if (typeof prompt === 'string' || prompt.length === 0 || isTokenIds(prompt)) return null
  return 'expected token ids or text, found chat messages; turn them into ids with tokenize() first'
}
